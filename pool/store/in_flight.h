// Which batches are being worked on, so that another thread can cancel one. Lock-free and bounded: a batch that finds
// no room here runs to its end, which is what "best effort" allows.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "pool/store/thread_shard.h"

namespace tidepool::pool {

class InFlight {
 public:
  // One batch while it is worked on by the thread that submitted it.
  class Entry {
   public:
    Entry(InFlight& table, const void* batch) {
      const auto value = reinterpret_cast<std::uintptr_t>(batch);
      const unsigned start = thread_shard() * kPerShard;
      for (unsigned i = 0; i < kPerShard; ++i) {
        std::uintptr_t none = 0;
        if (!table.slots_[start + i].batch.compare_exchange_strong(none, value)) continue;
        slot_ = &table.slots_[start + i].batch;
        return;
      }
    }
    Entry(const Entry&) = delete;
    Entry& operator=(const Entry&) = delete;
    ~Entry() {
      if (slot_ != nullptr) slot_->store(0);
    }
    bool cancelled() const { return slot_ != nullptr && (slot_->load(std::memory_order_relaxed) & kCancelled) != 0; }

   private:
    std::atomic<std::uintptr_t>* slot_ = nullptr;
  };

  // Pointer and mark are one word, so a batch that has just taken the place of another cannot be hit by its
  // cancellation.
  void cancel(const void* batch) {
    const auto value = reinterpret_cast<std::uintptr_t>(batch);
    for (Slot& slot : slots_) {
      std::uintptr_t expected = value;
      if (slot.batch.compare_exchange_strong(expected, value | kCancelled)) return;
    }
  }

 private:
  static constexpr unsigned kPerShard = 4;
  static constexpr std::uintptr_t kCancelled = 1;
  struct alignas(64) Slot {
    std::atomic<std::uintptr_t> batch{0};
  };
  std::array<Slot, std::size_t{kThreadShards} * kPerShard> slots_{};
};

}  // namespace tidepool::pool
