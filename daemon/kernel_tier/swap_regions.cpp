#include "daemon/kernel_tier/swap_regions.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace tidepool::daemon {
namespace {

constexpr std::uint64_t kRegionBytes = policy::kRegionPages * kPageSize;
constexpr std::size_t kTreeNode = 48;  // of by_start_, about

constexpr std::uint64_t region_start(std::uint64_t address) {
  return address & ~(kRegionBytes - 1);
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
      regions_.emplace_back();
    }
    mapped_ += Bytes{mapping.size()};
  }
  std::erase_if(mappings_, [](const AddressRange& mapping) { return mapping.empty(); });
  pieces_.clear();
  for (const telemetry::TrackedSegment& segment : segments(0)) pieces_.push_back({segment.addresses, segment.first});
  std::ranges::sort(pieces_, {}, [](const SwapPiece& piece) { return piece.first.value; });
  return true;
}

bool SwapRegions::set_pieces(std::vector<SwapPiece> pieces, PageCount pages) {
  const std::uint64_t most = std::uint64_t{kMostRegions} * policy::kRegionPages;
  left_out_ = pages.value > most;
  const auto wanted = (std::min(pages.value, most) + policy::kRegionPages - 1) / policy::kRegionPages;
  if (wanted > regions_.size()) regions_.resize(wanted);
  std::erase_if(pieces,
                [&](const SwapPiece& piece) { return piece.first.value + piece.pages() > this->pages().value; });
  std::ranges::sort(pieces, {}, [](const SwapPiece& piece) { return piece.first.value; });
  // Whoever gave a number twice has its later memory left alone.
  std::uint64_t end = 0;
  std::erase_if(pieces, [&](const SwapPiece& piece) {
    if (piece.first.value < end) return true;
    end = piece.first.value + piece.pages();
    return false;
  });
  if (pieces == pieces_) return false;
  pieces_ = std::move(pieces);
  mapped_ = Bytes{};
  for (const SwapPiece& piece : pieces_) mapped_ += Bytes{piece.addresses.size()};
  return true;
}

// Adds to `out` the memory of the pages [first, end).
void SwapRegions::cut(std::uint64_t first, std::uint64_t end, std::vector<SwapPiece>& out) const {
  const auto behind = [](const SwapPiece& piece) { return piece.first.value + piece.pages(); };
  auto at = std::ranges::upper_bound(pieces_, first, {}, behind);
  for (; at != pieces_.end() && at->first.value < end; ++at) {
    const std::uint64_t from = std::max(at->first.value, first);
    const std::uint64_t to = std::min(behind(*at), end);
    const AddressRange addresses{at->address_of(from), at->address_of(to)};
    SwapPiece* last = out.empty() ? nullptr : &out.back();
    if (last != nullptr && last->addresses.end == addresses.start && behind(*last) == from) {
      last->addresses.end = addresses.end;
    } else {
      out.push_back({addresses, PageIndex{from}});
    }
  }
}

std::vector<SwapPiece> SwapRegions::parts(std::uint32_t first, std::uint32_t count) const {
  std::vector<SwapPiece> parts;
  cut(std::uint64_t{first} * policy::kRegionPages, (std::uint64_t{first} + count) * policy::kRegionPages, parts);
  return parts;
}

std::vector<SwapPiece> SwapRegions::unit_parts(std::uint32_t region, policy::UnitMask units) const {
  std::vector<SwapPiece> parts;
  const std::uint64_t start = std::uint64_t{region} * policy::kRegionPages;
  for (std::uint64_t unit = 0; unit < policy::kUnits; ++unit) {
    if (((units >> unit) & 1) != 0)
      cut(start + unit * policy::kUnitPages, start + (unit + 1) * policy::kUnitPages, parts);
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
  mappings_.clear();
  pieces_.clear();
  mapped_ = Bytes{};
}

Bytes SwapRegions::footprint() const {
  return Bytes{regions_.capacity() * sizeof(Region) + by_start_.size() * kTreeNode +
               mappings_.capacity() * sizeof(AddressRange) + pieces_.capacity() * sizeof(SwapPiece)};
}

}  // namespace tidepool::daemon
