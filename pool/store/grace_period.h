// Lets readers use an object without a lock while another thread moves it: the mover publishes the new place, waits
// until every reader that may have seen the old one has left, and only then reuses it. Readers never wait. (The scheme
// of Linux' SRCU: two counters per group of threads, of which one drains while newcomers use the other.)
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>

#include "pool/store/thread_shard.h"

namespace tidepool::pool {

class GracePeriod {
 public:
  // What was reachable when it was made stays valid until it goes. Keep it short: a mover waits for it.
  class Reader {
   public:
    explicit Reader(GracePeriod& grace) : count_(grace.shards_[thread_shard()].inside[grace.phase_.load() & 1]) {
      count_.fetch_add(1);
    }
    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;
    ~Reader() { count_.fetch_sub(1); }

   private:
    std::atomic<unsigned>& count_;
  };

  // Returns when every reader that was inside when it was called has left.
  void wait_for_readers() {
    const std::lock_guard lock(waiting_);
    // Twice, because a reader may have looked up the phase long before it counted itself in: it is then counted under
    // either.
    for (int round = 0; round < 2; ++round) {
      const unsigned before = phase_.fetch_add(1) & 1;
      while (inside(before)) std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
  }

 private:
  struct alignas(64) Shard {
    std::array<std::atomic<unsigned>, 2> inside{};
  };

  bool inside(unsigned phase) const {
    for (const Shard& shard : shards_)
      if (shard.inside[phase].load() != 0) return true;
    return false;
  }

  std::array<Shard, kThreadShards> shards_{};
  std::atomic<unsigned> phase_{0};
  std::mutex waiting_;
};

}  // namespace tidepool::pool
