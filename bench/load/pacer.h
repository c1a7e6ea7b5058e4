// A steady rate of operations for one thread.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>

namespace tidepool::load {

// Spaces operations evenly; a thread that fell behind catches up rather than dropping operations.
class Pacer {
 public:
  // `operations_per_second` of all `threads` together; 0: no limit.
  Pacer(double operations_per_second, unsigned threads) {
    if (operations_per_second > 0) {
      interval_ = std::chrono::nanoseconds(static_cast<std::int64_t>(1e9 * threads / operations_per_second));
    }
  }
  void wait(const std::atomic<bool>& stop) {
    if (interval_.count() == 0) return;
    constexpr std::chrono::milliseconds kNap{50};  // how late a stop may be noticed
    next_ += interval_;
    for (auto now = std::chrono::steady_clock::now(); now < next_ && !stop.load(std::memory_order_relaxed);
         now = std::chrono::steady_clock::now()) {
      std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(next_ - now, kNap));
    }
  }

 private:
  std::chrono::nanoseconds interval_{0};
  std::chrono::steady_clock::time_point next_ = std::chrono::steady_clock::now();
};

}  // namespace tidepool::load
