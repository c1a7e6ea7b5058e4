// Latencies in logarithmic buckets: four per power of two, so a percentile is at most 12.5% off its bucket's middle.
//
// record() is lock-free and may be called from any number of threads; reading while others record gives a histogram
// that was true at some time in between for each bucket.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstdint>

namespace tidepool {

class LatencyHistogram {
 public:
  static constexpr unsigned kSubBits = 2;
  static constexpr unsigned kBuckets = (40u << kSubBits) + 1;  // up to 2^40 ns, 18 minutes

  struct Snapshot {
    std::array<std::uint64_t, kBuckets> counts{};
    std::uint64_t total = 0;
    std::uint64_t sum_ns = 0;

    // The value that `quantile` (0..1) of the records do not exceed; zero when there are none.
    std::chrono::nanoseconds percentile(double quantile) const {
      if (total == 0) return std::chrono::nanoseconds{0};
      const auto rank = static_cast<std::uint64_t>(quantile * static_cast<double>(total - 1)) + 1;
      std::uint64_t seen = 0;
      for (unsigned bucket = 0; bucket < kBuckets; ++bucket) {
        seen += counts[bucket];
        if (seen >= rank) return std::chrono::nanoseconds{(lower_bound_of(bucket) + lower_bound_of(bucket + 1)) / 2};
      }
      return std::chrono::nanoseconds{lower_bound_of(kBuckets - 1)};
    }
    void merge(const Snapshot& other) {
      for (unsigned i = 0; i < kBuckets; ++i) counts[i] += other.counts[i];
      total += other.total;
      sum_ns += other.sum_ns;
    }
  };

  void record(std::chrono::nanoseconds latency) {
    const auto ns = static_cast<std::uint64_t>(latency.count() < 0 ? 0 : latency.count());
    counts_[bucket_of(ns)].fetch_add(1, std::memory_order_relaxed);
    sum_ns_.fetch_add(ns, std::memory_order_relaxed);
  }

  Snapshot snapshot() const {
    Snapshot result;
    for (unsigned i = 0; i < kBuckets; ++i) {
      result.counts[i] = counts_[i].load(std::memory_order_relaxed);
      result.total += result.counts[i];
    }
    result.sum_ns = sum_ns_.load(std::memory_order_relaxed);
    return result;
  }

  static constexpr unsigned bucket_of(std::uint64_t ns) {
    if (ns < (1u << kSubBits)) return static_cast<unsigned>(ns);
    const auto exponent = static_cast<unsigned>(std::bit_width(ns)) - 1;
    const auto sub = static_cast<unsigned>((ns >> (exponent - kSubBits)) & ((1u << kSubBits) - 1));
    const unsigned bucket = ((exponent - kSubBits + 1) << kSubBits) + sub;
    return bucket < kBuckets ? bucket : kBuckets - 1;
  }
  static constexpr std::uint64_t lower_bound_of(unsigned bucket) {
    if (bucket < (1u << kSubBits)) return bucket;
    const unsigned exponent = (bucket >> kSubBits) + kSubBits - 1;
    const std::uint64_t sub = bucket & ((1u << kSubBits) - 1);
    return ((1ull << kSubBits) + sub) << (exponent - kSubBits);
  }

 private:
  std::array<std::atomic<std::uint64_t>, kBuckets> counts_{};
  std::atomic<std::uint64_t> sum_ns_{0};
};

}  // namespace tidepool
