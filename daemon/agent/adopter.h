// Adoption and release, whole: from a process, taken hold of or handed off by itself, to served memory, and back to a
// process as it was found.
//
// Every step that fails undoes the ones before it. Blocking (milliseconds to minutes): not for fault or request
// threads. Thread-safe: of two adoptions that want the same process or the same name, the later one fails.
#pragma once

#include <functional>
#include <memory>

#include "daemon/agent/adoption_claims.h"
#include "daemon/agent/canary.h"
#include "daemon/agent/context.h"
#include "daemon/agent/memory_plan.h"
#include "daemon/agent/operations.h"
#include "daemon/agent/vm_rules.h"
#include "daemon/vm/eligibility.h"
#include "daemon/vm/handoff_receiver.h"

namespace tidepool::daemon {

// For how long a release may bring home before it gives up.
inline constexpr auto kReleasePatience = std::chrono::minutes(10);

class Adopter {
 public:
  Adopter(Context& context, Canary& canary) : context_(context), canary_(canary) {}

  // What adoption would do.
  Result<AdoptOutcome> check(const AdoptRequest& request);
  // `handle` may be nullptr: nobody follows.
  Result<std::shared_ptr<ManagedVm>> adopt(const AdoptRequest& request, VmOrigin origin,
                                           const Operations::Handle* handle);
  // A process that handed itself off is served from here on, whatever speaks against moving its memory: then none of it
  // is moved. Refused (see Eligibility::servable) it is left alone, and its faults stay unanswered.
  // The connection is taken only when it succeeds, and kept open until the VM is released.
  Result<std::shared_ptr<ManagedVm>> take_over(Handoff& handoff);

  Result<> release(const std::shared_ptr<ManagedVm>& vm, const Operations::Handle* handle);
  // Whether a process of a control group may join the workload of that group. Any thread.
  bool may_join_workload(const ProcessIdentity& id) const;
  // The process ended by itself: forget it.
  void bury(const std::shared_ptr<ManagedVm>& vm);

 private:
  struct Candidate {
    ProcessFacts facts;
    Eligibility verdict;
    std::vector<kernel::MemoryHolder> family;
    RuleSubject subject;
  };
  struct Taken;
  // What both ways in come to: who it is, and what the pager is to manage.
  struct Enrolment {
    std::shared_ptr<ManagedVm> vm;
    VmSpec spec;
    RuleSubject subject;
    VmSettings settings;
    // With the descriptors held, and before any fault is answered.
    std::function<Result<>(ManagedVm&)> before_serving;
    // With all of it registered, and before policy knows of it: is it still what was looked at?
    std::function<Result<>(ManagedVm&)> before_moving;
  };

  // Which process is meant: from here on it is known by its start time too.
  Result<ProcessIdentity> identify(const AdoptRequest& request) const;
  // Looks again while a userfaultfd in the way may be one that we ourselves are letting go of.
  Result<Candidate> inspect(const AdoptRequest& request, const ProcessIdentity& id) const;
  Result<Candidate> look_at(const AdoptRequest& request, const ProcessIdentity& id) const;
  void judge_family(Candidate& candidate, const AdoptRequest& request) const;
  AdoptionRules rules_for(const Candidate& candidate, const AdoptRequest& request) const;
  Result<> check_unchanged(const ManagedVm& vm, const Candidate& candidate, const AdoptRequest& request) const;
  Result<VmSpec> describe(const Candidate& candidate, Taken& taken);
  Result<SpaceSpec> space_of(const ProcessIdentity& id, std::vector<MappingSpec> mappings, bool needs_ring,
                             Taken& taken);
  Result<std::string> choose_name(const std::string& asked, const ProcessFacts& facts,
                                  AdoptionClaims::Claim& claim) const;
  std::shared_ptr<ManagedVm> new_vm(const ProcessFacts& facts, VmOrigin origin, const std::string& name) const;
  // Serves it, in observe mode, and tells the mode that its settings ask for. On failure nothing of the VM is left in
  // the agent or with the holder; what was placed in its processes is the caller's to undo.
  Result<Mode> enrol(Enrolment& enrolment, std::span<const PlacedFoothold> placed, const Operations::Handle* handle);
  void become(ManagedVm& vm, Mode wanted);
  void leave_pool(ManagedVm& vm);
  Result<> hold(const std::shared_ptr<ManagedVm>& vm);
  Result<> bring_home(const std::shared_ptr<ManagedVm>& vm, const Operations::Handle* handle);
  void undo(Taken& taken);
  void count(const Eligibility& verdict, bool succeeded);

  // adopter_workload.cpp
  struct WorkloadCandidate {
    ProcessFacts facts;
    std::vector<pid_t> pids;
    std::vector<VmMappingStatus> mappings;
    Eligibility verdict;
    RuleSubject subject;
  };
  Result<WorkloadCandidate> look_at_workload(const AdoptRequest& request, const ProcessIdentity& id) const;
  Eligibility against_workload(const ProcessFacts& facts) const;
  Result<AdoptOutcome> check_workload(const AdoptRequest& request, const ProcessIdentity& id) const;
  Result<std::shared_ptr<ManagedVm>> adopt_workload(const AdoptRequest& request, const ProcessIdentity& id,
                                                    AdoptionClaims::Claim& claim, const Operations::Handle* handle);
  void take_beside(ManagedVm& vm) const;
  void forget_beside(const ManagedVm& vm) const;
  Bytes unswap(const ManagedVm& vm, const Operations::Handle* handle) const;
  Result<> release_workload(const std::shared_ptr<ManagedVm>& vm, const Operations::Handle* handle);

  // adopter_handoff.cpp
  struct Given;
  Result<Given> inspect_handoff(Handoff& handoff) const;
  Result<> place_ring(Given& given) const;
  Result<Enrolment> prepare_handoff(Given& given, Handoff& handoff, const std::string& name) const;
  void try_kernel_faults(const ManagedVm& vm, Given& given) const;

  Context& context_;
  Canary& canary_;
  AdoptionClaims claims_;
};

}  // namespace tidepool::daemon
