// For how long pages that came home should be spared by demotions of their region (the VM's hold; the pager makes of it
// a time for each page), so that what is asked for can still be had: long holds find the coldest pages, but leave few
// that may go.
//
// Steered by what the demotions that ended found: when a VM must give up memory and they find few pages each, or it
// stays above its limit, the hold shrinks; when they find many, or nothing must go, it grows.
#pragma once

#include <algorithm>
#include <cstdint>

namespace tidepool::policy {

class HoldControl {
 public:
  static constexpr float kShortest =
      0.1f;  // seconds: less than the shortest interval that is told, so nothing is spared
  static constexpr float kLongest = 600;

  // A demotion is over: so many pages went, and so many were spared.
  void ended(std::uint32_t pages, std::uint32_t spared) {
    any_ = true;
    if (spared == 0) return;
    pages_ += pages;
    ++moves_;
  }
  // Once per tick. `must_give`: more has to leave than is on its way. `excess`: the part of its limit that a VM has
  // above it; 0 without one.
  void end_tick(bool must_give, double excess) {
    const float found = moves_ == 0 ? 0 : static_cast<float>(pages_) / static_cast<float>(moves_);
    const bool too_few = moves_ != 0 && (found < kFew || (excess > kSmallExcess && found < kPlenty));
    if (must_give && (too_few || !any_)) {
      seconds_ *= excess > kLargeExcess ? kShrinkFast : kShrink;
    } else if (!must_give || found > kMany) {
      seconds_ *= kGrow;
    }
    seconds_ = std::clamp(seconds_, kShortest, kLongest);
    pages_ = 0;
    moves_ = 0;
    any_ = false;
  }
  float seconds() const { return seconds_; }

 private:
  // Pages of a region of 512: fewer, and the work is mostly looking; more, and those that leave last are old already.
  static constexpr float kFew = 16;
  static constexpr float kMany = 48;
  static constexpr float kPlenty = 256;
  static constexpr double kSmallExcess = 0.02;
  static constexpr double kLargeExcess = 0.05;
  static constexpr float kShrink = 0.9f;
  static constexpr float kShrinkFast = 0.8f;
  static constexpr float kGrow = 1.05f;

  float seconds_ = 20;
  std::uint64_t pages_ = 0;
  std::uint32_t moves_ = 0;  // that spared something
  bool any_ = false;
};

}  // namespace tidepool::policy
