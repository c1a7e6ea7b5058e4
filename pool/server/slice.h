// One slice: slots of 4 KiB with a mark each, lent to one holder.
//
// Thread-safe: several loops serve one slice at a time. Pages are copied in and out under the lock of their chunk: what
// is answered is one version of a page, whole, and once a lower epoch is fenced or a slice is released nobody is at
// work in its memory any more.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "base/clock.h"
#include "pool/protocol/messages.h"

namespace tidepool::pool {
class Medium;
}

namespace tidepool::pool::server {

inline constexpr std::uint32_t kSlotsPerChunk = 64;
inline constexpr std::uint64_t kChunkBytes = std::uint64_t{kSlotsPerChunk} * protocol::kSlotBytes;

// What is known about a slot. All zero: nothing was ever stored.
struct SlotMark {
  std::uint64_t version = 0;
  protocol::Tag tag{};
  std::uint16_t length = 0;
  bool stored = false;
};
inline constexpr std::uint64_t kMarkBytes = 32;
static_assert(sizeof(SlotMark) == kMarkBytes);

class Slice {
 public:
  // `chunks` of the medium and of `marks`, both of which outlive the slice. `stored_pages` is kept up to date.
  Slice(const protocol::Claims& claims, std::vector<std::uint32_t> chunks, const Medium& medium, SlotMark* marks,
        std::atomic<std::uint64_t>& stored_pages, const Clock& clock);

  protocol::SliceId id() const { return id_; }
  const protocol::HolderId& holder() const { return holder_; }
  std::uint32_t slots() const { return slots_; }
  const std::vector<std::uint32_t>& chunks() const { return chunks_; }
  protocol::LeaseEpoch epoch() const { return protocol::LeaseEpoch{epoch_.load(std::memory_order_acquire)}; }

  // What stands in the way of reading (or changing) it in this epoch: kNoSuchSlice after a release, kStaleEpoch,
  // kExpired. For a whole request; each page is checked again by read, write and discard.
  protocol::ErrorCode check(protocol::LeaseEpoch epoch, bool change) const;

  // Copies the slot's content to `out`, which has room for kSlotBytes. `answer.slot` is set in any case.
  protocol::ReadAnswer read(protocol::LeaseEpoch epoch, std::uint32_t slot, std::byte* out) const;
  // kStaleVersion when the slot has seen a version at least as high, kFull when the host has no memory for it.
  protocol::ErrorCode write(protocol::LeaseEpoch epoch, const protocol::WriteEntry& entry, const std::byte* content);
  protocol::ErrorCode discard(protocol::LeaseEpoch epoch, const protocol::DiscardEntry& entry);

  // For the store, under its lock.
  void begin_lease(protocol::LeaseEpoch epoch, std::uint64_t lease_ms);
  void end();

 private:
  static constexpr std::size_t kStripes = 8;

  std::mutex& lock_of(std::uint32_t slot) const { return locks_[slot / kSlotsPerChunk % kStripes]; }
  SlotMark& mark(std::uint32_t slot) const;
  std::byte* memory(std::uint32_t slot) const;
  bool populate(std::uint32_t slot);
  protocol::ErrorCode admit(protocol::LeaseEpoch epoch, std::uint32_t slot, std::uint64_t version) const;
  void await_idle();

  const protocol::SliceId id_;
  const protocol::HolderId holder_;
  const std::uint32_t slots_;
  const std::vector<std::uint32_t> chunks_;
  const Medium& medium_;
  SlotMark* const marks_;
  std::atomic<std::uint64_t>& stored_pages_;
  const Clock& clock_;

  mutable std::array<std::mutex, kStripes> locks_;
  std::vector<std::uint8_t> populated_;  // by chunk, under its lock
  std::atomic<std::uint64_t> epoch_;
  std::atomic<std::int64_t> expires_ns_{0};
  std::atomic<bool> ended_{false};

  static constexpr std::int64_t kNever = INT64_MAX;
};

}  // namespace tidepool::pool::server
