// So many bytes per second, shared by all who take of it: what copies of slices may cost. Thread-safe.
#pragma once

#include <algorithm>
#include <chrono>
#include <mutex>

#include "base/clock.h"
#include "base/units.h"

namespace tidepool::pool {

class ByteBudget {
 public:
  // What is not used is kept for 50 ms, or as much as one piece. Zero: as much as is asked for.
  explicit ByteBudget(Bytes per_second) : per_second_(per_second) {}

  // False: not yet.
  bool take(Bytes piece, MonoTime now) {
    if (per_second_ == Bytes{}) return true;
    const std::lock_guard lock(mutex_);
    const double passed = std::clamp(std::chrono::duration<double>(now - at_).count(), 0.0, 1.0);
    at_ = now;
    const auto rate = static_cast<double>(per_second_.value);
    const auto wanted = static_cast<double>(piece.value);
    left_ = std::min(left_ + passed * rate, std::max(rate * kKeptSeconds, wanted));
    if (left_ < wanted) return false;
    left_ -= wanted;
    return true;
  }

 private:
  static constexpr double kKeptSeconds = 0.05;
  const Bytes per_second_;
  std::mutex mutex_;
  MonoTime at_{};
  double left_ = 0;
};

}  // namespace tidepool::pool
