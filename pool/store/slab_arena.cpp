#include "pool/store/slab_arena.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace tidepool::pool {
namespace {

constexpr std::uint64_t kHeapBlock = 16;  // what the allocator adds to each array of owners

}  // namespace

SlabArena::SlabArena(Medium medium, SlotSet free_slabs, Mapping slabs, std::function<bool(Bytes)> may_grow)
    : medium_(std::move(medium)),
      free_slabs_(std::move(free_slabs)),
      slabs_map_(std::move(slabs)),
      slabs_(reinterpret_cast<Slab*>(slabs_map_.data())),
      may_grow_(std::move(may_grow)) {
  empty_.reserve(kMostEmpty);
}

Result<std::unique_ptr<SlabArena>> SlabArena::create(Medium medium, std::function<bool(Bytes)> may_grow) {
  const std::uint64_t slabs = medium.size().value / kSlabBytes;
  auto free_slabs = SlotSet::create(slabs, SlotSet::Initially::kFull, SlotSet::Order::kLowest);
  if (!free_slabs) return Failure{free_slabs.error()};
  auto map = Mapping::anonymous(Bytes{(slabs * sizeof(Slab) + kPageSize - 1) / kPageSize * kPageSize});
  if (!map) return Failure{map.error()};
  return std::unique_ptr<SlabArena>(
      new SlabArena(std::move(medium), std::move(*free_slabs), std::move(*map), std::move(may_grow)));
}

SlabArena::~SlabArena() {
  for (std::uint64_t i = 0; i < peak_slab_; ++i) delete[] slabs_[i].owners;
}

Bytes SlabArena::bookkeeping() const {
  const std::uint64_t peak = peak_slab_.load();
  const std::uint64_t headers = (peak * sizeof(Slab) + kPageSize - 1) / kPageSize * kPageSize;
  return Bytes{heap_bytes_.load() + headers} + SlotSet::cost(peak);
}

void SlabArena::list(SizeClass& of, std::uint32_t index) {
  Slab& slab = slabs_[index];
  const std::uint16_t places = places_of(slab.size_class);
  of.free_places += places - slab.used;
  if (slab.used == places) {
    slab.group = kGroups;
    return;
  }
  slab.group = static_cast<std::uint8_t>(slab.used * kGroups / places);
  slab.previous = kNone;
  slab.next = of.heads[slab.group];
  if (slab.next != kNone) slabs_[slab.next].previous = index;
  of.heads[slab.group] = index;
}

void SlabArena::unlist(SizeClass& of, std::uint32_t index) {
  Slab& slab = slabs_[index];
  of.free_places -= places_of(slab.size_class) - slab.used;
  if (slab.group == kGroups) return;
  if (slab.previous != kNone) slabs_[slab.previous].next = slab.next;
  if (slab.next != kNone) slabs_[slab.next].previous = slab.previous;
  if (of.heads[slab.group] == index) of.heads[slab.group] = slab.next;
  slab.group = kGroups;
}

std::uint64_t SlabArena::take_place(SizeClass& of, std::uint32_t index) {
  Slab& slab = slabs_[index];
  unlist(of, index);
  std::uint32_t place = slab.first_free;
  while (slab.owners[place].load(std::memory_order_relaxed) != kFree) ++place;
  slab.owners[place].store(kReserved, std::memory_order_relaxed);
  slab.first_free = static_cast<std::uint16_t>(place + 1);
  ++slab.used;
  list(of, index);
  return index * kSlabBytes + std::uint64_t{place} * place_bytes(slab.size_class);
}

std::optional<std::uint64_t> SlabArena::allocate(std::uint32_t length, Growth growth) {
  const unsigned size_class = class_of(length);
  SizeClass& of = classes_[size_class];
  {
    const std::lock_guard lock(of.lock);
    // The fullest first: the sparse ones get a chance to empty by themselves.
    for (unsigned group = kGroups; group-- > 0;)
      if (of.heads[group] != kNone) return take_place(of, of.heads[group]);
  }
  if (growth == Growth::kForbidden) return std::nullopt;
  const auto index = acquire_slab();
  if (!index) return std::nullopt;
  prepare(*index, size_class);
  const std::lock_guard lock(of.lock);
  list(of, *index);
  return take_place(of, *index);
}

