// The host's ladder: trim cold memory, extend into the pool, ask for a VM to be migrated, refuse new VMs. Up when the
// step before does not help, down one by one once there has been room for a while.
#pragma once

#include <cstdint>

#include "policy/config.h"
#include "policy/plan.h"

namespace tidepool::policy {

struct PressureInput {
  Bytes available;
  Bytes reserve;
  double psi = 0;
  // What each step can still give, in freed DRAM.
  Bytes cold;
  Bytes above_guarantees;
  bool pool_full = false;
};

class PressureLadder {
 public:
  // `now` in tenths of a second.
  Pressure measure(const PressureInput& input, std::uint32_t now, const PolicyConfig& config);
  PressureLevel level() const { return level_; }

 private:
  PressureLevel step_that_suffices(const PressureInput& input, Bytes shortage) const;

  PressureLevel level_ = PressureLevel::kNone;
  std::uint32_t since_ = 0;       // on this level
  std::uint32_t calm_since_ = 0;  // a lower one would have done since then
  std::uint32_t last_ = 0;
  double last_available_ = -1;
  double slope_ = 0;  // bytes per second, averaged over some 20 s
};

}  // namespace tidepool::policy
