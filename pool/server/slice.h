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
#include <memory>
#include <mutex>
#include <vector>

#include "base/clock.h"
#include "pool/protocol/messages.h"
#include "pool/server/slice_memory.h"

namespace tidepool::pool::server {

class Slice {
 public:
  // `stored_pages` counts those of all slices.
  Slice(const protocol::Claims& claims, std::unique_ptr<SliceMemory> memory, std::atomic<std::uint64_t>& stored_pages,
        const Clock& clock);

  protocol::SliceId id() const { return id_; }
  const protocol::HolderId& holder() const { return holder_; }
  std::uint32_t slots() const { return slots_; }
  std::uint64_t chunks() const { return chunks_; }
  protocol::LeaseEpoch epoch() const { return protocol::LeaseEpoch{epoch_.load(std::memory_order_acquire)}; }

  // What stands in the way of reading (or changing) it in this epoch: kNoSuchSlice after a release, kStaleEpoch,
  // kExpired. For a whole request; each page is checked again by read, write and discard.
  protocol::ErrorCode check(protocol::LeaseEpoch epoch, bool change) const;

  // Copies the slot's content to `out`, which has room for kSlotBytes. `answer.slot` is set in any case.
  protocol::ReadAnswer read(protocol::LeaseEpoch epoch, std::uint32_t slot, std::byte* out) const;
  // kStaleVersion when the slot has seen a version at least as high, kFull when the host has no memory for it.
  protocol::ErrorCode write(protocol::LeaseEpoch epoch, const protocol::WriteEntry& entry, const std::byte* content);
  protocol::ErrorCode discard(protocol::LeaseEpoch epoch, const protocol::DiscardEntry& entry);

  // See SliceMemory; invalid when the slice is no more.
  UniqueFd for_reading() const;

  // For the store, under its lock.
  void begin_lease(protocol::LeaseEpoch epoch, std::uint64_t lease_ms);
  // Nobody reaches its memory from now on.
  std::unique_ptr<SliceMemory> end();

 private:
  static constexpr std::size_t kStripes = 8;

  std::mutex& lock_of(std::uint32_t slot) const { return locks_[slot / kSlotsPerChunk % kStripes]; }
  bool populate(std::uint32_t slot);
  protocol::ErrorCode admit(protocol::LeaseEpoch epoch, std::uint32_t slot, std::uint64_t version) const;
  void await_idle();

  const protocol::SliceId id_;
  const protocol::HolderId holder_;
  const std::uint32_t slots_;
  const std::uint64_t chunks_;
  std::unique_ptr<SliceMemory> memory_;  // until it has ended
  std::atomic<std::uint64_t> stored_{0};
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
