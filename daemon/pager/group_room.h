// How many more pages the VM's own memory control group takes. The kernel does not refuse the one beyond: it kills a
// process of the group. So nothing is installed that does not fit, and what waits for it has room made first.
//
// Counted down with every page installed, and set anew by whoever reads the group's figures; between two readings
// others in the group may use memory too, which is what the reader keeps a margin for. Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>

#include "base/units.h"

namespace tidepool::daemon {

class GroupRoom {
 public:
  // No limit, or none that concerns us: the kernel finds memory itself, by swapping.
  void set_unbounded() { left_.store(kUnbounded, std::memory_order_relaxed); }
  void set(PageCount left) { left_.store(static_cast<std::int64_t>(left.value), std::memory_order_relaxed); }
  // Whether demand waits for room as well; otherwise only what is brought home ahead of it does.
  void let_demand_wait(bool on) { demand_waits_.store(on, std::memory_order_relaxed); }
  bool demand_waits() const { return demand_waits_.load(std::memory_order_relaxed); }

  // False: there is no room, and nothing was taken.
  bool take(std::uint64_t pages, bool demand) {
    const auto wanted = static_cast<std::int64_t>(pages);
    const bool fits = left_.load(std::memory_order_relaxed) >= wanted;
    if (!fits && (!demand || demand_waits())) return false;
    left_.fetch_sub(wanted, std::memory_order_relaxed);
    return true;
  }

 private:
  // Far from what counting down could reach between two readings.
  static constexpr std::int64_t kUnbounded = std::numeric_limits<std::int64_t>::max() / 2;
  std::atomic<std::int64_t> left_{kUnbounded};
  std::atomic<bool> demand_waits_{false};
};

}  // namespace tidepool::daemon
