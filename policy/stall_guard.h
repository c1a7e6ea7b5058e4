// Keeps a VM's waiting within its budget: when the measured stall is above, trimming pauses, for longer each time that
// it happens again, and the VM's allowance halves; after quiet it is trusted again.
#pragma once

#include <cstdint>

#include "policy/config.h"

namespace tidepool::policy {

class StallGuard {
 public:
  // `now` in tenths of a second.
  void measure(double stall, double budget, std::uint32_t now, const PolicyConfig& config);
  bool over() const { return over_; }
  bool paused(std::uint32_t now) const { return now < paused_until_; }
  std::uint32_t paused_until() const { return paused_until_; }
  // The part of its fault allowance that the VM may use for now.
  double trust() const { return 1.0 / (1u << level_); }
  unsigned level() const { return level_; }

 private:
  static constexpr unsigned kMaxLevel = 5;

  std::uint32_t paused_until_ = 0;
  std::uint32_t calm_since_ = 0;
  std::uint8_t level_ = 0;
  bool over_ = false;
};

// Stops trimming while too much of what was trimmed comes back.
class PingpongGuard {
 public:
  // Totals that only grow.
  void measure(std::uint64_t moved, std::uint64_t returned, std::uint32_t now, const PolicyConfig& config);
  bool paused(std::uint32_t now) const { return now < paused_until_; }
  std::uint32_t paused_until() const { return paused_until_; }
  // What led to the last pause, in pages.
  std::uint64_t moved() const { return cause_moved_; }
  std::uint64_t returned() const { return cause_returned_; }

 private:
  static constexpr unsigned kMaxLevel = 4;

  // Two half-windows: what lies further back is forgiven.
  std::uint64_t base_moved_[2] = {0, 0};
  std::uint64_t base_returned_[2] = {0, 0};
  std::uint32_t half_started_ = 0;
  std::uint32_t paused_until_ = 0;
  std::uint64_t cause_moved_ = 0;
  std::uint64_t cause_returned_ = 0;
  std::uint8_t level_ = 0;
};

}  // namespace tidepool::policy
