#include "telemetry/hotness/region_tally.h"

#include <algorithm>

#include "base/units.h"

namespace tidepool::telemetry {
namespace {

std::uint32_t saturating_add(std::uint32_t a, std::uint64_t b) {
  return static_cast<std::uint32_t>(std::min<std::uint64_t>(0xffffffffu, a + b));
}

// What of `count` falls on `part` of `whole` pages, rounded so that something stays something.
std::uint64_t portion(std::uint64_t count, std::uint64_t part, std::uint64_t whole) {
  return (count * part + whole - 1) / whole;
}

}  // namespace

void RegionTally::set_memory(const MemoryList& memory) {
  std::map<policy::ObjectId, std::vector<Region>> next;
  for (const auto& of : memory) {
    for (const TrackedObject& object : of->objects) {
      const std::uint64_t regions = (object.pages.value + kPagesPerHugePage - 1) / kPagesPerHugePage;
      const auto known = objects_.find(object.id);
      std::vector<Region> counts = known == objects_.end() ? std::vector<Region>() : std::move(known->second);
      counts.resize(regions);
      next.emplace(object.id, std::move(counts));
    }
  }
  objects_ = std::move(next);
}

void RegionTally::add(const policy::AccessSample& sample) {
  if (!policy::well_formed(sample)) {
    ++malformed_;
    return;
  }
  const auto known = objects_.find(sample.object);
  const std::uint64_t first = sample.pages.first.value / kPagesPerHugePage;
  const std::uint64_t last = (sample.pages.end() - 1) / kPagesPerHugePage;
  if (known == objects_.end() || last >= known->second.size()) {
    ++unknown_;
    return;
  }
  for (std::uint64_t r = first; r <= last; ++r) {
    const std::uint64_t from = std::max(sample.pages.first.value, r * kPagesPerHugePage);
    const std::uint64_t to = std::min(sample.pages.end(), (r + 1) * kPagesPerHugePage);
    const std::uint64_t used = portion(sample.used, to - from, sample.pages.count);
    Region& region = known->second[r];
    if (sample.far) {
      region.refaults = saturating_add(region.refaults, used);
    } else if (sample.evidence == policy::Evidence::kEvents) {
      region.events = saturating_add(region.events, used);
    } else {
      region.watched = saturating_add(region.watched, portion(sample.watched, to - from, sample.pages.count));
      region.used = saturating_add(region.used, used);
    }
  }
}

std::vector<RegionTally::Region> RegionTally::take(const policy::ObjectId& object) {
  const auto known = objects_.find(object);
  if (known == objects_.end()) return {};
  std::vector<Region> counts(known->second.size());
  counts.swap(known->second);
  return counts;
}

}  // namespace tidepool::telemetry
