// What one VM is held to in this tick, with its class's settings filled in and absurd values replaced.
#pragma once

#include <cstdint>

#include "policy/config.h"
#include "policy/plan.h"

namespace tidepool::policy {

struct VmTerms {
  Mode mode = Mode::kObserve;
  bool held = false;
  bool partial = false;
  bool spares = false;
  double stall = 0;
  double budget = 0;
  double weight = 1;
  unsigned threads = 1;
  double fault_cost = 20e-6;  // seconds of waiting
  TierMask tiers = kAllTiers;
  std::optional<unsigned> shallow_tier;
  LeasedRoom leased;
  double faults_allowed = 0;  // per second, by the whole stall budget
  std::uint8_t min_age = 1;   // scan periods
  Bytes promised, resident, leaving, far, guarantee;
  Bytes shallow_dram;  // that its pages in the shallow tier take, and would not in another
  std::optional<Bytes> limit;
};

// `tier_fault_cost`: what a far page costs where the VM's own is not known yet, in seconds.
VmTerms terms_of(const VmView& vm, const PolicyConfig& config, double tier_fault_cost, IntakeCounts& counts);

// How much of it is where.
void take_sizes(const VmSizes& sizes, VmTerms& terms, IntakeCounts& counts);

// The host, likewise.
HostView sane_host(const HostView& host, IntakeCounts& counts);

}  // namespace tidepool::policy
