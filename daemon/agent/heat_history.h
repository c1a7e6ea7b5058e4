// How hot a VM's memory was, by address and time, in fixed memory: at most 64 stretches of address space, whatever the
// VM's size, over a week (some 40 KiB). Not thread-safe; time is the caller's.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "daemon/agent/coarsening_series.h"

namespace tidepool::daemon {

inline constexpr std::size_t kMostHeatBuckets = 64;

class HeatHistory {
 public:
  // A stretch of one memory object. With more objects than stretches the last one stands for all that found no place of
  // their own.
  struct Bucket {
    std::uint32_t object = 0;
    std::uint64_t first = 0;  // region
    std::uint64_t regions = 0;
    std::uint32_t objects = 1;  // that it stands for, whole ones if more than one: `object` and those behind it
    bool operator==(const Bucket&) const = default;
  };
  // What is known of a region now.
  struct Look {
    float rate = 0;  // uses of one of its pages per second
    std::uint32_t resident = 0;
    std::uint32_t far = 0;  // pages
  };
  // The mean over a column's time and a bucket's pages.
  struct Column {
    std::array<std::uint8_t, kMostHeatBuckets> temperature{};  // policy/exposure.h; 0: no memory there
    std::array<std::uint8_t, kMostHeatBuckets> far{};          // of 255
  };
  // Sweeps of all regions take so many ticks.
  static constexpr unsigned kSweepTicks = 15;

  HeatHistory();

  // Regions of each memory object. Where that changes, what was known is kept by address.
  void set_layout(std::span<const std::uint64_t> regions);
  // Looks at the next share of the regions; a whole sweep adds to the columns.
  void sweep(MonoTime now, const std::function<Look(std::uint32_t object, std::uint64_t region)>& look);

  const std::vector<Bucket>& buckets() const { return buckets_; }
  Nanoseconds period_for(Nanoseconds last) const { return series_.period_for(last); }
  auto last(Nanoseconds time, MonoTime now) const { return series_.last(time, now); }
  std::size_t footprint() const { return series_.footprint() + sizeof *this; }

 private:
  struct Sum {
    std::array<float, kMostHeatBuckets> uses{};  // per second, of all pages
    std::array<float, kMostHeatBuckets> pages{};
    std::array<float, kMostHeatBuckets> far{};
    Sum& operator+=(const Sum& more);
    Column column(unsigned count) const;
  };

  static std::vector<Bucket> divide(std::span<const std::uint64_t> regions);
  // The object and its region that the sweep has come to.
  std::pair<std::uint32_t, std::uint64_t> here();

  std::vector<std::uint64_t> layout_;
  std::vector<Bucket> buckets_;
  CoarseningSeries<Sum, Column> series_;
  Sum sweep_;
  std::size_t bucket_ = 0;
  std::uint64_t region_ = 0;       // within the bucket
  std::uint32_t rest_object_ = 0;  // of a bucket of several objects: behind the first, and where it begins
  std::uint64_t rest_begin_ = 0;
};

}  // namespace tidepool::daemon
