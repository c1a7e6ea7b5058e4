// What all loops of a memory server share.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "pool/protocol/handshake.h"
#include "pool/server/slices.h"

namespace tidepool::pool::server {

// Written by one loop, read by whoever asks for figures.
struct alignas(64) LoopCounters {
  using Counter = std::atomic<std::uint64_t>;
  static constexpr std::size_t kTypes = 16;
  static constexpr std::size_t kCodes = 16;

  std::array<Counter, kTypes> requests{};  // by MessageType; 0: unknown ones
  std::array<Counter, kCodes> answers{};   // requests refused and items, by ErrorCode; kOk: items only
  Counter pages_read{0};
  Counter pages_written{0};
  Counter pages_discarded{0};
  Counter bytes_received{0};
  Counter bytes_sent{0};
  Counter bad_frames{0};  // that closed a connection
  Counter bad_tokens{0};  // proofs that were wrong
  Counter cut_slow{0};    // answers not read
  Counter cut_silent{0};  // no token in time
  Counter beats{0};       // rounds of the loop
};

inline void count(LoopCounters::Counter& counter, std::uint64_t by = 1) {
  // One writer: no need for a locked addition.
  counter.store(counter.load(std::memory_order_relaxed) + by, std::memory_order_relaxed);
}

class ServerState {
 public:
  ServerState(std::unique_ptr<SliceStore> slices, std::string server_name, const protocol::BootId& boot_id,
              const protocol::ServerKey& key, std::uint32_t credit_pages)
      : store(std::move(slices)), name(std::move(server_name)), boot(boot_id), credit(credit_pages), key_(key) {}

  const std::unique_ptr<SliceStore> store;
  const std::string name;
  const protocol::BootId boot;
  std::atomic<std::uint32_t> credit;  // pages granted to a connection
  std::atomic<bool> draining{false};
  std::atomic<std::uint32_t> slices_per_connection{65536};
  std::atomic<std::uint32_t> connections{0};
  std::atomic<std::uint32_t> pending{0};  // connections that have shown no token yet

  protocol::ServerKey key() const {
    const std::lock_guard lock(mutex_);
    return key_;
  }
  void set_key(const protocol::ServerKey& key) {
    const std::lock_guard lock(mutex_);
    key_ = key;
  }

  // Something was released: whoever zeroes memory has work.
  void wake_scrubber() {
    {
      const std::lock_guard lock(mutex_);
      scrub_wanted_ = true;
    }
    scrub_.notify_one();
  }
  // Waits for that, or for the end (false).
  bool await_scrub() {
    std::unique_lock lock(mutex_);
    scrub_.wait(lock, [this] { return scrub_wanted_ || ended_; });
    scrub_wanted_ = false;
    return !ended_;
  }
  void end_scrubber() {
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
    }
    scrub_.notify_one();
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable scrub_;
  bool scrub_wanted_ = false;
  bool ended_ = false;
  protocol::ServerKey key_;
};

}  // namespace tidepool::pool::server
