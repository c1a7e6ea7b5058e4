// Decides what moves in one tick. Deterministic: the same snapshot, state and configuration give the same plan.
//
// The order of precedence, highest first: a frozen host or a held VM moves nothing; a guarantee is never broken, and is
// restored when it is; a VM whose threads wait longer than their budget loses nothing more; an operator's limit is
// reached even when nothing is cold; cold memory goes. All of it within the rate limit, the pool's capacity, the
// ceiling on far bytes and what could still be brought home (docs/policy.md).
#pragma once

#include "policy/region_history.h"
#include "policy/types.h"

namespace tidepool::policy {

Plan plan_tick(const Snapshot& snapshot, PolicyState& state, const PolicyConfig& config);

// Whether everything that is far would fit back now.
struct Evacuation {
  Bytes far;
  Bytes spare;      // available - reserve, and what the pool returns while it empties
  Bytes shortfall;  // far - spare, at least zero
  Nanoseconds estimate{0};
};
Evacuation evacuation(const HostView& host, Bytes far, Bytes bandwidth_per_second);

}  // namespace tidepool::policy
