#include "pool/server/slices.h"

#include <algorithm>
#include <utility>

namespace tidepool::pool::server {
namespace {

using protocol::ErrorCode;

constexpr std::size_t kMaxGraves = 65536;

std::uint64_t chunks_of(std::uint64_t slots) {
  return (slots + kSlotsPerChunk - 1) / kSlotsPerChunk;
}

AttachResult refused(ErrorCode why) {
  return {why, nullptr, false};
}

}  // namespace

SliceStore::SliceStore(std::unique_ptr<Donation> donation, const SliceLimits& limits, const Clock& clock)
    : clock_(clock), donation_(std::move(donation)), limits_(limits) {}

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
  std::unique_ptr<SliceMemory> memory;
  if (within_limits(claims, wanted)) memory = donation_->lend(wanted);
  if (memory == nullptr) {
    ++refused_full_;
    return refused(ErrorCode::kFull);
  }
  auto slice = std::make_shared<Slice>(claims, std::move(memory), stored_pages_, clock_);
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
  dirty_.push_back(slice.end());
  scrubbing_ += slice.chunks();
  const auto use = holders_.find(slice.holder());
  use->second.chunks -= slice.chunks();
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
  std::unique_lock lock(mutex_);
  if (dirty_.empty()) return false;
  std::unique_ptr<SliceMemory> mine = std::move(dirty_.back());
  dirty_.pop_back();
  lock.unlock();
  const std::uint64_t left = mine->clear(chunks);
  lock.lock();
  if (left != 0) {
    dirty_.push_back(std::move(mine));
  } else {
    scrubbing_ -= mine->chunks();
    donation_->take_back(std::move(mine));
  }
  return true;
}

void SliceStore::set_limits(const SliceLimits& limits) {
  const std::lock_guard lock(mutex_);
  limits_ = limits;
}

SliceFigures SliceStore::figures() const {
  const std::lock_guard lock(mutex_);
  SliceFigures figures;
  figures.capacity = Bytes{donation_->chunks() * kChunkBytes};
  figures.scrubbing = Bytes{scrubbing_ * kChunkBytes};
  figures.lent = saturating_sub(figures.capacity, Bytes{donation_->free_chunks() * kChunkBytes} + figures.scrubbing);
  figures.marks = Bytes{donation_->chunks() * kMarkBytesPerChunk};
  figures.slices = slices_.size();
  figures.holders = holders_.size();
  figures.stored_pages = stored_pages_.load(std::memory_order_relaxed);
  figures.created = created_;
  figures.released = released_;
  figures.refused_full = refused_full_;
  return figures;
}

}  // namespace tidepool::pool::server
