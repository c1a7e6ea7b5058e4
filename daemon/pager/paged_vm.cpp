#include "daemon/pager/paged_vm.h"

#include <algorithm>

namespace tidepool::daemon {
namespace {

Segment cut(const Segment& segment, AddressRange to) {
  Segment piece = segment;
  const std::uint64_t skipped = to.start - segment.addresses.start;
  piece.addresses = to;
  piece.first = PageIndex{segment.first.value + (skipped >> kPageShift)};
  piece.file_offset = segment.file_offset + skipped;
  return piece;
}

// Calls keep(piece) for what lies outside `range` and inside(piece) for what lies in it.
template <class Keep, class Inside>
void split(const std::vector<Segment>& segments, AddressRange range, Keep&& keep, Inside&& inside) {
  for (const Segment& segment : segments) {
    const AddressRange whole = segment.addresses;
    if (!whole.overlaps(range)) {
      keep(segment);
      continue;
    }
    const AddressRange common{std::max(whole.start, range.start), std::min(whole.end, range.end)};
    if (whole.start < common.start) keep(cut(segment, {whole.start, common.start}));
    inside(cut(segment, common));
    if (common.end < whole.end) keep(cut(segment, {common.end, whole.end}));
  }
}

}  // namespace

SegmentTable::SegmentTable(std::vector<Segment> segments) : segments_(std::move(segments)) {
  std::sort(segments_.begin(), segments_.end(),
            [](const Segment& a, const Segment& b) { return a.addresses.start < b.addresses.start; });
}

const Segment* SegmentTable::at(std::uint64_t address) const {
  auto after = std::upper_bound(segments_.begin(), segments_.end(), address,
                                [](std::uint64_t a, const Segment& s) { return a < s.addresses.start; });
  if (after == segments_.begin()) return nullptr;
  const Segment& candidate = *std::prev(after);
  return candidate.addresses.contains(address) ? &candidate : nullptr;
}

const Segment* SegmentTable::showing(const MemoryObject& object, PageIndex page) const {
  for (const Segment& segment : segments_) {
    if (segment.object == &object && page.value >= segment.first.value &&
        page.value < segment.first.value + segment.pages()) {
      return &segment;
    }
  }
  return nullptr;
}

SegmentTable SegmentTable::without(AddressRange unmapped) const {
  std::vector<Segment> kept;
  split(
      segments_, unmapped, [&](const Segment& s) { kept.push_back(s); }, [](const Segment&) {});
  return SegmentTable{std::move(kept)};
}

SegmentTable SegmentTable::moved(AddressRange from, std::uint64_t to) const {
  std::vector<Segment> kept;
  std::vector<Segment> moving;
  split(
      segments_, from, [&](const Segment& s) { kept.push_back(s); }, [&](const Segment& s) { moving.push_back(s); });
  for (Segment& segment : moving) {
    const std::uint64_t start = segment.addresses.start - from.start + to;
    segment.addresses = {start, start + segment.addresses.size()};
    kept.push_back(segment);
  }
  return SegmentTable{std::move(kept)};
}

SegmentTable SegmentTable::with(std::vector<Segment> more) const {
  more.insert(more.end(), segments_.begin(), segments_.end());
  return SegmentTable{std::move(more)};
}

}  // namespace tidepool::daemon
