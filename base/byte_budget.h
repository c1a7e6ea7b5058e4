// So many bytes per second, shared by all who take of it: what work in the background may cost. Thread-safe.
#pragma once

#include <algorithm>
#include <chrono>
#include <mutex>

#include "base/clock.h"
#include "base/units.h"

namespace tidepool {

class ByteBudget {
 public:
  // What is not used is kept for 50 ms, or as much as one piece. Zero: as much as is asked for.
  explicit ByteBudget(Bytes per_second) : per_second_(per_second) {}

  void set(Bytes per_second) {
    const std::lock_guard lock(mutex_);
    per_second_ = per_second;
  }

  // False: not yet.
  bool take(Bytes piece, MonoTime now) {
    const std::lock_guard lock(mutex_);
    if (!has(static_cast<double>(piece.value), now)) return false;
    left_ -= static_cast<double>(piece.value);
    return true;
  }

  // For whoever learns only afterwards how much it was: to begin nothing while former work is not paid for.
  bool is_paid(MonoTime now) {
    const std::lock_guard lock(mutex_);
    return has(0, now);
  }
  void spend(Bytes piece) {
    const std::lock_guard lock(mutex_);
    left_ -= static_cast<double>(piece.value);
  }

 private:
  static constexpr double kKeptSeconds = 0.05;

  bool has(double wanted, MonoTime now) {
    const auto rate = static_cast<double>(per_second_.value);
    const double passed = std::clamp(std::chrono::duration<double>(now - at_).count(), 0.0, 1.0);
    at_ = now;
    left_ = std::min(left_ + passed * rate, std::max(rate * kKeptSeconds, wanted));
    if (per_second_ == Bytes{}) left_ = wanted;
    return left_ >= wanted;
  }

  std::mutex mutex_;
  Bytes per_second_;
  MonoTime at_{};
  double left_ = 0;
};

}  // namespace tidepool
