// What is remembered of each region between ticks: 16 bytes per 2 MiB.
#pragma once

#include <cstdint>
#include <vector>

#include "policy/types.h"

namespace tidepool::policy {

struct RegionHistory {
  float heat = 0;                // share of sampled pages that were touched, exponentially averaged
  std::uint32_t last_touch = 0;  // seconds of the monotonic clock
  std::uint32_t demoted_at = 0;  // 0: never
  std::uint8_t backoff = 0;      // the age limit is doubled this many times
  std::uint8_t samples = 0;      // observations so far, saturating
  std::uint16_t reserved = 0;
};
static_assert(sizeof(RegionHistory) == 16);

// Two half-windows of moves and regrets, so that old sins are forgotten.
struct RegretCount {
  std::uint32_t moved[2] = {0, 0};
  std::uint32_t regretted[2] = {0, 0};
  std::uint32_t half_started = 0;
};

struct VmHistory {
  VmId id;
  std::vector<std::vector<RegionHistory>> objects;
  RegretCount regrets;
  std::uint32_t paused_until = 0;
  Reason pause_reason = Reason::kPingpong;
  std::uint32_t pause_moved = 0;  // what led to the pause
  std::uint32_t pause_regretted = 0;
  Decision last;  // the record speaks when something changes
};

// Everything policy remembers. Give it back unchanged with the next tick; empty to begin with.
struct PolicyState {
  std::vector<VmHistory> vms;  // sorted by id
  double demote_tokens = 0;    // bytes
  MonoTime last_tick{};
};

// Takes in what was seen of a VM. `now` in seconds.
void observe(const VmView& vm, std::uint32_t now, const PolicyConfig& config, VmHistory& history);

}  // namespace tidepool::policy
