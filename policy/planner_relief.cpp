// What goes of a VM whose memory control group is full, between two ticks.
#include <algorithm>

#include "base/quantity_text.h"
#include "policy/planner.h"

namespace tidepool::policy {
namespace {

constexpr Bytes kRelief{8ull << 20};  // goes at a time
constexpr std::uint32_t kReliefRegions = 32;

}  // namespace

// What was promised to the VM, its budgets and the bandwidth do not hold this up: the kernel would kill the VM, whose
// memory beyond its group's limit nobody can keep resident. What is there for the sake of the host does: others would
// pay for it.
void Planner::relieve(VmState& vm, Plan& plan) {
  if (!counts(vm) || stays_as_it_is(vm, plan)) return;
  const Bound bounds[] = {{far_ceiling_, Reason::kFarCeiling}, {tier_room(vm), Reason::kPoolFull}};
  const Bound bound = least(bounds);
  const std::uint32_t regions = std::min(kReliefRegions, demotions_left(vm));
  vm.heat.coldest(Pick::kAny, {kRelief.value / kPageSize, regions}, scratch_);
  const Decision decision =
      demote(vm, Reason::kGroupLimit, MoveKind::kForced, std::min(kRelief, bound.room), bound, -1, plan);
  record(vm, decision, plan, [&] {
    if (decision.reason == Reason::kNothingCold) return std::string("none of its memory can go");
    if (decision.regions == 0) return bound_text(vm, decision.reason);
    const Bytes left = in_dram(vm);
    std::string text = "its memory control group is full; resident " + short_text(left);
    if (left < vm.terms.guarantee) {
      text +=
          ", less than its guarantee of " + short_text(vm.terms.guarantee) + ", which gives way: the kernel would kill";
    }
    return text;
  });
}

}  // namespace tidepool::policy
