#include "daemon/pager/paged_vm.h"

#include <algorithm>
#include <numeric>
#include <utility>

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

std::pair<std::uintptr_t, std::uint64_t> key_of(const MemoryObject* object, PageIndex page) {
  return {reinterpret_cast<std::uintptr_t>(object), page.value};
}

}  // namespace

SegmentTable::SegmentTable(std::vector<Segment> segments) : segments_(std::move(segments)) {
  std::sort(segments_.begin(), segments_.end(),
            [](const Segment& a, const Segment& b) { return a.addresses.start < b.addresses.start; });
  by_page_.resize(segments_.size());
  std::iota(by_page_.begin(), by_page_.end(), 0u);
  std::ranges::sort(by_page_, {}, [&](std::uint32_t i) { return key_of(segments_[i].object, segments_[i].first); });
  for (const Segment& segment : segments_) longest_ = std::max(longest_, segment.pages());
}

const Segment* SegmentTable::at(std::uint64_t address) const {
  auto after = std::upper_bound(segments_.begin(), segments_.end(), address,
                                [](std::uint64_t a, const Segment& s) { return a < s.addresses.start; });
  if (after == segments_.begin()) return nullptr;
  const Segment& candidate = *std::prev(after);
  return candidate.addresses.contains(address) ? &candidate : nullptr;
}

const Segment* SegmentTable::showing(const MemoryObject& object, PageIndex page) const {
  const auto key = [&](std::uint32_t i) { return key_of(segments_[i].object, segments_[i].first); };
  auto candidate = std::ranges::upper_bound(by_page_, key_of(&object, page), {}, key);
  // Overlapping views begin anywhere before the page; none further away than the longest segment reaches.
  while (candidate != by_page_.begin()) {
    const Segment& segment = segments_[*--candidate];
    if (segment.object != &object || segment.first.value + longest_ <= page.value) return nullptr;
    if (page.value < segment.first.value + segment.pages()) return &segment;
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
