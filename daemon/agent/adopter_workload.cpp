// Adoption and release of workloads, whose memory the kernel moves on our word. Nothing is placed in a process, nothing
// of it stops, and so nothing has to be taken back.
#include <unistd.h>

#include <algorithm>
#include <array>

#include "daemon/agent/adopter.h"
#include "daemon/agent/kernel_tier_view.h"
#include "daemon/agent/process_search.h"

namespace tidepool::daemon {
namespace {

// What speaks against a workload. All else is about what the pager places in processes, and about memory that something
// besides them sees: the kernel's own swap is coherent for everybody. A userfaultfd is somebody else's business with
// the memory, and could leave whoever reads a page there waiting for that somebody.
constexpr std::array<std::string_view, 6> kCodes{"self",          "kernel-thread",    "zombie",
                                                 "not-permitted", "not-allow-listed", "userfaultfd"};

std::vector<VmMappingStatus> mappings_of(std::span<const AddressRange> ranges) {
  std::vector<VmMappingStatus> list;
  for (const AddressRange& range : ranges) list.push_back({range, "private", "[anon]", "pageout", Bytes{kPageSize}});
  return list;
}

Failure refused(const std::string& attempted, const Finding& finding) {
  return failure(std::errc::operation_not_permitted, attempted + ": " + finding.message, "", finding.remedy);
}

}  // namespace

Result<Adopter::WorkloadCandidate> Adopter::look_at_workload(const AdoptRequest& request,
                                                             const ProcessIdentity& id) const {
  auto facts = collect_process_facts(id.pid, context_.roots);
  if (!facts) return Failure{facts.error()};
  if (facts->id != id)
    return failure(std::errc::no_such_process, "adopt",
                   "process " + std::to_string(id.pid) + ": it ended, and its pid was given to another");
  WorkloadCandidate candidate;
  candidate.verdict = against_workload(*facts);
  if (const auto against = against_kernel_tier(context_.config().kernel_tier.swap, context_.swap_mover->tier().kernel))
    candidate.verdict.findings.push_back(*against);
  if (auto process = kernel::Process::open(context_.roots, id.pid)) {
    candidate.subject = rule_subject(*process, facts->name, facts->executable);
    if (const auto maps = process->maps()) candidate.mappings = mappings_of(swappable_mappings(*maps));
  }
  if (candidate.mappings.empty() && candidate.verdict.eligible())
    candidate.verdict.findings.push_back({FindingKind::kRefusal, "nothing-to-manage",
                                          "no private anonymous mapping of 256 KiB or more",
                                          "only such memory is paged out; see docs/eligibility.md", false});
  candidate.pids = {id.pid};
  if (!request.cgroup.empty()) {
    auto members = processes_of_cgroup(context_.roots, request.cgroup);
    if (!members) return Failure{members.error()};
    candidate.pids.insert(candidate.pids.end(), members->begin(), members->end());
  }
  candidate.facts = std::move(*facts);
  return candidate;
}

Eligibility Adopter::against_workload(const ProcessFacts& facts) const {
  AdoptionRules rules;
  rules.allow_executables = context_.config().adopt.allow_exe;
  rules.own_processes = {::getpid(), context_.clerk->holder_pid()};
  Eligibility verdict = check_eligibility(facts, rules);
  std::erase_if(verdict.findings,
                [](const Finding& finding) { return std::ranges::find(kCodes, finding.code) == kCodes.end(); });
  return verdict;
}

bool Adopter::may_join_workload(const ProcessIdentity& id) const {
  if (context_.vms.find(id) != nullptr || claims_.has(id)) return false;
  const auto facts = collect_process_facts(id.pid, context_.roots);
  return facts && facts->id == id && against_workload(*facts).eligible();
}

Result<AdoptOutcome> Adopter::check_workload(const AdoptRequest& request, const ProcessIdentity& id) const {
  auto candidate = look_at_workload(request, id);
  if (!candidate) return Failure{candidate.error()};
  AdoptOutcome outcome;
  outcome.eligible = candidate->verdict.eligible();
  outcome.name = request.name.empty() ? candidate->facts.name : request.name;
  outcome.pid = id.pid;
  outcome.exe = candidate->facts.executable;
  outcome.mappings = std::move(candidate->mappings);
  outcome.findings = std::move(candidate->verdict.findings);
  return outcome;
}

Result<std::shared_ptr<ManagedVm>> Adopter::adopt_workload(const AdoptRequest& request, const ProcessIdentity& id,
                                                           AdoptionClaims::Claim& claim,
                                                           const Operations::Handle* handle) {
  auto candidate = look_at_workload(request, id);
  if (!candidate) return Failure{candidate.error()};
  if (handle != nullptr)
    handle->update([&](Operation& operation) { operation.findings = candidate->verdict.findings; });
  if (const Finding* against = candidate->verdict.first_refusal()) {
    count(candidate->verdict, false);
    return refused("adopt " + std::to_string(id.pid), *against);
  }
  const auto name = choose_name(request.name, candidate->facts, claim);
  if (!name) return Failure{name.error()};
  auto vm = new_vm(candidate->facts, VmOrigin::kAsked, *name);
  Workload::Members members;
  if (!request.cgroup.empty())
    members = [this, group = request.cgroup] { return processes_of_cgroup(context_.roots, group); };
  if (handle != nullptr) handle->step("looking at its memory");
  auto workload = context_.swap_mover->adopt(candidate->pids, request.cgroup, std::move(members));
  if (!workload) {
    count(candidate->verdict, false);
    return Failure{workload.error()};
  }
  vm->workload = *workload;
  const Config config = context_.config();
  candidate->subject.name = vm->name;
  vm->policy = settings_for(config, first_rule(config.rules, candidate->subject), vm->workload->memory().mapped,
                            request.settings);
  const Mode wanted = std::exchange(vm->policy.mode, Mode::kObserve);
  if (!context_.vms.add(vm)) {
    context_.swap_mover->forget(vm->workload);
    count(candidate->verdict, false);
    return failure(std::errc::file_exists, "use the name", vm->name, "it is taken; choose another");
  }
  count(candidate->verdict, true);
  become(*vm, wanted);
  context_.event(vm->name, "adopted",
                 "pid " + std::to_string(vm->id.pid) +
                     ", for the kernel's tier: " + std::to_string(vm->workload->processes().size()) + " processes");
  return vm;
}

// Of a VM that the pager has: its private memory, as the pager numbers it. Forked children's is not moved.
void Adopter::take_beside(ManagedVm& vm) const {
  if (!context_.config().kernel_tier.beside_pool || vm.immovable || vm.memory->has_shared_memory()) return;
  const auto& objects = vm.memory->objects;
  const auto found = std::ranges::find(objects, false, [](const auto& object) { return object->shared; });
  if (found == objects.end()) return;
  const auto layout = [memory = vm.memory, object = found->get()] {
    SharedLayout now{{}, object->map->pages()};
    const auto spaces = memory->spaces();
    for (std::size_t i = 0; i < spaces.size() && now.pieces.empty(); ++i) {
      const auto table = spaces[i]->segments();
      for (const Segment& segment : table->all()) {
        if (segment.object == object) now.pieces.push_back({segment.addresses, segment.first});
      }
    }
    return now;
  };
  const BesidePager beside{static_cast<std::uint32_t>(found - objects.begin()), layout};
  // A process that has just ended is noticed as any other.
  if (auto taken = context_.swap_mover->adopt_beside(vm.memory->id, vm.id.pid, beside)) vm.beside = std::move(*taken);
}

void Adopter::forget_beside(const ManagedVm& vm) const {
  if (vm.beside) context_.swap_mover->forget(vm.beside);
}

// What is under way ends first: nothing is ordered any more. What could not be read is the kernel's to bring back.
Bytes Adopter::unswap(const ManagedVm& vm, const Operations::Handle* handle) const {
  const std::shared_ptr<Workload>& workload = vm.by_kernel();
  workload->releasing = true;
  const Bytes total = workload->memory().far;
  const auto deadline = std::chrono::steady_clock::now() + kReleasePatience;
  return context_.swap_mover->bring_home(workload, [&](Bytes far) {
    if (handle != nullptr) handle->step("bringing pages home", saturating_sub(total, far), total);
    return !workload->dead && std::chrono::steady_clock::now() < deadline;
  });
}

Result<> Adopter::release_workload(const std::shared_ptr<ManagedVm>& vm, const Operations::Handle* handle) {
  const Bytes left = unswap(*vm, handle);
  context_.swap_mover->forget(vm->workload);
  context_.vms.remove(vm->name);
  context_.event(vm->name, "released",
                 left == Bytes{} ? "everything is home"
                                 : std::to_string(left.value >> 10) + " KiB stay in swap until they are used");
  return {};
}

}  // namespace tidepool::daemon
