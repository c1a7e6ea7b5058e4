#include "policy/pressure.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "base/quantity_text.h"

namespace tidepool::policy {
namespace {

constexpr double kSlopeWindow = 20;      // seconds
constexpr double kForecast = 10;         // seconds ahead
constexpr double kPressureShare = 0.01;  // of the reserve, for each tenth of PSI above the limit

}  // namespace

std::string_view word(PressureLevel level) {
  static constexpr std::string_view kWords[] = {"none", "trim-cold", "extend-pool", "migrate", "refuse-vms"};
  return kWords[static_cast<unsigned>(level)];
}

PressureLevel PressureLadder::step_that_suffices(const PressureInput& input, Bytes shortage) const {
  if (shortage == Bytes{}) return PressureLevel::kNone;
  if (input.available.value < input.reserve.value / 4) return PressureLevel::kRefuseVms;
  if (input.cold >= shortage && !input.pool_full) return PressureLevel::kTrimCold;
  if (input.above_guarantees >= shortage) return PressureLevel::kExtendPool;
  return PressureLevel::kMigrate;
}

Pressure PressureLadder::measure(const PressureInput& input, std::uint32_t now, const PolicyConfig& config) {
  const auto available = static_cast<double>(input.available.value);
  const double passed = (now - last_) * 0.1;
  if (last_available_ >= 0 && passed > 0) {
    const double part = 1 - std::exp(-passed / kSlopeWindow);
    slope_ += part * ((available - last_available_) / passed - slope_);
  }
  last_ = now;
  last_available_ = available;
  const auto reserve = static_cast<double>(input.reserve.value);
  const double forecast = std::min(available, available + slope_ * kForecast);
  // Once trimming has begun it goes on to some way above the reserve, or it would begin again at once.
  const double wanted = level_ == PressureLevel::kNone ? reserve : reserve * (1 + config.trim_margin);
  Pressure result;
  result.shortage = saturating_bytes(wanted - forecast);
  if (input.psi > config.pressure_high) {
    result.shortage = std::max(result.shortage, saturating_bytes(reserve * kPressureShare * input.psi / 0.1));
  }

  const PressureLevel needed = step_that_suffices(input, result.shortage);
  const auto patience = static_cast<std::uint32_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(config.pressure_patience).count() / 100);
  PressureLevel next = level_;
  if (needed > level_) {
    next = needed;
  } else if (needed == level_ && level_ > PressureLevel::kNone && level_ < PressureLevel::kRefuseVms &&
             available < reserve && now - since_ >= patience) {
    // It ought to have sufficed, and has not.
    next = static_cast<PressureLevel>(static_cast<int>(level_) + 1);
  }
  // Below the reserve nothing is calm, whatever ought to suffice.
  if (needed >= level_ || available < reserve) calm_since_ = now;
  if (needed < level_ && now - calm_since_ >= patience) {
    next = static_cast<PressureLevel>(static_cast<int>(level_) - 1);
    calm_since_ = now;
  }
  result.changed = next != level_;
  if (result.changed) since_ = now;
  level_ = next;
  result.level = level_;
  if (level_ >= PressureLevel::kExtendPool) result.pool_wanted = result.shortage;
  char psi[32];
  std::snprintf(psi, sizeof psi, "%.1f%%", input.psi * 100);
  if (result.changed || level_ != PressureLevel::kNone) {
    result.detail = "available " + short_text(input.available) + ", reserve " + short_text(input.reserve) +
                    ", short of " + short_text(result.shortage) + ", cold " + short_text(input.cold) +
                    ", above guarantees " + short_text(input.above_guarantees) + ", pressure " + psi;
  }
  return result;
}

}  // namespace tidepool::policy
