#include "pool/server/slice.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace tidepool::pool::server {

using protocol::ErrorCode;
using protocol::LeaseEpoch;

Slice::Slice(const protocol::Claims& claims, std::unique_ptr<SliceMemory> memory,
             std::atomic<std::uint64_t>& stored_pages, const Clock& clock)
    : id_(claims.slice),
      holder_(claims.holder),
      slots_(claims.slots),
      chunks_(memory->chunks()),
      memory_(std::move(memory)),
      stored_pages_(stored_pages),
      clock_(clock),
      populated_(chunks_, 0),
      epoch_(static_cast<std::uint64_t>(claims.epoch)) {
  begin_lease(claims.epoch, claims.lease_ms);
}

bool Slice::populate(std::uint32_t slot) {
  std::uint8_t& done = populated_[slot / kSlotsPerChunk];
  if (done == 0) done = memory_->populate(slot / kSlotsPerChunk) ? 1 : 0;
  return done != 0;
}

ErrorCode Slice::check(LeaseEpoch epoch, bool change) const {
  if (ended_.load(std::memory_order_acquire)) return ErrorCode::kNoSuchSlice;
  if (epoch != this->epoch()) return ErrorCode::kStaleEpoch;
  if (!change) return ErrorCode::kOk;
  const std::int64_t expires = expires_ns_.load(std::memory_order_acquire);
  return expires != kNever && clock_.now().since_boot.count() >= expires ? ErrorCode::kExpired : ErrorCode::kOk;
}

protocol::ReadAnswer Slice::read(LeaseEpoch epoch, std::uint32_t slot, std::byte* out) const {
  protocol::ReadAnswer answer;
  answer.slot = slot;
  answer.status = ErrorCode::kOutOfRange;
  if (slot >= slots_) return answer;
  const std::lock_guard lock(lock_of(slot));
  answer.status = check(epoch, false);
  if (answer.status != ErrorCode::kOk) return answer;
  const SlotMark& found = memory_->mark(slot);
  answer.version = found.version;
  if (found.stored == 0) {
    answer.status = ErrorCode::kEmpty;
    return answer;
  }
  answer.length = found.length;
  answer.tag = found.tag;
  std::memcpy(out, memory_->page(slot), found.length);
  return answer;
}

// Of a change, under the slot's lock.
ErrorCode Slice::admit(LeaseEpoch epoch, std::uint32_t slot, std::uint64_t version) const {
  const ErrorCode status = check(epoch, true);
  if (status != ErrorCode::kOk) return status;
  return version > memory_->mark(slot).version ? ErrorCode::kOk : ErrorCode::kStaleVersion;
}

ErrorCode Slice::write(LeaseEpoch epoch, const protocol::WriteEntry& entry, const std::byte* content) {
  if (entry.slot >= slots_) return ErrorCode::kOutOfRange;
  if (entry.length > protocol::kSlotBytes) return ErrorCode::kMalformed;
  const std::lock_guard lock(lock_of(entry.slot));
  const ErrorCode status = admit(epoch, entry.slot, entry.version);
  if (status != ErrorCode::kOk) return status;
  if (!populate(entry.slot)) return ErrorCode::kFull;
  SlotMark& kept = memory_->mark(entry.slot);
  if (kept.stored == 0) {
    stored_.fetch_add(1, std::memory_order_relaxed);
    stored_pages_.fetch_add(1, std::memory_order_relaxed);
  }
  std::memcpy(memory_->page(entry.slot), content, entry.length);
  kept.version = entry.version;
  kept.tag = entry.tag;
  kept.length = entry.length;
  kept.stored = 1;
  return ErrorCode::kOk;
}

ErrorCode Slice::discard(LeaseEpoch epoch, const protocol::DiscardEntry& entry) {
  if (entry.slot >= slots_) return ErrorCode::kOutOfRange;
  const std::lock_guard lock(lock_of(entry.slot));
  const ErrorCode status = admit(epoch, entry.slot, entry.version);
  if (status != ErrorCode::kOk) return status;
  SlotMark& kept = memory_->mark(entry.slot);
  if (kept.stored != 0) {
    stored_.fetch_sub(1, std::memory_order_relaxed);
    stored_pages_.fetch_sub(1, std::memory_order_relaxed);
  }
  kept = SlotMark{};
  kept.version = entry.version;  // a late WRITE must not bring the content back
  return ErrorCode::kOk;
}

void Slice::begin_lease(LeaseEpoch epoch, std::uint64_t lease_ms) {
  // A lease beyond ten years does not end; the sum below cannot overflow.
  constexpr std::uint64_t kLongest = 10ull * 365 * 24 * 3600 * 1000;
  const std::int64_t until =
      lease_ms == 0 || lease_ms > kLongest
          ? kNever
          : (clock_.now() + std::chrono::milliseconds(static_cast<std::int64_t>(lease_ms))).since_boot.count();
  const bool same = epoch == this->epoch();
  expires_ns_.store(same ? std::max(until, expires_ns_.load(std::memory_order_relaxed)) : until,
                    std::memory_order_release);
  if (same) return;
  epoch_.store(static_cast<std::uint64_t>(epoch), std::memory_order_release);
  await_idle();
}

std::unique_ptr<SliceMemory> Slice::end() {
  ended_.store(true, std::memory_order_release);
  await_idle();
  stored_pages_.fetch_sub(stored_.exchange(0), std::memory_order_relaxed);
  return std::move(memory_);
}

UniqueFd Slice::for_reading() const {
  // Any of the locks keeps the memory from going.
  const std::lock_guard lock(locks_[0]);
  return ended_.load(std::memory_order_acquire) ? UniqueFd{} : memory_->for_reading();
}

// Whoever was let in before has finished when every lock was free once.
void Slice::await_idle() {
  for (std::mutex& each : locks_) const std::lock_guard lock(each);
}

}  // namespace tidepool::pool::server
