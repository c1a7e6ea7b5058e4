#include "daemon/agent/adopter.h"

#include <fcntl.h>
#include <fnmatch.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <thread>

#include "daemon/pager/ring_dropper.h"
#include "daemon/vm/vm_name.h"
#include "kmod-interfaces/pidfd.h"

namespace tidepool::daemon {
namespace {

constexpr std::uint32_t kRingEntries = 256;
constexpr auto kReleasePatience = std::chrono::minutes(10);

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

std::vector<VmMappingStatus> status_of(const std::vector<ManagedMapping>& chosen) {
  std::vector<VmMappingStatus> list;
  for (const ManagedMapping& mapping : chosen) {
    const bool shared = is_shared(mapping.kind);
    list.push_back({mapping.range, shared ? "shared" : "private",
                    mapping.path.empty() ? std::string(name_of(mapping.kind)) : mapping.path, shared ? "punch" : "ring",
                    Bytes{kPageSize}});
  }
  return list;
}

std::string unique_name(const VmRegistry& vms, const std::string& wanted, pid_t pid) {
  if (vms.find(wanted) == nullptr) return wanted;
  return wanted + "-" + std::to_string(pid);
}

// Every process id of the host.
std::vector<pid_t> all_pids(const kernel::KernelRoots& roots) {
  std::vector<pid_t> pids;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(roots.proc, error)) {
    const std::string name = entry.path().filename();
    pid_t pid = 0;
    const auto [end, problem] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (problem == std::errc{} && end == name.data() + name.size()) pids.push_back(pid);
  }
  std::sort(pids.begin(), pids.end());
  return pids;
}

// A descriptor of a shared mapping's file, by the mapping itself: it needs no name and crosses mount namespaces.
Result<UniqueFd> open_backing(const kernel::KernelRoots& roots, pid_t pid, AddressRange mapping) {
  char path[96];
  std::snprintf(path, sizeof path, "%s/%d/map_files/%lx-%lx", roots.proc.c_str(), pid, mapping.start, mapping.end);
  UniqueFd fd{::open(path, O_RDWR | O_CLOEXEC)};
  if (!fd.valid())
    return errno_failure("open", path, "the mapping may have changed meanwhile: try again; CAP_SYS_ADMIN is needed");
  return fd;
}

unsigned fault_threads_of(const kernel::KernelRoots& roots, const ProcessFacts& facts) {
  const unsigned cpus = std::max(1u, std::thread::hardware_concurrency());
  auto process = kernel::Process::open(roots, facts.id.pid);
  if (!process) return 1;
  const auto threads = process->threads();
  if (!threads) return 1;
  const auto vcpus = static_cast<unsigned>(std::count_if(
      threads->begin(), threads->end(), [](const kernel::ThreadInfo& t) { return t.comm.starts_with("CPU "); }));
  if (vcpus != 0) return vcpus;
  return std::clamp(static_cast<unsigned>(threads->size()), 1u, cpus);
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
};

Result<pid_t> Adopter::find_process(const AdoptRequest& request) const {
  if (request.pid > 0) return request.pid;
  if (!request.cgroup.empty()) {
    for (const std::string& root :
         {context_.roots.cgroup, context_.roots.cgroup + "/unified", context_.roots.cgroup + "/memory"}) {
      std::ifstream list(root + "/" + request.cgroup + "/cgroup.procs");
      pid_t pid = 0;
      if (list >> pid) return pid;
    }
    return failure(std::errc::no_such_process, "find a process in control group", request.cgroup);
  }
  std::vector<pid_t> matches;
  for (const pid_t pid : all_pids(context_.roots)) {
    auto process = kernel::Process::open(context_.roots, pid);
    if (!process) continue;
    const auto exe = process->executable();
    if (!exe || !is_hypervisor(*exe)) continue;
    const auto arguments = process->command_line();
    const auto stat = process->stat();
    if (arguments && stat && vm_name(*exe, *arguments, stat->comm, pid) == request.domain) matches.push_back(pid);
  }
  if (matches.size() == 1) return matches.front();
  if (matches.empty())
    return failure(std::errc::no_such_process, "find domain", request.domain, "name a running VM, or use --pid");
  return failure(std::errc::invalid_argument, "find domain", request.domain,
                 "several processes carry that name: use --pid");
}

Result<Adopter::Candidate> Adopter::inspect(const AdoptRequest& request) {
  auto selector = selector_of(request.mapping);
  if (!selector) return Failure{selector.error()};
  auto pid = find_process(request);
  if (!pid) return Failure{pid.error()};
  auto facts = collect_facts(*pid, context_.roots, *selector);
  if (!facts) return Failure{facts.error()};
  Candidate candidate;
  candidate.facts = std::move(*facts);
  const Config config = context_.config();
  AdoptionRules rules;
  rules.allow_executables = config.adopt.allow_exe;
  rules.allow_ptrace = config.adopt.allow_ptrace;
  rules.force = request.force;
  rules.own_processes.push_back(::getpid());
  if (auto process = kernel::Process::open(context_.roots, *pid)) {
    if (const auto stat = process->stat()) candidate.family = family_of(*pid, stat->parent, candidate.facts.holders);
    if (auto arguments = process->command_line()) candidate.command_line = std::move(*arguments);
  }
  for (const kernel::MemoryHolder& member : candidate.family) rules.enrolled.push_back(member.id);
  candidate.verdict = check_eligibility(candidate.facts, rules);
  if (const auto already = context_.vms.find(candidate.facts.id)) {
    return failure(std::errc::file_exists, "adopt process", std::to_string(*pid),
                   "it is adopted already, as " + already->name);
  }
  return candidate;
}

Result<AdoptOutcome> Adopter::check(const AdoptRequest& request) {
  auto candidate = inspect(request);
  if (!candidate) return Failure{candidate.error()};
  AdoptOutcome outcome;
  outcome.eligible = candidate->verdict.eligible();
  outcome.name = request.name.empty() ? candidate->facts.name : request.name;
  outcome.pid = candidate->facts.id.pid;
  outcome.exe = candidate->facts.executable;
  outcome.mappings = status_of(candidate->facts.mappings.chosen);
  outcome.findings = candidate->verdict.findings;
  return outcome;
}

VmPolicy Adopter::settings_for(const std::string& name, const std::string& exe, Bytes promised,
                               const VmSettings& changes) const {
  const Config config = context_.config();
  VmPolicy policy;
  policy.mode = config.mode;
  policy.service_class = config.defaults.service_class;
  policy.guarantee = config.defaults.guarantee.resolve(promised);
  if (config.defaults.limit) policy.limit = config.defaults.limit->resolve(promised);
  policy.stall_budget = config.defaults.stall_budget;
  policy.min_cold_age = config.defaults.min_cold_age;
  for (const Rule& rule : config.rules) {
    const auto fits = [](const std::string& glob, const std::string& text) {
      return glob.empty() || ::fnmatch(glob.c_str(), text.c_str(), 0) == 0;
    };
    if (!fits(rule.match.domain, name) || !fits(rule.match.exe, exe) || !rule.match.cgroup.empty()) continue;
    if (rule.mode) policy.mode = *rule.mode;
    if (rule.service_class) policy.service_class = *rule.service_class;
    if (rule.guarantee) policy.guarantee = rule.guarantee->resolve(promised);
    if (rule.limit) policy.limit = rule.limit->resolve(promised);
    if (rule.stall_budget) policy.stall_budget = *rule.stall_budget;
    if (rule.min_cold_age) policy.min_cold_age = *rule.min_cold_age;
    break;
  }
  if (changes.mode) policy.mode = *changes.mode;
  if (changes.service_class) policy.service_class = *changes.service_class;
  if (changes.guarantee) policy.guarantee = changes.guarantee->resolve(promised);
  if (changes.limit) policy.limit = changes.limit->resolve(promised);
  if (changes.no_limit) policy.limit.reset();
  if (changes.stall_budget) policy.stall_budget = *changes.stall_budget;
  if (changes.min_cold_age) policy.min_cold_age = *changes.min_cold_age;
  return policy;
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
  taken.stopped = std::max(taken.stopped, foothold->stopped);
  taken.places.push_back({id, foothold->userfaultfd_number, foothold->userfaultfd.duplicate()});
  SpaceSpec space;
  space.userfaultfd = kernel::Userfaultfd{std::move(foothold->userfaultfd)};
  space.pid = id.pid;
  space.pidfd = std::move(foothold->pidfd);
  space.mappings = std::move(mappings);
  if (foothold->ring) space.ring = std::make_unique<RingDropper>(std::move(*foothold->ring));
  return space;
}

// Objects: one per shared file, one for all private memory. Every family member that maps the files is enrolled with
// them.
Result<VmSpec> Adopter::describe(const Candidate& candidate, Taken& taken) {
  VmSpec spec;
  spec.store = context_.store.store.get();
  spec.shared_remove_discards = candidate.facts.hypervisor;
  spec.kill_on_integrity_failure = context_.config().safety.on_integrity_failure == IntegrityAction::kKill;
  std::vector<kernel::InodeId> files;
  std::vector<MappingSpec> mappings;
  std::optional<std::size_t> private_object;
  for (const ManagedMapping& mapping : candidate.facts.mappings.chosen) {
    if (!is_shared(mapping.kind)) {
      if (!private_object) {
        private_object = spec.objects.size();
        spec.objects.push_back({});
        files.push_back({});
      }
      mappings.push_back({mapping.range, *private_object, 0});
      continue;
    }
    auto known = std::find(files.begin(), files.end(), mapping.object);
    if (known == files.end()) {
      auto file = open_backing(context_.roots, candidate.facts.id.pid, mapping.range);
      if (!file) return Failure{file.error()};
      spec.objects.push_back({true, std::move(*file)});
      files.push_back(mapping.object);
      known = std::prev(files.end());
    }
    mappings.push_back({mapping.range, static_cast<std::size_t>(known - files.begin()), mapping.object_offset});
  }
  // The longest first: smaller views of the same file then lie within what is known.
  std::stable_sort(mappings.begin(), mappings.end(),
                   [](const MappingSpec& a, const MappingSpec& b) { return a.addresses.size() > b.addresses.size(); });
  auto space = space_of(candidate.facts.id, mappings, private_object.has_value(), taken);
  if (!space) return Failure{space.error()};
  spec.spaces.push_back(std::move(*space));
  for (const kernel::MemoryHolder& member : candidate.family) {
    auto process = kernel::Process::open(context_.roots, member.id.pid);
    if (!process) continue;  // ended meanwhile
    const auto maps = process->maps();
    if (!maps) continue;
    std::vector<MappingSpec> shown;
    for (const kernel::MemoryMap& map : *maps) {
      const auto known = std::find(files.begin(), files.end(), map.file);
      if (!map.shared || map.file.inode == 0 || known == files.end()) continue;
      shown.push_back({map.range, static_cast<std::size_t>(known - files.begin()), map.offset});
    }
    if (shown.empty()) continue;
    auto members = space_of(member.id, std::move(shown), false, taken);
    if (!members) return Failure{members.error()};
    spec.spaces.push_back(std::move(*members));
  }
  return spec;
}

Result<> Adopter::hold(const std::shared_ptr<ManagedVm>& vm) {
  for (const DescriptorToHold& descriptor : context_.pager->descriptors(*vm->memory)) {
    if (auto held = context_.clerk->store(descriptor.name, descriptor.fd); !held) return held;
    vm->held_names.push_back(descriptor.name);
  }
  return {};
}

void Adopter::undo(Taken& taken) {
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

void Adopter::count(const Candidate& candidate, bool succeeded) {
  const std::lock_guard lock(context_.adoptions_mutex);
  if (succeeded) {
    ++context_.adoptions.succeeded;
    return;
  }
  for (const Finding& finding : candidate.verdict.findings) {
    if (finding.kind != FindingKind::kRefusal) continue;
    ++context_.adoptions.refused[finding.code];
    return;
  }
  ++context_.adoptions.failed;
}

Result<std::shared_ptr<ManagedVm>> Adopter::adopt(const AdoptRequest& request, const Operations::Handle& handle) {
  handle.step("looking at the process");
  auto inspected = inspect(request);
  if (!inspected) return Failure{inspected.error()};
  const Candidate& candidate = *inspected;
  handle.update([&](Operation& operation) { operation.findings = candidate.verdict.findings; });
  if (!candidate.verdict.eligible()) {
    count(candidate, false);
    const Finding& first = candidate.verdict.findings.front();
    return failure(std::errc::operation_not_permitted,
                   "adopt " + std::to_string(candidate.facts.id.pid) + ": " + first.message, "", first.remedy);
  }
  auto vm = std::make_shared<ManagedVm>();
  vm->name = unique_name(context_.vms, request.name.empty() ? candidate.facts.name : sanitize_vm_name(request.name),
                         candidate.facts.id.pid);
  if (!request.name.empty() && vm->name != request.name) {
    return failure(std::errc::file_exists, "use the name", request.name,
                   "it is taken, or has characters that a name cannot have");
  }
  vm->id = candidate.facts.id;
  vm->exe = candidate.facts.executable;
  vm->uid = candidate.facts.uid;
  vm->hypervisor = candidate.facts.hypervisor;
  vm->mappings = status_of(candidate.facts.mappings.chosen);
  vm->adopted_at = std::chrono::system_clock::now();
  vm->fault_threads = fault_threads_of(context_.roots, candidate.facts);

  handle.step("taking hold of the process");
  Taken taken;
  auto spec = describe(candidate, taken);
  const auto fail = [&](const Error& error) -> Result<std::shared_ptr<ManagedVm>> {
    for (const std::string& name : vm->held_names) (void)context_.clerk->remove(name);
    vm->memory.reset();
    undo(taken);
    count(candidate, false);
    return Failure{error};
  };
  if (!spec) return fail(spec.error());
  spec->name = vm->name;
  auto memory = context_.pager->prepare(std::move(*spec));
  if (!memory) return fail(memory.error());
  vm->memory = *memory;
  vm->stopped = taken.stopped;
  const auto spaces = vm->memory->spaces();
  for (std::size_t i = 0; i < taken.places.size() && i < spaces.size(); ++i) {
    vm->footholds.push_back({taken.places[i].id, taken.places[i].number, spaces[i]});
  }
  handle.step("handing descriptors to the " + context_.clerk->kind());
  if (auto held = hold(vm); !held) return fail(held.error());
  handle.step("registering memory");
  const std::uint64_t pages = vm->memory->count(PageState::kUntouched);
  vm->policy = settings_for(vm->name, vm->exe, to_bytes(PageCount{pages}), request.settings);
  if (!context_.vms.add(vm))
    return fail(Error{std::make_error_code(std::errc::file_exists), "use the name", vm->name, ""});
  if (auto active = context_.pager->activate(vm->memory); !active) {
    context_.vms.remove(vm->name);
    return fail(active.error());
  }
  count(candidate, true);
  context_.event(vm->name, "adopted",
                 "pid " + std::to_string(vm->id.pid) + ", stopped one thread for " +
                     std::to_string(std::chrono::duration_cast<std::chrono::microseconds>(taken.stopped).count()) +
                     " us");
  return vm;
}

Result<> Adopter::release(const std::shared_ptr<ManagedVm>& vm, const Operations::Handle* handle) {
  {
    const std::lock_guard lock(vm->mutex);
    if (vm->state == VmState::kReleasing)
      return failure(std::errc::device_or_resource_busy, "release", vm->name, "it is being released already");
    vm->state = VmState::kReleasing;
  }
  struct Wait {
    std::mutex mutex;
    std::condition_variable wake;
    std::optional<Result<>> result;
  };
  auto wait = std::make_shared<Wait>();
  const std::uint64_t total = vm->memory->count(PageState::kFar);
  context_.pager->release(vm->memory, [wait](Result<> result) {
    const std::lock_guard lock(wait->mutex);
    wait->result = std::move(result);
    wait->wake.notify_one();
  });
  {
    std::unique_lock lock(wait->mutex);
    const auto deadline = std::chrono::steady_clock::now() + kReleasePatience;
    while (!wait->wake.wait_for(lock, std::chrono::milliseconds(200), [&] { return wait->result.has_value(); })) {
      const std::uint64_t left = vm->memory->count(PageState::kFar);
      if (handle != nullptr)
        handle->step("bringing pages home", to_bytes(PageCount{total - std::min(total, left)}),
                     to_bytes(PageCount{total}));
      if (vm->memory->dead) break;
      if (std::chrono::steady_clock::now() > deadline) break;
    }
    if (!vm->memory->dead && (!wait->result || !*wait->result)) {
      const std::lock_guard state_lock(vm->mutex);
      vm->state = VmState::kOk;
      if (wait->result) return *wait->result;
      return failure(std::errc::timed_out, "release", vm->name, "the process may be stopped; it stays served");
    }
  }
  if (handle != nullptr) handle->step("leaving the process as it was found");
  for (const PlacedFoothold& foothold : vm->footholds) {
    LetGoRequest request;
    request.id = foothold.id;
    request.descriptors.push_back({foothold.number, foothold.space->userfaultfd.fd()});
    request.helper.program = context_.config().adopt.helper;
    if (auto gone = let_go(request); !gone && gone.error().code != std::errc::no_such_process) {
      context_.event(vm->name, "released",
                     "its descriptor " + std::to_string(foothold.number) + " stays open: " + gone.error().message());
    }
  }
  for (const std::string& name : vm->held_names) (void)context_.clerk->remove(name);
  context_.vms.remove(vm->name);
  context_.event(vm->name, "released", "everything is home");
  return {};
}

void Adopter::bury(const std::shared_ptr<ManagedVm>& vm) {
  for (const std::string& name : vm->held_names) (void)context_.clerk->remove(name);
  context_.vms.remove(vm->name);
  context_.event(vm->name, "gone", "the process ended");
}

}  // namespace tidepool::daemon
