// What became of a plan: of what each decision wanted moved, how much somebody took on. What the record of decisions
// says comes from here.
#pragma once

#include <map>
#include <string>
#include <tuple>

#include "daemon/control/agent_service.h"
#include "policy/plan.h"

namespace tidepool::daemon {

class CarriedOut {
 public:
  // A move of the plan was taken on, or refused.
  void count(policy::Action action, const policy::Move& move, bool taken);
  // As it goes into the record; `vm`: its name.
  Decision line_of(const policy::Decision& decision, std::string vm) const;

 private:
  struct Sum {
    Bytes planned;
    Bytes taken;
  };
  std::map<std::tuple<VmId, policy::Action, policy::Reason>, Sum> sums_;
};

}  // namespace tidepool::daemon
