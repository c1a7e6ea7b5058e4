#include "daemon/agent/adopter.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <thread>
#include <utility>

#include "base/text.h"
#include "daemon/agent/adoption_checks.h"
#include "daemon/agent/private_layout.h"
#include "daemon/agent/process_search.h"
#include "daemon/pager/ring_dropper.h"
#include "daemon/vm/vm_name.h"

namespace tidepool::daemon {
namespace {

constexpr std::size_t kDescriptorsToUndo = 12;  // letting go of one process: pidfds, /proc, a socket pair
// Other VMs may be let go of all the time.
constexpr auto kLetGoPatience = std::chrono::seconds(5);
constexpr auto kLetGoInterval = std::chrono::milliseconds(50);

Result<MemorySelector> selector_of(const MappingSelector& wanted) {
  MemorySelector selector;
  if (wanted.at_least) selector.at_least = *wanted.at_least;
  if (wanted.range) {
    selector.kind = MemorySelector::Kind::range;
    selector.range = *wanted.range;
  } else if (wanted.name == "shared" || wanted.name == "private" || wanted.name == "all" || wanted.name == "auto") {
    auto parsed = parse_memory_selector(wanted.name);
    if (!parsed) return parsed;
    parsed->at_least = selector.at_least;
    return parsed;
  } else if (!wanted.name.empty()) {
    selector.kind = MemorySelector::Kind::path;
    selector.glob = wanted.name;
  }
  return selector;
}

Failure refusal(const std::string& attempted, const Finding& finding) {
  std::string message = finding.message;
  if (message.ends_with('.')) message.pop_back();
  return failure(std::errc::operation_not_permitted, attempted + ": " + message, "", finding.remedy);
}

std::string thread_name(const kernel::KernelRoots& roots, pid_t pid, pid_t thread) {
  std::ifstream file(roots.proc + "/" + std::to_string(pid) + "/task/" + std::to_string(thread) + "/comm");
  std::string name;
  std::getline(file, name);
  return printable(name);
}

}  // namespace

// What has been placed so far, to be taken back should anything fail.
struct Adopter::Taken {
  struct Place {
    ProcessIdentity id;
    int number = -1;
    UniqueFd fd;  // a duplicate: let_go compares with it
  };
  std::vector<Place> places;
  Nanoseconds stopped{0};
  std::string stopped_thread;
  // For the way back: where descriptors run out half-way, undoing needs some all the same.
  std::vector<UniqueFd> reserve;