std::optional<std::uint32_t> SlabArena::acquire_slab() {
  {
    const std::lock_guard lock(empty_lock_);
    if (!empty_.empty()) {
      const std::uint32_t index = empty_.back();
      empty_.pop_back();
      return index;
    }
  }
  const std::uint64_t populated = populated_slabs_.fetch_add(1) + 1;
  const SlotRun run = may_grow_(Bytes{populated * kSlabBytes}) ? free_slabs_.take(1) : SlotRun{};
  if (run.count == 0) {
    --populated_slabs_;
    return std::nullopt;
  }
  const auto index = static_cast<std::uint32_t>(run.first);
  std::uint64_t peak = peak_slab_.load();
  while (peak <= index && !peak_slab_.compare_exchange_weak(peak, index + 1)) {
  }
  // All of it at once: one call instead of sixteen faults, and an error instead of a signal when the host has no more.
  if (medium_.populate(Bytes{index * kSlabBytes}, Bytes{kSlabBytes})) return index;
  punch(index);
  return std::nullopt;
}

void SlabArena::prepare(std::uint32_t index, unsigned size_class) {
  Slab& slab = slabs_[index];
  slab.owners = new std::atomic<std::uint32_t>[places_of(size_class)]();
  heap_bytes_ += places_of(size_class) * sizeof(std::uint32_t) + kHeapBlock;
  slab.used = 0;
  slab.first_free = 0;
  slab.size_class = static_cast<std::uint8_t>(size_class);
  slab.group = kGroups;
  slab.isolated = false;
}

void SlabArena::punch(std::uint32_t index) {
  // A medium that cannot be punched keeps the slab populated; it stays ours, and full of zeros.
  if (medium_.can_punch() && medium_.punch(Bytes{index * kSlabBytes}, Bytes{kSlabBytes})) {
    --populated_slabs_;
    free_slabs_.give({index, 1});
    return;
  }
  const std::lock_guard lock(empty_lock_);
  empty_.push_back(index);
}

// An empty slab that is in no list any more.
void SlabArena::retire(std::uint32_t index) {
  Slab& slab = slabs_[index];
  heap_bytes_ -= places_of(slab.size_class) * sizeof(std::uint32_t) + kHeapBlock;
  delete[] std::exchange(slab.owners, nullptr);
  {
    const std::lock_guard lock(empty_lock_);
    if (empty_.size() < kMostEmpty) {
      empty_.push_back(index);
      return;
    }
  }
  punch(index);
}

bool SlabArena::trim() {
  bool any = false;
  while (medium_.can_punch()) {
    std::uint32_t index = kNone;
    {
      const std::lock_guard lock(empty_lock_);
      if (empty_.empty()) break;
      index = empty_.back();
      empty_.pop_back();
    }
    punch(index);
    any = true;
  }
  return any;
}

void SlabArena::set_owner(std::uint64_t offset, std::uint32_t owner) {
  Slab& slab = slab_at(offset);
  slab.owners[place_in(slab, offset)].store(owner + kFirstOwner, std::memory_order_release);
}

void SlabArena::free(std::uint64_t offset) {
  const auto index = static_cast<std::uint32_t>(offset / kSlabBytes);
  Slab& slab = slabs_[index];
  SizeClass& of = classes_[slab.size_class];
  std::memset(at(offset), 0, place_bytes(slab.size_class));
  {
    const std::lock_guard lock(of.lock);
    const std::uint32_t place = place_in(slab, offset);
    if (!slab.isolated) unlist(of, index);
    slab.owners[place].store(kFree, std::memory_order_relaxed);
    slab.first_free = std::min(slab.first_free, static_cast<std::uint16_t>(place));
    --slab.used;
    if (slab.isolated) return;
    if (slab.used != 0) {
      list(of, index);
      return;
    }
  }
  retire(index);
}

