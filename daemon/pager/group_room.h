// How many more pages the VM's own memory control group takes. The kernel does not refuse the one beyond: it kills a
// process of the group. So nothing is installed that does not fit, and what waits for it has room made first.
//
// Every page installed is counted, and whoever reads the group's figures says how many more there may be since before
// it read: what was installed while it read counts, whether the figures have it already or not. Between two readings
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
  void set_unbounded() { allowed_.store(kUnbounded, std::memory_order_relaxed); }
  // Pages installed so far: what a reader asks for before it reads.
  std::uint64_t taken() const { return taken_.load(std::memory_order_seq_cst); }
  // So many more than had been then.
  void set(std::uint64_t taken_before, PageCount left) {
    allowed_.store(taken_before + left.value, std::memory_order_relaxed);
  }
  // Whether demand waits for room as well; otherwise only what is brought home ahead of it does.
  void let_demand_wait(bool on) { demand_waits_.store(on, std::memory_order_relaxed); }
  bool demand_waits() const { return demand_waits_.load(std::memory_order_relaxed); }

  // False: there is no room, and nothing was taken.
  bool take(std::uint64_t pages, bool demand) {
    const bool fits = taken_.load(std::memory_order_relaxed) + pages <= allowed_.load(std::memory_order_relaxed);
    if (!fits && (!demand || demand_waits())) return false;
    taken_.fetch_add(pages, std::memory_order_seq_cst);
    return true;
  }

 private:
  static constexpr std::uint64_t kUnbounded = std::numeric_limits<std::uint64_t>::max();
  std::atomic<std::uint64_t> allowed_{kUnbounded};
  std::atomic<std::uint64_t> taken_{0};
  std::atomic<bool> demand_waits_{false};
};

}  // namespace tidepool::daemon
