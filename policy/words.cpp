// The words by which actions and reasons are known outside.
#include "policy/plan.h"

namespace tidepool::policy {

std::string_view word(Action action) {
  switch (action) {
    case Action::kDemote:
      return "demote";
    case Action::kRestore:
      return "restore";
    default:
      return "none";
  }
}

std::string_view word(Reason reason) {
  static constexpr std::string_view kWords[kReasonCount] = {
      "cold",         "canary",       "over-limit", "host-pressure", "below-guarantee", "promote-back",
      "nothing-cold", "guarantee",    "stall-budget", "fault-budget",  "pingpong",        "far-ceiling",
      "pool-full",    "not-evacuable", "rate-limit", "no-memory",     "held",            "frozen"};
  return kWords[static_cast<unsigned>(reason)];
}

}  // namespace tidepool::policy
