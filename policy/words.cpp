// The words by which classes, actions and reasons are known outside.
#include "policy/config.h"
#include "policy/plan.h"

namespace tidepool::policy {
namespace {

constexpr std::string_view kClasses[kServiceClasses] = {"latency-sensitive", "standard", "batch"};

}  // namespace

std::string_view word(ServiceClass service_class) {
  return kClasses[static_cast<unsigned>(service_class)];
}

std::optional<ServiceClass> parse_service_class(std::string_view text) {
  for (unsigned i = 0; i < kServiceClasses; ++i) {
    if (kClasses[i] == text) return static_cast<ServiceClass>(i);
  }
  return std::nullopt;
}

IntakeCounts& IntakeCounts::operator+=(const IntakeCounts& other) {
  news += other.news;
  samples += other.samples;
  samples_stale += other.samples_stale;
  samples_absurd += other.samples_absurd;
  news_absurd += other.news_absurd;
  values_absurd += other.values_absurd;
  duplicate_vms += other.duplicate_vms;
  clock_jumps += other.clock_jumps;
  return *this;
}

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
      "cold",       "canary",       "over-limit",   "host-pressure", "below-guarantee", "promote-back", "nothing-cold",
      "guarantee",  "stall-budget", "fault-budget", "pingpong",      "far-ceiling",     "pool-full",    "not-evacuable",
      "rate-limit", "no-memory",    "held",         "frozen",        "keeper-away",     "deeper",       "group-limit"};
  return kWords[static_cast<unsigned>(reason)];
}

}  // namespace tidepool::policy
