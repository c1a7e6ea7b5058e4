// The cold-age threshold with a promotion-rate objective: how long memory must have been unused before it may go, so
// that what would have come back stays within what the VM can afford. Lagar-Cavilla et al., "Software-Defined Far
// Memory in Warehouse-Scale Computers", ASPLOS 2019, with the rate priced by the measured cost of a fault
// (docs/policy.md).
#pragma once

#include <array>
#include <cstdint>

#include "policy/region_heat.h"

namespace tidepool::policy {

class AgeThreshold {
 public:
  // Pages were used that had been unused for `age` scan periods: with a threshold of that or less they would have been
  // faults.
  void used(std::uint8_t age, float pages) { promotions_[age] += pages; }

  // A minute is over: `allowed` pages per minute may come back. `percentile` 0..1 of the past minutes' thresholds.
  void end_minute(double allowed, double percentile);

  // In scan periods; 0 until a minute has passed.
  std::uint8_t periods() const { return threshold_; }

 private:
  static constexpr std::uint32_t kRemembered = 1440;  // minutes; then all halve

  std::array<float, kAges> promotions_{};
  std::array<std::uint16_t, kAges> past_{};  // how often each threshold would have been right
  std::uint32_t minutes_ = 0;
  std::uint8_t threshold_ = 0;
};

}  // namespace tidepool::policy
