// Makes one tick's plan from the VMs' states: who gives what, and why not more.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "policy/tiers.h"
#include "policy/vm_state.h"

namespace tidepool::policy {

// What is carried from tick to tick beside the VMs' states.
struct PlannerState {
  double demote_tokens = 0;   // bytes
  double restore_tokens = 0;  // bytes
  double dram_price = 0;      // what a page of DRAM was worth when last it was scarce; fades
  std::uint32_t turn = 0;     // whose turn it is to be served first
};

class Planner {
 public:
  Planner(const HostView& host, std::span<VmState* const> vms, const Moment& now, double passed, PlannerState& state,
          const PolicyConfig& config);

  // `shortage` of host memory, and how far the ladder has gone.
  void run(const Pressure& pressure, Plan& plan);
  // Something of a VM whose memory control group is full.
  void relieve(VmState& vm, Plan& plan);

 private:
  struct Want {
    Bytes amount;
    Reason reason = Reason::kCold;
    Pick pick = Pick::kRipe;
  };

  void refill();
  std::vector<Want> wants(const Pressure& pressure);
  void share_among(const Pressure& pressure, std::vector<Want>& wants);
  bool stays_as_it_is(VmState& vm, Plan& plan) const;
  void plan_vm(VmState& vm, const Want& want, Plan& plan);
  void price_limit(VmState& vm) const;
  double price_of(const VmState& vm) const;
  double shallow_part(const VmState& vm) const;
  void go_deeper(VmState& vm, Plan& plan);
  // What counts against its limit.
  Bytes against_limit(const VmState& vm) const { return in_dram(vm) + vm.terms.shallow_dram; }
  bool restore_guarantee(VmState& vm, Plan& plan);
  void promote_back(VmState& vm, Plan& plan);
  void force(VmState& vm, const Want& want, Plan& plan);
  void trim(VmState& vm, Plan& plan);
  void canaries(VmState& vm, Plan& plan);
  struct Bound {
    Bytes room;
    Reason reason;
  };
  Bytes tier_room(const VmState& vm) const;
  int choose_tier(const VmState& vm, const Candidate& candidate) const;
  Bound tightest(const VmState& vm, bool urgent = false) const;
  static Bound least(std::span<const Bound> bounds);
  // Demotes as far as `room` and `faults` (per second) go.
  // The candidates are those in `scratch_`.
  Decision demote(VmState& vm, Reason reason, MoveKind kind, Bytes amount, const Bound& bound, double faults,
                  Plan& plan);
  Decision restore(VmState& vm, Reason reason, Bytes amount, float least_rate, Plan& plan);
  double faults_left(const VmState& vm) const;
  template <class Detail>
  void record(VmState& vm, const Decision& decision, Plan& plan, Detail&& detail) const;
  static Decision nothing(const VmState& vm, Reason reason);
  std::string bound_text(const VmState& vm, Reason reason) const;

  Bytes in_dram(const VmState& vm) const;  // resident, without what is on its way out
  static Bytes going(const VmState& vm);   // on its way out, or ordered to go
  // Its decisions are carried out.
  bool counts(const VmState& vm) const { return vm.terms.mode == Mode::kActive; }

  const HostView& host_;
  std::span<VmState* const> vms_;
  const Moment now_;
  const double passed_;  // seconds
  PlannerState& state_;
  const PolicyConfig& config_;
  TierChooser tiers_;
  Bytes far_ceiling_;
  bool evacuable_ = true;
  Bytes spare_;  // host memory that may still be filled by what comes home
  std::uint32_t demotions_left(const VmState& vm) const;

  std::uint32_t demotions_left_;
  std::uint32_t restores_left_;
  std::vector<Candidate> scratch_;
};

// Moves are always recorded; that nothing is done, or would be, only when it is something new. The text is written only
// then.
template <class Detail>
void Planner::record(VmState& vm, const Decision& decision, Plan& plan, Detail&& detail) const {
  const bool moves = decision.action != Action::kNone && vm.terms.mode != Mode::kObserve;
  const bool news = !vm.recorded || moves || vm.last.action != decision.action || vm.last.reason != decision.reason ||
                    vm.last.would != decision.would;
  vm.recorded = true;
  vm.last = decision;
  if (!news) return;
  plan.decisions.push_back(decision);
  plan.decisions.back().detail = detail();
}

}  // namespace tidepool::policy
