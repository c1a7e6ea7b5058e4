#include "daemon/kernel_tier/swap_regions.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace tidepool::daemon {
namespace {

constexpr std::uint64_t kRegionBytes = policy::kRegionPages * kPageSize;
constexpr std::uint64_t kUnitBytes = policy::kUnitPages * kPageSize;
constexpr std::size_t kTreeNode = 48;  // of by_start_, about

constexpr std::uint64_t region_start(std::uint64_t address) {
  return address & ~(kRegionBytes - 1);
}

// Adds to `out` what of `range` is in the mappings.
void cut(const std::vector<AddressRange>& mappings, AddressRange range, std::vector<AddressRange>& out) {
  auto at = std::ranges::upper_bound(mappings, range.start, {}, &AddressRange::end);
  for (; at != mappings.end() && at->start < range.end; ++at) {
    const AddressRange part{std::max(at->start, range.start), std::min(at->end, range.end)};
    if (!out.empty() && out.back().end == part.start) {
      out.back().end = part.end;
    } else {
      out.push_back(part);
    }
  }
}

}  // namespace

std::bitset<policy::kRegionPages> pages_of(policy::UnitMask units) {
  std::bitset<policy::kRegionPages> pages;
  for (std::uint32_t page = 0; page < policy::kRegionPages; ++page)
    pages[page] = (units >> (page / policy::kUnitPages)) & 1;
  return pages;
}

bool SwapRegions::set_mappings(std::vector<AddressRange> mappings) {
  if (mappings == mappings_) return false;
  mappings_ = std::move(mappings);
  mapped_ = Bytes{};
  left_out_ = false;
  for (AddressRange& mapping : mappings_) {
    for (std::uint64_t start = region_start(mapping.start); start < mapping.end; start += kRegionBytes) {
      if (by_start_.contains(start)) continue;
      if (regions_.size() == kMostRegions) {
        mapping.end = std::max(mapping.start, start);
        left_out_ = true;
        break;
      }
      by_start_.emplace(start, count());
      regions_.push_back({start, 0, 0, {}});
    }
    mapped_ += Bytes{mapping.size()};
  }
  std::erase_if(mappings_, [](const AddressRange& mapping) { return mapping.empty(); });
  return true;
}

std::uint32_t SwapRegions::run_from(std::uint32_t first, std::uint32_t most) const {
  std::uint32_t length = 0;
  while (length < most && first + length < count() &&
         regions_[first + length].start == regions_[first].start + length * kRegionBytes)
    ++length;
  return length;
}

std::vector<AddressRange> SwapRegions::parts(std::uint32_t first, std::uint32_t count) const {
  std::vector<AddressRange> parts;
  const std::uint64_t start = regions_[first].start;
  cut(mappings_, {start, start + count * kRegionBytes}, parts);
  return parts;
}

std::vector<AddressRange> SwapRegions::unit_parts(std::uint32_t region, policy::UnitMask units) const {
  std::vector<AddressRange> parts;
  const std::uint64_t start = regions_[region].start;
  for (std::uint32_t unit = 0; unit < policy::kUnits; ++unit) {
    if (((units >> unit) & 1) != 0) cut(mappings_, {start + unit * kUnitBytes, start + (unit + 1) * kUnitBytes}, parts);
  }
  return parts;
}

std::vector<telemetry::TrackedSegment> SwapRegions::segments(std::uint32_t object) const {
  std::vector<telemetry::TrackedSegment> segments;
  for (const AddressRange& mapping : mappings_) {
    for (std::uint64_t start = mapping.start; start < mapping.end;) {
      const std::uint64_t end = std::min(mapping.end, region_start(start) + kRegionBytes);
      const std::uint64_t number = by_start_.at(region_start(start));
      const PageIndex first{number * policy::kRegionPages + ((start & (kRegionBytes - 1)) >> kPageShift)};
      telemetry::TrackedSegment* last = segments.empty() ? nullptr : &segments.back();
      if (last != nullptr && last->addresses.end == start && last->pages().end() == first.value) {
        last->addresses.end = end;
      } else {
        segments.push_back({{start, end}, object, first});
      }
      start = end;
    }
  }
  return segments;
}

std::uint32_t SwapRegions::take(std::uint32_t number, const RegionLook& look) {
  Region& region = regions_[number];
  const auto back = static_cast<std::uint32_t>((region.swapped & look.present).count());
  constexpr std::uint32_t kMost = std::numeric_limits<std::uint16_t>::max();
  region.refaults = static_cast<std::uint16_t>(std::min(kMost, region.refaults + back));
  resident_ += look.present.count() - region.resident;
  far_ += look.swapped.count() - region.swapped.count();
  region.resident = static_cast<std::uint16_t>(look.present.count());
  region.swapped = look.swapped;
  return back;
}

void SwapRegions::bring_home(std::uint32_t number, const std::bitset<policy::kRegionPages>& pages) {
  Region& region = regions_[number];
  far_ -= (region.swapped & pages).count();
  region.swapped &= ~pages;
}

std::uint16_t SwapRegions::take_refaults(std::uint32_t region) {
  return std::exchange(regions_[region].refaults, std::uint16_t{0});
}

void SwapRegions::clear() {
  for (std::uint32_t region = 0; region < count(); ++region) take(region, {});
  set_mappings({});
}

Bytes SwapRegions::footprint() const {
  return Bytes{regions_.capacity() * sizeof(Region) + by_start_.size() * kTreeNode +
               mappings_.capacity() * sizeof(AddressRange)};
}

}  // namespace tidepool::daemon
