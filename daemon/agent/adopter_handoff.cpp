// Adoption of a process that hands itself off: nothing of it is taken for granted, and it is served rather than left
// waiting wherever that is safe.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <optional>

#include "daemon/agent/adopter.h"
#include "daemon/pager/ring_dropper.h"
#include "daemon/vm/memory_image.h"
#include "daemon/vm/vm_name.h"
#include "kmod-interfaces/pidfd.h"
#include "kmod-interfaces/process_memory.h"

namespace tidepool::daemon {
namespace {

using KernelFaults = HandoffFacts::KernelFaults;

// The process's threads may be waiting for its memory all the while.
constexpr Nanoseconds kRingPatience = std::chrono::seconds(5);
constexpr std::uint64_t kChangeEvents = UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_UNMAP;

Failure refused(pid_t pid, const std::string& why, std::string remedy,
                std::errc code = std::errc::operation_not_permitted) {
  return failure(code, "take over process " + std::to_string(pid) + ": " + why, "", std::move(remedy));
}

std::string text_of(AddressRange range) {
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "0x%lx-0x%lx", range.start, range.end);
  return text.data();
}

// Every byte of every region must be memory that can be managed: a part that nobody serves would leave threads waiting.
Result<> check_cover(const ProcessFacts& facts, const std::vector<HandoffRegion>& regions) {
  const auto bytes_in = [](const auto& list, AddressRange region) {
    std::uint64_t sum = 0;
    for (const auto& mapping : list) sum += region.contains(mapping.range) ? mapping.range.size() : 0;
    return sum;
  };
  for (const HandoffRegion& region : regions) {
    if (bytes_in(facts.mappings.chosen, region.addresses) == region.addresses.size()) continue;
    std::string why = "nothing is mapped in a part of it";
    for (const auto* list : {&facts.mappings.blocked, &facts.mappings.excluded}) {
      for (const ExcludedMapping& mapping : *list) {
        if (region.addresses.contains(mapping.range)) why = reason_of(mapping.reason);
      }
    }
    return refused(facts.id.pid, "its region " + text_of(region.addresses) + " cannot be managed: " + why,
                   "hand off anonymous memory, memfds or files on tmpfs that the process has mapped",
                   std::errc::invalid_argument);
  }
  return {};
}

std::string memory_file_of(const std::string& pattern, const std::string& vm) {
  std::string path = pattern;
  for (std::size_t at = path.find("%n"); at != std::string::npos; at = path.find("%n", at + vm.size()))
    path.replace(at, 2, vm);
  return path;
}

// A descriptor says nothing of whose memory it serves. What is done through it must show in the peer's own page table.
Result<> prove_ownership(const AddressSpace& space, const HandoffRegion& first,
                         const std::optional<MemoryImage>& image) {
  static constexpr std::array<std::byte, kPageSize> kZeros{};
  const std::uint64_t page = first.addresses.start;
  const AddressRange range{page, page + kPageSize};
  // A page that is there is protected for a moment (of shared memory also one that is not).
  if (space.userfaultfd.write_protect(range, true) == 0) {
    const auto entry = space.pagemap.entry(page);
    (void)space.userfaultfd.write_protect(range, false);
    if (entry && entry->write_protected()) return {};
  }
  // One that is not there is put there, with what it has to hold.
  const auto before = space.pagemap.entry(page);
  if (before && before->nothing()) {
    if (image) {
      const HandoffRegion one{range, first.offset};
      if (auto loaded = image->load(space.userfaultfd, std::span(&one, 1)); !loaded) return Failure{loaded.error()};
    }
    (void)space.userfaultfd.copy(page, kZeros.data(), kPageSize, false);  // EEXIST: it was loaded
    const auto after = space.pagemap.entry(page);
    if (after && !after->nothing()) return {};
  }
  return refused(space.pid, "the userfaultfd is not of its address space",
                 "the process that connects is the one whose memory is handed off", std::errc::invalid_argument);
}

// A page that is not there, if any.
std::optional<std::uint64_t> missing_page(const AddressSpace& space) {
  const auto table = space.segments();
  std::array<kernel::uapi::page_region, 1> present;
  for (const Segment& segment : table->all()) {
    for (std::uint64_t reached = segment.addresses.start; reached < segment.addresses.end; reached = present[0].end) {
      std::uint64_t scanned_to = 0;
      const auto found =
          space.pagemap.scan({reached, segment.addresses.end},
                             kernel::uapi::kPageIsPresent | kernel::uapi::kPageIsSwapped, present, scanned_to);
      if (!found) return std::nullopt;
      if (*found == 0 || present[0].start > reached) return reached;
    }
  }
  return std::nullopt;
}

}  // namespace

