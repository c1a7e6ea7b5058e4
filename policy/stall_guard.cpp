#include "policy/stall_guard.h"

#include <algorithm>

namespace tidepool::policy {
namespace {

constexpr std::uint32_t kForgiveAfter = 6000;  // tenths: ten minutes of calm undo one doubling

std::uint32_t tenths(Nanoseconds time) {
  const auto count = std::chrono::duration_cast<std::chrono::milliseconds>(time).count() / 100;
  return static_cast<std::uint32_t>(std::clamp<std::int64_t>(count, 1, 1u << 24));
}

}  // namespace

void StallGuard::measure(double stall, double budget, std::uint32_t now, const PolicyConfig& config) {
  // A budget of all its time is none: the sum over its threads may be more.
  over_ = budget < 1 && stall > budget;
  if (budget >= 1) paused_until_ = 0;
  if (!over_) {
    if (level_ > 0 && now - calm_since_ >= kForgiveAfter) {
      --level_;
      calm_since_ = now;
    }
    return;
  }
  calm_since_ = now;
  const std::uint32_t pause = tenths(config.stall_pause) << level_;
  // One excess is one offence, however many ticks it lasts: the next begins when the pause has passed in vain.
  if (now >= paused_until_) {
    if (level_ < kMaxLevel) ++level_;
    paused_until_ = now + pause;
  }
}

void PingpongGuard::measure(std::uint64_t moved, std::uint64_t returned, std::uint32_t now,
                            const PolicyConfig& config) {
  const std::uint32_t half = std::max(1u, tenths(config.regret_window) / 2);
  if (now - half_started_ >= half) {
    const bool recent = now - half_started_ < 2 * half;
    base_moved_[0] = recent ? base_moved_[1] : moved;
    base_returned_[0] = recent ? base_returned_[1] : returned;
    base_moved_[1] = moved;
    base_returned_[1] = returned;
    half_started_ = now;
    if (level_ > 0 && now >= paused_until_ + kForgiveAfter) --level_;
  }
  const std::uint64_t window_moved = moved - base_moved_[0];
  const std::uint64_t window_returned = returned - base_returned_[0];
  if (window_moved < config.pingpong_min_pages ||
      static_cast<double>(window_returned) <= config.pingpong_share * static_cast<double>(window_moved)) {
    return;
  }
  paused_until_ = now + (tenths(config.pingpong_pause) << level_);
  if (level_ < kMaxLevel) ++level_;
  cause_moved_ = window_moved;
  cause_returned_ = window_returned;
  base_moved_[0] = base_moved_[1] = moved;
  base_returned_[0] = base_returned_[1] = returned;
  half_started_ = now;
}

}  // namespace tidepool::policy
