// The latest of some latencies, and what is usual among them. Any thread, without locks.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>

#include "base/clock.h"

namespace tidepool::pool {

class RecentLatencies {
 public:
  static constexpr std::size_t kKept = 256;

  void record(Nanoseconds latency) {
    const std::uint64_t number = recorded_.fetch_add(1, std::memory_order_relaxed);
    kept_[number % kKept].store(latency.count(), std::memory_order_relaxed);
  }

  struct Usual {
    Nanoseconds median{0};
    Nanoseconds slow{0};  // the 95th percentile
  };
  // Zeros when there are none.
  Usual usual() const {
    const auto count =
        static_cast<std::size_t>(std::min<std::uint64_t>(recorded_.load(std::memory_order_relaxed), kKept));
    if (count == 0) return {};
    std::array<Nanoseconds::rep, kKept> values{};
    for (std::size_t i = 0; i < count; ++i) values[i] = kept_[i].load(std::memory_order_relaxed);
    const auto rank = [&](std::size_t percent) {
      const auto nth = values.begin() + static_cast<std::ptrdiff_t>((count - 1) * percent / 100);
      std::nth_element(values.begin(), nth, values.begin() + static_cast<std::ptrdiff_t>(count));
      return Nanoseconds{*nth};
    };
    return {rank(50), rank(95)};
  }

 private:
  std::array<std::atomic<Nanoseconds::rep>, kKept> kept_{};
  std::atomic<std::uint64_t> recorded_{0};
};

}  // namespace tidepool::pool