// What is known of the process, and what it gave.
struct Adopter::Given {
  ProcessFacts facts;
  AdoptionRules rules;
  Eligibility verdict;
  RuleSubject subject;
  kernel::Userfaultfd userfaultfd;
  std::unique_ptr<Dropper> ring;
  std::optional<std::string> memory_file;
};

Result<Adopter::Given> Adopter::inspect_handoff(Handoff& handoff) const {
  Given given;
  const pid_t pid = handoff.peer.pid;
  auto process = kernel::Process::open(context_.roots, pid);
  if (!process) return Failure{process.error()};
  // It was alive after its directory was opened, so the directory is its own.
  if (!kernel::pidfd_alive(handoff.peer.pidfd.get()))
    return refused(pid, "it has ended", "", std::errc::no_such_process);
  if (const auto already = context_.vms.find(process->id())) {
    return refused(pid, "it is served already, as " + already->name,
                   "release it first, or hand all regions off at once", std::errc::file_exists);
  }
  given.userfaultfd = kernel::Userfaultfd{std::move(handoff.userfaultfd)};
  const auto features = given.userfaultfd.agreed_features();
  if (!features) return Failure{features.error()};
  MemorySelector selector;
  selector.kind = MemorySelector::Kind::handed_off;
  for (const HandoffRegion& region : handoff.regions) selector.regions.push_back(region.addresses);
  auto facts = collect_facts(pid, context_.roots, selector);
  if (!facts) return Failure{facts.error()};
  if (facts->id != process->id()) return refused(pid, "it has ended", "", std::errc::no_such_process);
  given.facts = std::move(*facts);
  // Nobody agreed on anything yet: then we ask for everything.
  given.facts.handed_off = HandoffFacts{
      .announces_discards = !*features || (**features & UFFD_FEATURE_EVENT_REMOVE) != 0,
      .announces_changes = !*features || (**features & kChangeEvents) == kChangeEvents,
      .restores_snapshot = restores_when_handing_off(given.facts.executable),
      .kernel_faults = KernelFaults::served,
      .ring_error = {},
  };
  const Config config = context_.config();
  given.subject = rule_subject(*process, given.facts.name, given.facts.executable);
  if (const Rule* rule = first_rule(config.rules, given.subject)) given.memory_file = rule->memory_file;
  given.rules.allow_executables = config.adopt.allow_exe;
  given.rules.allow_ptrace = config.adopt.allow_ptrace;
  given.rules.own_processes = {::getpid(), context_.clerk->holder_pid()};
  given.rules.memory_file_known = given.memory_file.has_value();
  given.verdict = check_eligibility(given.facts, given.rules);
  return given;
}

// One stop of one thread, as in any adoption, but for the ring alone.
Result<> Adopter::place_ring(Given& given) const {
  FootholdRequest request;
  request.id = given.facts.id;
  request.userfaultfds = 0;
  request.ring_entries = kRingEntries;
  request.helper.program = context_.config().adopt.helper;
  request.helper.deadline = kRingPatience;
  auto foothold = take_foothold(request);
  if (!foothold) return Failure{foothold.error()};
  context_.adoption_stops.record(foothold->stopped);
  given.ring = std::make_unique<RingDropper>(std::move(*foothold->ring));
  return {};
}