std::optional<std::uint32_t> SlabArena::isolate(Wanted wanted) {
  // A class is worth it when a whole slab of it could go; without need, when a fair part of another would still be free
  // afterwards.
  for (unsigned size_class = 0; size_class < kClasses; ++size_class) {
    SizeClass& of = classes_[size_class];
    const std::uint64_t places = places_of(size_class);
    const std::lock_guard lock(of.lock);
    if (of.free_places < (wanted == Wanted::kAny ? places : places + places / 2)) continue;
    for (unsigned group = 0; group < (wanted == Wanted::kAny ? kGroups : kGroups - 1); ++group) {
      const std::uint32_t index = of.heads[group];
      if (index == kNone) continue;
      unlist(of, index);
      slabs_[index].isolated = true;
      return index;
    }
  }
  return std::nullopt;
}

std::vector<SlabArena::Object> SlabArena::objects_of(std::uint32_t index) const {
  const Slab& slab = slabs_[index];
  std::vector<Object> objects;
  objects.reserve(places_of(slab.size_class));
  for (std::uint32_t place = 0; place < places_of(slab.size_class); ++place) {
    const std::uint32_t owner = slab.owners[place].load(std::memory_order_acquire);
    if (owner >= kFirstOwner)
      objects.push_back(
          {index * kSlabBytes + std::uint64_t{place} * place_bytes(slab.size_class), owner - kFirstOwner});
  }
  return objects;
}

bool SlabArena::end_isolation(std::uint32_t index) {
  Slab& slab = slabs_[index];
  SizeClass& of = classes_[slab.size_class];
  {
    const std::lock_guard lock(of.lock);
    slab.isolated = false;
    if (slab.used != 0) {
      list(of, index);
      return false;
    }
  }
  retire(index);
  return true;
}

// Whether an object can be there: on the grid of its class, within the arena.
bool SlabArena::fits(std::uint64_t offset, std::uint32_t length) const {
  if (length == 0 || length > kLargest || offset >= size() / kSlabBytes * kSlabBytes) return false;
  const unsigned size_class = class_of(length);
  const std::uint64_t within = offset % kSlabBytes;
  return within % place_bytes(size_class) == 0 && within / place_bytes(size_class) < places_of(size_class);
}

void SlabArena::vote(std::uint64_t offset, std::uint32_t length) {
  if (!fits(offset, length)) return;
  const unsigned size_class = class_of(length);
  // Boyer and Moore's majority vote: one candidate and one counter per slab.
  Slab& slab = slab_at(offset);
  if (slab.votes == 0) slab.size_class = static_cast<std::uint8_t>(size_class);
  if (slab.size_class == size_class) {
    if (slab.votes < INT16_MAX) ++slab.votes;
  } else {
    --slab.votes;
  }
}

bool SlabArena::restore(std::uint64_t offset, std::uint32_t length, std::uint32_t owner) {
  if (!fits(offset, length)) return false;
  const auto index = static_cast<std::uint32_t>(offset / kSlabBytes);
  Slab& slab = slabs_[index];
  if (slab.size_class != class_of(length)) return false;
  if (slab.owners == nullptr) {
    prepare(index, slab.size_class);
    free_slabs_.take_one(index);
    ++populated_slabs_;
    peak_slab_ = std::max<std::uint64_t>(peak_slab_, index + 1);
  }
  auto& place = slab.owners[place_in(slab, offset)];
  if (place.load(std::memory_order_relaxed) != kFree) return false;
  place.store(owner + kFirstOwner, std::memory_order_relaxed);
  ++slab.used;
  return true;
}

void SlabArena::finish_restore() {
  for (std::uint32_t index = 0; index < peak_slab_; ++index) {
    if (slabs_[index].owners == nullptr) continue;
    list(classes_[slabs_[index].size_class], index);
    // Whatever the other process had not populated of it; if the host has no more, a page read as zeros fails its
    // checksum.
    static_cast<void>(medium_.populate(Bytes{index * kSlabBytes}, Bytes{kSlabBytes}));
  }
  // What is populated beyond the slabs in use was being freed, filled or moved.
  if (!medium_.can_punch()) return;
  for_each_extent(medium_.fd(), medium_.size(), [this](Bytes first, Bytes end) {
    const std::uint64_t last = std::min(end.value, size() / kSlabBytes * kSlabBytes);
    for (std::uint64_t at = first.value / kSlabBytes * kSlabBytes; at < last; at += kSlabBytes)
      if (slab_at(at).owners == nullptr) static_cast<void>(medium_.punch(Bytes{at}, Bytes{kSlabBytes}));
  });
}

}  // namespace tidepool::pool
