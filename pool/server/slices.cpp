#include "pool/server/slices.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

namespace tidepool::pool::server {
namespace {

using protocol::ErrorCode;

constexpr std::size_t kMaxGraves = 65536;
constexpr std::uint64_t kMarkBytesPerChunk = kSlotsPerChunk * kMarkBytes;

std::uint64_t chunks_of(std::uint64_t slots) {
  return (slots + kSlotsPerChunk - 1) / kSlotsPerChunk;
}

AttachResult refused(ErrorCode why) {
  return {why, nullptr, false};
}

}  // namespace

Bytes SliceStore::medium_within(Bytes capacity) {
  return Bytes{capacity.value / (kChunkBytes + kMarkBytesPerChunk) * kChunkBytes};
}

SliceStore::SliceStore(Medium medium, const SliceLimits& limits, const Clock& clock)
    : medium_(std::move(medium)), clock_(clock), limits_(limits) {}

Result<std::unique_ptr<SliceStore>> SliceStore::create(Medium medium, const SliceLimits& limits, const Clock& clock) {
  std::unique_ptr<SliceStore> store(new SliceStore(std::move(medium), limits, clock));
  store->chunk_count_ = std::min<std::uint64_t>(store->medium_.size().value / kChunkBytes, UINT32_MAX);
  if (store->chunk_count_ == 0)
    return failure(std::errc::invalid_argument, "lend", "memory", "at least 1 MiB is wanted: raise memory.capacity");
  auto marks = Mapping::anonymous(Bytes{store->chunk_count_ * kMarkBytesPerChunk});
  if (!marks) return Failure{marks.error()};
  store->marks_map_ = std::move(*marks);
  auto free = SlotSet::create(store->chunk_count_, SlotSet::Initially::kFull, SlotSet::Order::kLowest);
  if (!free) return Failure{free.error()};
  store->free_ = std::move(*free);
  return store;
}

AttachResult SliceStore::attach(const protocol::Claims& claims, bool may_create) {
  const std::lock_guard lock(mutex_);
  const auto found = slices_.find(static_cast<std::uint64_t>(claims.slice));
  if (found != slices_.end()) return attach_known(found->second, claims);
  if ((claims.rights & protocol::kRightCreate) == 0) return refused(ErrorCode::kNoSuchSlice);
  if (!may_create) return refused(ErrorCode::kDrainingNow);
  return make(claims);
}

AttachResult SliceStore::attach_known(const std::shared_ptr<Slice>& slice, const protocol::Claims& claims) {
  if (slice->holder() != claims.holder || slice->slots() != claims.slots) return refused(ErrorCode::kDenied);
  if (claims.epoch < slice->epoch()) return refused(ErrorCode::kStaleEpoch);
  slice->begin_lease(claims.epoch, claims.lease_ms);
  return {ErrorCode::kOk, slice, false};
}

AttachResult SliceStore::make(const protocol::Claims& claims) {
  if (claims.slots == 0) return refused(ErrorCode::kOutOfRange);
  // Who held it last may come back in the epoch that it had; anybody else needs a newer one.
  if (const auto grave = graves_.find(static_cast<std::uint64_t>(claims.slice)); grave != graves_.end()) {
    const auto epoch = static_cast<std::uint64_t>(claims.epoch);
    if (epoch < grave->second.epoch || (epoch == grave->second.epoch && claims.holder != grave->second.holder))
      return refused(ErrorCode::kStaleEpoch);
  }
  const std::uint64_t wanted = chunks_of(claims.slots);
  std::vector<std::uint32_t> chunks;
  if (within_limits(claims, wanted)) chunks = take_chunks(wanted);
  if (chunks.empty()) {
    ++refused_full_;
    return refused(ErrorCode::kFull);
  }
  auto slice = std::make_shared<Slice>(claims, std::move(chunks), medium_,
                                       reinterpret_cast<SlotMark*>(marks_map_.data()), stored_pages_, clock_);
  slices_.emplace(static_cast<std::uint64_t>(claims.slice), slice);
  HolderUse& use = holders_[claims.holder];
  ++use.slices;
  use.chunks += wanted;
  ++created_;
  return {ErrorCode::kOk, std::move(slice), true};
}

bool SliceStore::within_limits(const protocol::Claims& claims, std::uint64_t chunks) const {
  if (slices_.size() >= limits_.slices) return false;
  if (Bytes{std::uint64_t{claims.slots} * protocol::kSlotBytes} > limits_.slice_bytes) return false;
  const auto found = holders_.find(claims.holder);
  const HolderUse use = found == holders_.end() ? HolderUse{} : found->second;
  return use.slices < limits_.slices_per_holder && Bytes{(use.chunks + chunks) * kChunkBytes} <= limits_.holder_bytes;
}

// All of them, or none.
std::vector<std::uint32_t> SliceStore::take_chunks(std::uint64_t count) {
  std::vector<std::uint32_t> taken;
  if (free_.count() < count) return taken;
  taken.reserve(count);
  while (taken.size() < count) {
    const SlotRun run = free_.take(count - taken.size());
    if (run.count == 0) {
      for (const std::uint32_t chunk : taken) free_.give({chunk, 1});
      return {};
    }
    for (std::uint64_t chunk = run.first; chunk < run.end(); ++chunk)
      taken.push_back(static_cast<std::uint32_t>(chunk));
  }
  return taken;
}

ErrorCode SliceStore::release(Slice& slice, protocol::LeaseEpoch epoch) {
  const std::lock_guard lock(mutex_);
  if (const ErrorCode status = slice.check(epoch, false); status != ErrorCode::kOk) return status;
  bury(slice.id(), slice.holder(), static_cast<std::uint64_t>(slice.epoch()));
  end(slice);
  return ErrorCode::kOk;
}

void SliceStore::free_below(protocol::SliceId slice, protocol::LeaseEpoch epoch) {
  const auto below = static_cast<std::uint64_t>(epoch);
  if (below == 0) return;
  const std::lock_guard lock(mutex_);
  const auto found = slices_.find(static_cast<std::uint64_t>(slice));
  if (found != slices_.end()) {
    if (found->second->epoch() >= epoch) return;
    end(*std::shared_ptr<Slice>(found->second));
  }
  // The epoch below it is nobody's, for holders have names.
  bury(slice, {}, below - 1);
}

std::vector<SliceStore::Held> SliceStore::held() const {
  const std::lock_guard lock(mutex_);
  std::vector<Held> held;
  held.reserve(slices_.size());
  for (const auto& [id, slice] : slices_) held.push_back({slice->id(), slice->epoch()});
  return held;
}

// The slice may be no more when this returns.
void SliceStore::end(Slice& slice) {
  slice.end();
  dirty_.insert(dirty_.end(), slice.chunks().begin(), slice.chunks().end());
  scrubbing_ += slice.chunks().size();
  const auto use = holders_.find(slice.holder());
  use->second.chunks -= slice.chunks().size();
  if (--use->second.slices == 0) holders_.erase(use);
  ++released_;
  slices_.erase(static_cast<std::uint64_t>(slice.id()));
}

void SliceStore::bury(protocol::SliceId slice, const protocol::HolderId& holder, std::uint64_t epoch) {
  const auto id = static_cast<std::uint64_t>(slice);
  const auto [grave, is_new] = graves_.try_emplace(id);
  if (is_new || epoch > grave->second.epoch) grave->second = {holder, epoch};
  if (!is_new) return;
  grave_order_.push_back(id);
  if (grave_order_.size() <= kMaxGraves) return;
  graves_.erase(grave_order_.front());
  grave_order_.pop_front();
}

bool SliceStore::scrub(std::size_t chunks) {
  std::vector<std::uint32_t> mine;
  {
    const std::lock_guard lock(mutex_);
    const std::size_t count = std::min(chunks, dirty_.size());
    mine.assign(dirty_.end() - static_cast<std::ptrdiff_t>(count), dirty_.end());
    dirty_.resize(dirty_.size() - count);
  }
  for (const std::uint32_t chunk : mine) {
    auto* const marks = reinterpret_cast<SlotMark*>(marks_map_.data()) + std::uint64_t{chunk} * kSlotsPerChunk;
    const auto stored = std::count_if(marks, marks + kSlotsPerChunk, [](const SlotMark& each) { return each.stored; });
    stored_pages_.fetch_sub(static_cast<std::uint64_t>(stored), std::memory_order_relaxed);
    std::fill_n(marks, kSlotsPerChunk, SlotMark{});
    const Bytes offset{chunk * kChunkBytes};
    // Memory that cannot be given back, or is not taken back now, is overwritten.
    if (!medium_.can_punch() || !medium_.punch(offset, Bytes{kChunkBytes}))
      std::memset(medium_.data() + offset.value, 0, kChunkBytes);
    const std::lock_guard lock(mutex_);
    free_.give({chunk, 1});
    --scrubbing_;
  }
  return !mine.empty();
}

void SliceStore::set_limits(const SliceLimits& limits) {
  const std::lock_guard lock(mutex_);
  limits_ = limits;
}

SliceFigures SliceStore::figures() const {
  const std::lock_guard lock(mutex_);
  SliceFigures figures;
  figures.capacity = Bytes{chunk_count_ * kChunkBytes};
  figures.scrubbing = Bytes{scrubbing_ * kChunkBytes};
  figures.lent = saturating_sub(figures.capacity, Bytes{free_.count() * kChunkBytes} + figures.scrubbing);
  figures.marks = Bytes{chunk_count_ * kMarkBytesPerChunk};
  figures.slices = slices_.size();
  figures.holders = holders_.size();
  figures.stored_pages = stored_pages_.load(std::memory_order_relaxed);
  figures.created = created_;
  figures.released = released_;
  figures.refused_full = refused_full_;
  return figures;
}

}  // namespace tidepool::pool::server