Result<Adopter::Enrolment> Adopter::prepare_handoff(Given& given, Handoff& handoff, const std::string& name) const {
  std::optional<MemoryImage> image;
  if (given.memory_file && !given.memory_file->empty()) {
    auto opened = MemoryImage::open(memory_file_of(*given.memory_file, given.facts.name), handoff.peer);
    if (!opened) return Failure{opened.error()};
    image = std::move(*opened);
  }
  auto plan = plan_memory(context_.roots, given.facts, std::move(handoff.files));
  if (!plan) return Failure{plan.error()};
  // Whatever else speaks against moving its memory, the ring would be placed for nothing.
  if (plan->has_private && given.verdict.eligible()) {
    if (auto placed = place_ring(given); !placed) given.facts.handed_off->ring_error = placed.error().message();
    given.verdict = check_eligibility(given.facts, given.rules);
  }
  Enrolment enrolment{new_vm(given.facts, VmOrigin::kHandedOff, name), {}, given.subject, {}, {}, {}};
  SpaceSpec space;
  space.userfaultfd = std::move(given.userfaultfd);
  space.handed_off = true;
  space.pid = given.facts.id.pid;
  space.pidfd = handoff.peer.pidfd.duplicate();
  space.mappings = std::move(plan->mappings);
  space.ring = std::move(given.ring);
  enrolment.spec.objects = std::move(plan->objects);
  enrolment.spec.spaces.push_back(std::move(space));
  enrolment.spec.movable = false;  // until its faults were tried
  auto shared_image = std::make_shared<std::optional<MemoryImage>>(std::move(image));
  enrolment.before_serving = [regions = handoff.regions, shared_image](ManagedVm& vm) -> Result<> {
    AddressSpace& own = *vm.memory->spaces().front();
    for (const HandoffRegion& region : regions) {
      constexpr std::uint64_t kModes = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP;
      if (auto registered = own.userfaultfd.register_range(region.addresses, kModes); !registered) return registered;
    }
    if (auto proven = prove_ownership(own, regions.front(), *shared_image); !proven) return proven;
    if (!*shared_image) return {};
    const auto loaded = (*shared_image)->load(own.userfaultfd, regions);
    return loaded ? Result<>{} : Failure{loaded.error()};
  };
  return enrolment;
}

// With its faults served: does one of ours, made in the kernel, wait like the process's own?
void Adopter::try_kernel_faults(const ManagedVm& vm, Given& given) const {
  const auto spaces = vm.memory->spaces();
  if (spaces.empty()) return;
  const AddressSpace& space = *spaces.front();
  auto page = missing_page(space);
  const auto table = space.segments();
  if (!page) {
    // All is there: a shared page can at least be unmapped.
    const auto shared = std::ranges::find_if(table->all(), [](const Segment& s) { return s.object->shared; });
    if (shared != table->all().end()) {
      const AddressRange first{shared->addresses.start, shared->addresses.start + kPageSize};
      const bool unmapped = kernel::advise_process_memory(space.pidfd.get(), std::span(&first, 1), MADV_PAGEOUT) > 0;
      const auto entry = space.pagemap.entry(first.start);
      if (unmapped && entry && entry->nothing()) page = first.start;
    }
  }
  KernelFaults& faults = given.facts.handed_off->kernel_faults;
  faults = KernelFaults::untried;
  if (page) {
    std::array<std::byte, 1> byte{};
    const bool read = kernel::read_process_memory(space.pid, *page, byte.data(), byte.size()) == 1;
    faults = read ? KernelFaults::served : KernelFaults::refused;
  }
  given.verdict = check_eligibility(given.facts, given.rules);
}

Result<std::shared_ptr<ManagedVm>> Adopter::take_over(Handoff& handoff) {
  auto inspected = inspect_handoff(handoff);
  if (!inspected) return Failure{inspected.error()};
  Given& given = *inspected;
  const pid_t pid = given.facts.id.pid;
  const auto fail = [&](const Error& error) -> Result<std::shared_ptr<ManagedVm>> {
    count({}, false);
    return Failure{error};
  };
  if (auto covered = check_cover(given.facts, handoff.regions); !covered) return fail(covered.error());
  if (const Finding* bar = given.verdict.first_bar()) {
    count(given.verdict, false);
    return refused(pid, bar->message, bar->remedy);
  }
  AdoptionClaims::Claim claim(claims_);
  if (auto mine = claim.add(given.facts.id); !mine) return fail(mine.error());
  const auto name = choose_name("", given.facts, claim);
  if (!name) return fail(name.error());
  auto enrolment = prepare_handoff(given, handoff, *name);
  if (!enrolment) return fail(enrolment.error());
  const std::shared_ptr<ManagedVm> vm = enrolment->vm;
  const PlacedFoothold itself{given.facts.id, -1, nullptr};
  const auto wanted = enrol(*enrolment, std::span(&itself, 1), nullptr);
  if (!wanted) return fail(wanted.error());
  count(given.verdict, true);
  try_kernel_faults(*vm, given);
  const Finding* obstacle = given.verdict.first_refusal();
  {
    const std::lock_guard lock(vm->mutex);
    vm->connection = std::move(handoff.connection);
    if (obstacle != nullptr) vm->immovable = *obstacle;
  }
  context_.event(vm->name, "adopted", "pid " + std::to_string(pid) + " handed itself off");
  for (const Finding& finding : given.verdict.findings)
    context_.event(vm->name, finding.kind == FindingKind::kRefusal ? "blocked" : "warning", finding.message);
  vm->memory->movable = obstacle == nullptr;
  become(*vm, *wanted);
  return vm;
}

}  // namespace tidepool::daemon
