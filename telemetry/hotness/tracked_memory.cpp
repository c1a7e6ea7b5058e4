#include "telemetry/hotness/tracked_memory.h"

#include <algorithm>

namespace tidepool::telemetry {

const TrackedSegment* TrackedSpace::at(std::uint64_t address) const {
  const auto after =
      std::ranges::upper_bound(segments, address, {}, [](const TrackedSegment& s) { return s.addresses.start; });
  if (after == segments.begin()) return nullptr;
  const TrackedSegment& candidate = *std::prev(after);
  return candidate.addresses.contains(address) ? &candidate : nullptr;
}

std::vector<AddressRange> TrackedSpace::ranges() const {
  std::vector<AddressRange> ranges;
  for (const TrackedSegment& segment : segments) {
    if (!ranges.empty() && ranges.back().end == segment.addresses.start) {
      ranges.back().end = segment.addresses.end;
    } else {
      ranges.push_back(segment.addresses);
    }
  }
  return ranges;
}

Bytes TrackedMemory::size() const {
  Bytes sum;
  for (const TrackedObject& object : objects) sum += to_bytes(object.pages);
  return sum;
}

bool TrackedMemory::managed() const {
  return std::ranges::any_of(objects, [](const TrackedObject& object) { return object.paged != nullptr; });
}

Bytes size_of(const MemoryList& memory) {
  Bytes sum;
  for (const auto& of : memory) sum += of->size();
  return sum;
}

}  // namespace tidepool::telemetry