  Result<> keep_room() {
    while (reserve.size() < kDescriptorsToUndo) {
      reserve.emplace_back(::open("/dev/null", O_RDONLY | O_CLOEXEC));
      if (!reserve.back().valid())
        return errno_failure("open", "descriptors for an adoption", "raise the agent's LimitNOFILE");
    }
    return {};
  }
};

Result<ProcessIdentity> Adopter::identify(const AdoptRequest& request) const {
  const auto pid = find_process(context_.roots, request);
  if (!pid) return Failure{pid.error()};
  const auto process = kernel::Process::open(context_.roots, *pid);
  if (!process) return Failure{process.error()};
  if (const auto already = context_.vms.find(process->id())) {
    return failure(std::errc::file_exists, "adopt process", std::to_string(*pid),
                   "it is adopted already, as " + already->name);
  }
  return process->id();
}

Result<Adopter::Candidate> Adopter::inspect(const AdoptRequest& request, const ProcessIdentity& id) const {
  const auto deadline = std::chrono::steady_clock::now() + kLetGoPatience;
  while (true) {
    const bool letting_go = context_.pager->lets_go();
    auto candidate = look_at(request, id);
    if (!candidate || !letting_go || std::chrono::steady_clock::now() > deadline) return candidate;
    const Finding* against = candidate->verdict.first_refusal();
    if (against == nullptr || against->code != "userfaultfd") return candidate;
    std::this_thread::sleep_for(kLetGoInterval);
  }
}

Result<Adopter::Candidate> Adopter::look_at(const AdoptRequest& request, const ProcessIdentity& id) const {
  auto selector = selector_of(request.mapping);
  if (!selector) return Failure{selector.error()};
  auto facts = collect_facts(id.pid, context_.roots, *selector);
  if (!facts) return Failure{facts.error()};
  if (facts->id != id)
    return failure(std::errc::no_such_process, "adopt",
                   "process " + std::to_string(id.pid) + ": it ended, and its pid was given to another");
  Candidate candidate;
  candidate.facts = std::move(*facts);
  if (auto process = kernel::Process::open(context_.roots, id.pid)) {
    if (const auto stat = process->stat()) candidate.family = family_of(id.pid, stat->parent, candidate.facts.holders);
    candidate.subject = rule_subject(*process, candidate.facts.name, candidate.facts.executable);
  }
  if (!request.cgroup.empty()) {
    // Whoever asks for a control group asks for all of it that has the memory.
    const auto members = processes_of_cgroup(context_.roots, request.cgroup);
    if (!members) return Failure{members.error()};
    for (const kernel::MemoryHolder& holder : candidate.facts.holders) {
      const bool member = std::ranges::binary_search(*members, holder.id.pid);
      const bool known =
          std::ranges::find(candidate.family, holder.id, &kernel::MemoryHolder::id) != candidate.family.end();
      if (member && !known) candidate.family.push_back(holder);
    }
  }
  judge_family(candidate, request);
  candidate.verdict = check_eligibility(candidate.facts, rules_for(candidate, request));
  return candidate;
}

// Who maps the memory is enrolled with it, if nothing stands against that. Who has no more than a descriptor of it
// cannot be enrolled, family or not.
void Adopter::judge_family(Candidate& candidate, const AdoptRequest& request) const {
  std::erase_if(candidate.family, [](const kernel::MemoryHolder& member) { return member.mapped.empty(); });
  const AdoptionRules rules = rules_for(candidate, request);
  for (const kernel::MemoryHolder& member : candidate.family) {
    const auto facts = collect_process_facts(member.id.pid, context_.roots);
    if (!facts || facts->id != member.id || facts->zombie) continue;  // ended meanwhile
    if (const std::string code = against_member(*facts, rules); !code.empty())
      candidate.facts.unfit_members.push_back({member.id.pid, member.comm, code});
  }
}

AdoptionRules Adopter::rules_for(const Candidate& candidate, const AdoptRequest& request) const {
  const Config config = context_.config();
  AdoptionRules rules;
  rules.allow_executables = config.adopt.allow_exe;
  rules.allow_ptrace = config.adopt.allow_ptrace;
  rules.force = request.force;
  rules.own_processes = {::getpid(), context_.clerk->holder_pid()};
  for (const kernel::MemoryHolder& member : candidate.family) rules.enrolled.push_back(member.id);
  return rules;
}

// Whoever came to the memory between the first look and its registration would read zeros where pages are far.
Result<> Adopter::check_unchanged(const ManagedVm& vm, const Candidate& candidate, const AdoptRequest& request) const {
  if (auto shown = check_mappings_unchanged(context_.roots, *vm.memory); !shown) return shown;
  const AdoptionRules rules = rules_for(candidate, request);
  std::vector<ProcessIdentity> known = rules.enrolled;
  known.push_back(candidate.facts.id);
  auto newcomers = find_newcomers(context_.roots, candidate.facts.mappings.objects(), known);
  if (!newcomers) return Failure{newcomers.error()};
  ProcessFacts now = candidate.facts;
  now.holders = std::move(*newcomers);
  const Eligibility verdict = check_eligibility(now, rules);
  const Finding* against = verdict.first_refusal();
  if (against == nullptr) return {};
  return refusal("adopt " + std::to_string(candidate.facts.id.pid) + ": it changed meanwhile (try again)", *against);
}

Result<AdoptOutcome> Adopter::check(const AdoptRequest& request) {
  const auto id = identify(request);
  if (!id) return Failure{id.error()};
  if (request.mechanism == Mechanism::kKernel) return check_workload(request, *id);
  auto candidate = inspect(request, *id);
  if (!candidate) return Failure{candidate.error()};
  AdoptOutcome outcome;
  outcome.eligible = candidate->verdict.eligible();
  outcome.name = request.name.empty() ? candidate->facts.name : request.name;
  outcome.pid = candidate->facts.id.pid;
  outcome.exe = candidate->facts.executable;
  outcome.mappings = mapping_status(candidate->facts.mappings.chosen);
  outcome.findings = candidate->verdict.findings;
  return outcome;
}

Result<SpaceSpec> Adopter::space_of(const ProcessIdentity& id, std::vector<MappingSpec> mappings, bool needs_ring,
                                    Taken& taken) {
  FootholdRequest request;
  request.id = id;
  request.ring_entries = needs_ring ? kRingEntries : 0;
  request.helper.program = context_.config().adopt.helper;
  auto foothold = take_foothold(request);
  if (!foothold) return Failure{foothold.error()};
  context_.adoption_stops.record(foothold->stopped);
  if (foothold->stopped >= taken.stopped) {
    taken.stopped = foothold->stopped;
    taken.stopped_thread = thread_name(context_.roots, id.pid, foothold->stopped_thread);
  }
  taken.places.push_back({id, foothold->userfaultfd_number, foothold->userfaultfd.duplicate()});
  if (!taken.places.back().fd.valid()) {
    const Failure out_of_descriptors = errno_failure("duplicate", "userfaultfd", "raise the agent's LimitNOFILE");
    taken.places.back().fd = std::move(foothold->userfaultfd);
    return out_of_descriptors;
  }
  SpaceSpec space;
  space.userfaultfd = kernel::Userfaultfd{std::move(foothold->userfaultfd)};
  space.pid = id.pid;
  space.pidfd = std::move(foothold->pidfd);
  space.mappings = std::move(mappings);
  if (foothold->ring) space.ring = std::make_unique<RingDropper>(std::move(*foothold->ring));
  return space;
}

// Every family member that maps the shared memory is enrolled with it.
Result<VmSpec> Adopter::describe(const Candidate& candidate, Taken& taken) {
  if (auto room = taken.keep_room(); !room) return Failure{room.error()};
  auto plan = plan_memory(context_.roots, candidate.facts);
  if (!plan) return Failure{plan.error()};
  VmSpec spec;
  auto space = space_of(candidate.facts.id, plan->mappings, plan->has_private, taken);
  if (!space) return Failure{space.error()};
  spec.spaces.push_back(std::move(*space));
  for (const kernel::MemoryHolder& member : candidate.family) {
    auto process = kernel::Process::open(context_.roots, member.id.pid);
    if (!process) continue;  // ended meanwhile
    std::vector<MappingSpec> shown = shown_in(*process, *plan);
    if (shown.empty()) continue;
    auto members = space_of(member.id, std::move(shown), false, taken);
    if (!members) return Failure{members.error()};
    spec.spaces.push_back(std::move(*members));
  }
  spec.objects = std::move(plan->objects);
  return spec;
}

Result<> Adopter::hold(const std::shared_ptr<ManagedVm>& vm) {
  std::vector<DescriptorToHold> descriptors = context_.pager->descriptors(*vm->memory);
  for (const auto& [name, fd] : context_.pool->held_descriptors(vm->name)) descriptors.push_back({name, fd});
  for (const DescriptorToHold& descriptor : descriptors) {
    if (auto held = context_.clerk->store(descriptor.name, descriptor.fd); !held) return held;
    vm->held_names.push_back(descriptor.name);
  }
  return {};
}

void Adopter::undo(Taken& taken) {
  taken.reserve.clear();
  for (const Taken::Place& place : taken.places) {
    LetGoRequest request;
    request.id = place.id;
    request.descriptors.push_back({place.number, place.fd.get()});
    request.helper.program = context_.config().adopt.helper;
    // A process that ended meanwhile needs nothing; otherwise its own descriptor stays open, which harms nothing.
    (void)let_go(request);
  }
  taken.places.clear();
}

void Adopter::count(const Eligibility& verdict, bool succeeded) {
  const std::lock_guard lock(context_.adoptions_mutex);
  const Finding* refusal = verdict.first_refusal();
  if (succeeded) {
    ++context_.adoptions.succeeded;
  } else if (refusal != nullptr) {
    ++context_.adoptions.refused[refusal->code];
  } else {
    ++context_.adoptions.failed;
  }
}

Result<std::string> Adopter::choose_name(const std::string& asked, const ProcessFacts& facts,
                                         AdoptionClaims::Claim& claim) const {
  const auto take = [&](const std::string& name) { return context_.vms.find(name) == nullptr && claim.add_name(name); };
  if (!asked.empty()) {
    if (sanitize_vm_name(asked) != asked)
      return failure(std::errc::invalid_argument, "use the name", asked,
                     "letters, digits, '.', '_' and '-', at most " + std::to_string(kMaxVmName) +
                         ", beginning with a letter or digit");
    if (!take(asked)) return failure(std::errc::file_exists, "use the name", asked, "it is taken; choose another");
    return asked;
  }
  if (take(facts.name)) return facts.name;
  const std::string suffix = "-" + std::to_string(facts.id.pid);
  const std::string second = facts.name.substr(0, kMaxVmName - suffix.size()) + suffix;
  if (take(second)) return second;
  return failure(std::errc::file_exists, "use the name", second, "it is taken; give the VM another");
}

std::shared_ptr<ManagedVm> Adopter::new_vm(const ProcessFacts& facts, VmOrigin origin, const std::string& name) const {
  auto vm = std::make_shared<ManagedVm>();
  vm->name = name;
  vm->uuid = facts.uuid;
  vm->id = facts.id;
  vm->exe = facts.executable;
  vm->uid = facts.uid;
  vm->hypervisor = facts.hypervisor;
  vm->origin = origin;
  vm->selector = facts.selector;
  vm->pinned_before = facts.pinned + facts.locked;
  vm->mappings = mapping_status(facts.mappings.chosen);
  vm->adopted_at = std::chrono::system_clock::now();
  vm->fault_threads = fault_threads_of(context_.roots, facts);
  return vm;
}

Result<std::shared_ptr<ManagedVm>> Adopter::adopt(const AdoptRequest& request, VmOrigin origin,
                                                  const Operations::Handle* handle) {
  const bool by_kernel = request.mechanism == Mechanism::kKernel;
  if (!by_kernel && !context_.clerk->holding())
    return failure(std::errc::resource_unavailable_try_again, "adopt", "", context_.clerk->trouble());
  if (handle != nullptr) handle->step("looking at the process");
  const auto id = identify(request);
  if (!id) return Failure{id.error()};
  AdoptionClaims::Claim claim(claims_);
  if (auto mine = claim.add(*id); !mine) return Failure{mine.error()};
  if (by_kernel) return adopt_workload(request, *id, claim, handle);
  auto inspected = inspect(request, *id);
  if (!inspected) return Failure{inspected.error()};
  const Candidate& candidate = *inspected;
  if (handle != nullptr) handle->update([&](Operation& operation) { operation.findings = candidate.verdict.findings; });
  if (const Finding* against = candidate.verdict.first_refusal()) {
    count(candidate.verdict, false);
    return refusal("adopt " + std::to_string(id->pid), *against);
  }
  // Its pid may be another process's by now.
  if (origin == VmOrigin::kRule && first_rule(context_.config().rules, candidate.subject) == nullptr)
    return failure(std::errc::no_such_process, "adopt", std::to_string(id->pid), "no rule speaks of it");
  for (const kernel::MemoryHolder& member : candidate.family) {
    if (auto mine = claim.add(member.id); !mine) return Failure{mine.error()};
  }
  const auto name = choose_name(request.name, candidate.facts, claim);
  if (!name) return Failure{name.error()};
  Enrolment enrolment{new_vm(candidate.facts, origin, *name), {}, candidate.subject, request.settings, {}, {}};
  const auto& vm = enrolment.vm;
  // Guest RAM stays where it is.
  PrivateLayout layout;
  const bool may_change = !vm->hypervisor && candidate.facts.mappings.has_private();
  enrolment.before_serving = [&](const ManagedVm&) -> Result<> {
    if (!may_change) return {};
    auto now = PrivateLayout::of(context_.roots, candidate.facts);
    if (!now) return Failure{now.error()};
    layout = std::move(*now);
    return {};
  };
  enrolment.before_moving = [&](const ManagedVm& adopted) -> Result<> {
    if (may_change) {
      if (auto same = layout.check(context_.roots, candidate.facts); !same) return same;
    }
    return check_unchanged(adopted, candidate, request);
  };
  if (handle != nullptr) handle->step("taking hold of the process");
  Taken taken;
  auto spec = describe(candidate, taken);
  std::vector<PlacedFoothold> placed;
  for (const Taken::Place& place : taken.places) placed.push_back({place.id, place.number, nullptr});
  Result<Mode> wanted_mode = Failure{spec ? Error{} : spec.error()};
  if (spec) {
    enrolment.spec = std::move(*spec);
    vm->stopped = taken.stopped;
    wanted_mode = enrol(enrolment, placed, handle);
  }
  count(candidate.verdict, wanted_mode.has_value());
  if (!wanted_mode) {
    undo(taken);
    return Failure{wanted_mode.error()};
  }
  become(*vm, *wanted_mode);
  context_.event(vm->name, "adopted",
                 "pid " + std::to_string(vm->id.pid) + (origin == VmOrigin::kRule ? " by rule" : "") +
                     ", stopped thread '" + taken.stopped_thread + "' for " +
                     std::to_string(std::chrono::duration_cast<std::chrono::microseconds>(taken.stopped).count()) +
                     " us");
  return vm;
}

Result<Mode> Adopter::enrol(Enrolment& enrolment, std::span<const PlacedFoothold> placed,
                            const Operations::Handle* handle) {
  const std::shared_ptr<ManagedVm>& vm = enrolment.vm;
  const auto fail = [&](const Error& error) -> Result<Mode> {
    vm->footholds.clear();
    vm->memory.reset();
    leave_pool(*vm);
    return Failure{error};
  };
  const Config config = context_.config();
  VmSpec& spec = enrolment.spec;
  spec.name = vm->name;
  auto store = context_.pool->open_for(vm->name);
  if (!store) return fail(store.error());
  vm->in_pool = true;
  spec.store = std::move(*store);
  spec.shared_remove_discards = vm->hypervisor;
  spec.fixed_memory = vm->hypervisor;
  auto memory = context_.pager->prepare(std::move(spec));
  if (!memory) return fail(memory.error());
  vm->memory = *memory;
  if (auto alive = check_processes_alive(*vm->memory); !alive) return fail(alive.error());
  const auto spaces = vm->memory->spaces();
  for (std::size_t i = 0; i < placed.size() && i < spaces.size(); ++i)
    vm->footholds.push_back({placed[i].id, placed[i].number, spaces[i]});
  if (handle != nullptr) handle->step("handing descriptors to the " + context_.clerk->kind());
  if (auto held = hold(vm); !held) return fail(held.error());
  if (enrolment.before_serving) {
    if (auto ready = enrolment.before_serving(*vm); !ready) return fail(ready.error());
  }
  if (handle != nullptr) handle->step("registering memory");
  const Bytes promised = to_bytes(PageCount{vm->memory->count(PageState::kUntouched)});
  enrolment.subject.name = vm->name;
  vm->policy = settings_for(config, first_rule(config.rules, enrolment.subject), promised, enrolment.settings);
  const Mode wanted = std::exchange(vm->policy.mode, Mode::kObserve);
  const auto active = context_.pager->activate(vm->memory);
  if (enrolment.before_moving) {
    // What changed under us is the better reason for a registration that failed.
    const Result<> unchanged = enrolment.before_moving(*vm);
    if (active && !unchanged) (void)bring_home(vm, nullptr);  // nothing has moved yet: only the registration goes
    if (!unchanged) return fail(unchanged.error());
  }
  if (!active) return fail(active.error());
  take_beside(*vm);
  // Only now, whole: what is in the registry, policy moves.
  if (!context_.vms.add(vm)) {
    forget_beside(*vm);
    (void)bring_home(vm, nullptr);
    return fail(failure(std::errc::file_exists, "use the name", vm->name).value());
  }
  return wanted;
}

void Adopter::become(ManagedVm& vm, Mode wanted) {
  if (wanted == Mode::kDryRun) {
    const std::lock_guard lock(vm.mutex);
    vm.policy.mode = wanted;
  }
  if (wanted != Mode::kActive || vm.immovable) return;
  if (auto active = canary_.activate(vm); !active)
    context_.event(vm.name, "settings", "stays in observe mode: " + active.error().remedy);
}

}  // namespace tidepool::daemon
