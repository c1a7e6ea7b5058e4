// What policy remembers of one VM from tick to tick.
#pragma once

#include "policy/hold.h"
#include "policy/stall_guard.h"
#include "policy/utilisation.h"
#include "policy/vm_heat.h"
#include "policy/vm_terms.h"

namespace tidepool::policy {

struct VmState {
  explicit VmState(VmId vm) : id(vm) {}

  VmId id;
  VmHeat heat;
  HoldControl hold;
  StallGuard stall;
  PingpongGuard pingpong;
  Utilisation history;
  VmTerms terms;  // of this tick
  // What a page of DRAM is worth to it under its limit, in seconds of waiting per second: the dearest page that had to
  // go for it lately; fades.
  double limit_price = 0;
  double predicted = 0;           // faults per second to come from what was trimmed lately and cannot be measured yet
  std::uint32_t next_minute = 0;  // tenths
  Decision last;                  // the record speaks when something changes
  bool recorded = false;
  bool must_give = false;  // in this tick: more had to go than was on its way
  bool seen = false;       // in this tick
};

}  // namespace tidepool::policy
