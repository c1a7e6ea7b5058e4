// Questions about the host as a whole: would everything that is far fit back, and would one more VM fit?
#pragma once

#include <span>
#include <string>
#include <vector>

#include "policy/plan.h"
#include "policy/utilisation.h"

namespace tidepool::policy {

// Whether everything that is far would fit back now.
struct Evacuation {
  Bytes far;
  Bytes spare;      // available - reserve, and what tiers in host DRAM give back while they empty
  Bytes shortfall;  // far - spare, at least zero
  Nanoseconds estimate{0};
};
Evacuation evacuation(const HostView& host, Bytes far, Bytes bandwidth_per_second);

// What a VM holds of the host: a part at all times, and in each window of the day up to so much more.
struct Commitment {
  Bytes guaranteed;
  std::vector<Bytes> oversubscribed;  // by window; empty: none
};

// From its guarantee and its history. Without a history that can be relied on, it may want all that it was promised.
Commitment commitment_of(Bytes guarantee, Bytes promised, const Utilisation& history, double quantile);

struct Fit {
  bool fits = false;
  Bytes capacity;          // DRAM that VMs may use: total - reserve - what others use
  Bytes guaranteed;        // sum over VMs, the new one included
  Bytes oversubscribed;    // sum in the window in which it is largest, the new one included
  unsigned window = 0;     // that window
  Bytes spare;             // capacity - both, or
  Bytes shortfall;         // what is missing
  std::string arithmetic;  // the sum, for people
};

// `others`: memory that is neither a VM's nor free, the pool's own included. A host under pressure that refuses VMs
// (Pressure::level) fits none, whatever the sum says.
Fit fits(Bytes total, Bytes reserve, Bytes others, std::span<const Commitment> held, Bytes guaranteed,
         Bytes oversubscribed, unsigned windows, PressureLevel pressure);

}  // namespace tidepool::policy
