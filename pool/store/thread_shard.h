// A small number of this thread's own, for spreading counters and cursors so that threads do not share cache lines.
#pragma once

#include <atomic>

namespace tidepool::pool {

inline constexpr unsigned kThreadShards = 16;

inline unsigned thread_shard() {
  static std::atomic<unsigned> next{0};
  thread_local const unsigned mine = next.fetch_add(1, std::memory_order_relaxed) % kThreadShards;
  return mine;
}

}  // namespace tidepool::pool
