#include "daemon/agent/agent_status.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "base/quantity_text.h"
#include "daemon/agent/host_account.h"
#include "daemon/agent/kernel_tier_view.h"

namespace tidepool::daemon {
namespace {

// Where a workload's memory is. What was never touched, and what it gave back, is not told apart.
VmMemory memory_of(const Workload& workload) {
  const WorkloadMemory now = workload.memory();
  VmMemory result;
  result.untouched = now.untouched();
  result.resident = now.resident;
  result.far = now.far;
  return result;
}

// What an evacuation is taken to bring home in a second: an assumption, not a measurement of this host or its pool.
constexpr Bytes kComesHome{1ull << 30};

Bytes state_bytes(const PagedVm& memory, PageState state) {
  return to_bytes(PageCount{memory.count(state)});
}

std::string word(VmOrigin origin) {
  switch (origin) {
    case VmOrigin::kRule:
      return "rule";
    case VmOrigin::kHandedOff:
      return "handed-off";
    default:
      return "asked";
  }
}

Bytes pinned_of(const ManagedVm& vm) {
  const std::lock_guard lock(vm.mutex);
  return vm.pinned;
}

std::optional<Finding> immovable_of(const ManagedVm& vm) {
  const std::lock_guard lock(vm.mutex);
  return vm.immovable;
}

VmMemory memory_of(const PagedVm& memory) {
  VmMemory result;
  result.untouched = state_bytes(memory, PageState::kUntouched);
  result.resident = state_bytes(memory, PageState::kResident);
  result.clean_copy = state_bytes(memory, PageState::kResidentClean);
  result.moving_out = state_bytes(memory, PageState::kDemoting) + state_bytes(memory, PageState::kDropping);
  result.far = state_bytes(memory, PageState::kFar);
  result.fetching = state_bytes(memory, PageState::kFetching);
  result.released = state_bytes(memory, PageState::kReleased);
  // Excluded entries are alignment gaps and unmapped ranges: no memory at all.
  return result;
}

void add_account(const Context& context, const PagedVm& memory, VmStatus& status) {
  status.mechanism = "pager";
  const pool::StoreUsage usage = context.pool->usage();
  if (usage.pages.value != 0) {
    const Bytes far = saturating_sub(status.memory.far, status.far_swapped);
    const double share = static_cast<double>(far.value) / static_cast<double>(to_bytes(usage.pages).value);
    status.far_stored = Bytes{static_cast<std::uint64_t>(static_cast<double>(usage.used.value) * std::min(1.0, share))};
  }
  status.metadata = metadata_of(memory);
  const auto latency = memory.fault_latency.snapshot();
  status.fault_p50 = latency.percentile(0.5);
  status.fault_p99 = latency.percentile(0.99);
  status.faults = memory.counters.faults_far;
  status.demoted = to_bytes(PageCount{memory.counters.demoted_pages});
  status.promoted = to_bytes(PageCount{memory.counters.promoted_demand + memory.counters.promoted_prefetch +
                                       memory.counters.promoted_restore});
}

std::vector<VmMappingStatus> mappings_of(const Workload& workload) {
  std::vector<VmMappingStatus> list;
  workload.for_each([&](const WorkloadProcess& process) {
    for (const AddressRange& range : process.regions.mappings())
      list.push_back({range, "private", "[anon] of " + std::to_string(process.id.pid), "pageout", Bytes{kPageSize}});
  });
  return list;
}

// What of the VM is in the kernel's tier takes there.
Bytes stored_of_swapped(const Context& context, Bytes swapped) {
  const double ratio = kernel_tier_ratio(context.swap_mover->tier().kernel);
  return Bytes{static_cast<std::uint64_t>(static_cast<double>(swapped.value) * ratio)};
}

// What the kernel moved of a VM that the pager moves as well.
void add_beside(const Context& context, const Workload& beside, VmStatus& status) {
  status.far_stored += stored_of_swapped(context, status.far_swapped);
  status.metadata += beside.footprint();
  status.faults += beside.counters.swap_ins;
  status.demoted += to_bytes(PageCount{beside.counters.demoted_pages});
  status.promoted += to_bytes(PageCount{beside.counters.refaulted_pages + beside.counters.restored_pages});
}

void add_account(const Context& context, const Workload& workload, VmStatus& status) {
  status.mechanism = "kernel";
  status.far_stored = stored_of_swapped(context, status.far_swapped);
  status.metadata = workload.footprint();
  const auto latency = context.swap_mover->fault_times().snapshot();
  status.fault_p50 = latency.percentile(0.5);
  status.fault_p99 = latency.percentile(0.99);
  status.faults = workload.counters.swap_ins;
  status.demoted = to_bytes(PageCount{workload.counters.demoted_pages});
  status.promoted = to_bytes(PageCount{workload.counters.refaulted_pages + workload.counters.restored_pages});
}

}  // namespace

VmMemory memory_of(const ManagedVm& vm) {
  if (vm.workload) return memory_of(*vm.workload);
  VmMemory memory = memory_of(*vm.memory);
  // To the pager it is resident.
  const Bytes swapped = std::min(vm.swapped(), memory.resident);
  memory.resident = memory.resident - swapped;
  memory.far += swapped;
  return memory;
}

VmStatus status_of(const Context& context, const ManagedVm& vm, bool with_mappings) {
  VmStatus status;
  status.name = vm.name;
  status.uuid = vm.uuid;
  status.pid = vm.id.pid;
  status.start_time = vm.id.start_ticks;
  status.exe = vm.exe;
  status.uid = vm.uid;
  status.origin = word(vm.origin);
  status.adopted_at = vm.adopted_at;
  status.memory = memory_of(vm);
  status.far_swapped = std::min(vm.swapped(), status.memory.far);
  if (with_mappings) status.mappings = vm.workload ? mappings_of(*vm.workload) : vm.mappings;
  vm.workload ? add_account(context, *vm.workload, status) : add_account(context, *vm.memory, status);
  if (vm.beside) add_beside(context, *vm.beside, status);
  const std::lock_guard lock(vm.mutex);
  status.policy = vm.policy;
  status.held = vm.held;
  status.hold_reason = vm.hold_reason;
  status.stall = vm.rates.stall_minute;
  status.faults_per_second = vm.rates.faults_per_second;
  status.blocked = vm.blocked;
  if (vm.memory && vm.memory->ring_broken) status.blocked.insert(status.blocked.begin(), "ring-broken");
  if (vm.memory && vm.memory->restless) status.blocked.insert(status.blocked.begin(), "moves-memory");
  if (vm.pinned != Bytes{}) status.blocked.insert(status.blocked.begin(), "pinned");
  if (vm.immovable) status.blocked.insert(status.blocked.begin(), vm.immovable->code);
  status.state = vm.state;
  if (status.state == VmState::kOk) {
    if (vm.dead()) {
      status.state = VmState::kGone;
    } else if (vm.memory && vm.memory->drops_overdue != 0) {
      status.state = VmState::kStopped;
    } else if (vm.held) {
      status.state = VmState::kHeld;
    } else if (context.frozen) {
      status.state = VmState::kFrozen;
    } else if (vm.memory && vm.memory->blocked_by != 0) {
      status.state = VmState::kDegraded;
    }
  }
  return status;
}

HostStatus host_status(const Context& context, const PolicyDriver& driver) {
  HostStatus status;
  char name[256] = "";
  ::gethostname(name, sizeof name - 1);
  status.hostname = name;
  const policy::HostView host = host_view_of(context);
  status.dram = host.total;
  status.available = host.available;
  status.reserve = host.reserve;
  status.max_far = host.max_far;
  status.frozen = context.frozen;
  for (const auto& vm : context.vms.all()) {
    const VmMemory memory = memory_of(*vm);
    status.promised += memory.promised();
    status.resident += memory.in_dram();
    status.far += memory.far + memory.fetching;
    status.touched += memory.promised() - memory.untouched - memory.released;
  }
  status.overhead = overhead_of(context);
  status.net_saved =
      static_cast<std::int64_t>(status.far.value) - static_cast<std::int64_t>(status.overhead.total().value);
  status.pressure_level = static_cast<int>(driver.pressure().level);
  return status;
}

EvacuationReport evacuation_report(const Context& context) {
  EvacuationReport report;
  for (const auto& vm : context.vms.all()) {
    EvacuationVm line;
    const VmMemory memory = memory_of(*vm);
    line.vm = vm->name;
    line.far = memory.far + memory.fetching;
    if (vm->memory && vm->memory->drops_overdue != 0) line.obstacle = "stopped: its pages come home when it goes on";
    const auto alone = policy::evacuation({}, line.far, kComesHome);
    line.estimate = std::chrono::duration_cast<std::chrono::milliseconds>(alone.estimate);
    report.far += line.far;
    report.vms.push_back(std::move(line));
  }
  const policy::Evacuation whole = policy::evacuation(host_view_of(context), report.far, kComesHome);
  report.available = whole.spare;
  report.shortfall = whole.shortfall;
  report.possible = whole.shortfall == Bytes{};
  report.estimate = std::chrono::duration_cast<std::chrono::milliseconds>(whole.estimate);
  return report;
}

// Of a workload: what the kernel's tier is like.
static void explain_kernel_tier(const Context& context, std::vector<std::string>& say) {
  const TierState tier = context.swap_mover->tier();
  if (const auto against = against_kernel_tier(context.config().kernel_tier.swap, tier.kernel))
    say.push_back("Nothing moves out: " + against->message + ": " + against->remedy + ".");
  if (!tier.probe_trouble.empty())
    say.push_back("What a page costs could not be measured: " + tier.probe_trouble + ".");
  if (tier.fault_cost == Nanoseconds{0}) return;
  char text[160];
  std::snprintf(text, sizeof text,
                "Its waits are an estimate: pages read in, times %.1f us, what a probe of the agent's waits for a page "
                "in %s; %.2f bytes of DRAM for a byte there.",
                static_cast<double>(tier.fault_cost.count()) / 1e3,
                std::string(kernel::name_of(tier.kernel.kind)).c_str(), tier.kernel.ratio());
  say.emplace_back(text);
}

Explanation explanation_of(const Context& context, const PolicyDriver& driver, const ManagedVm& vm) {
  Explanation explanation;
  explanation.vm = vm.name;
  const VmStatus status = status_of(context, vm, false);
  auto& say = explanation.sentences;
  const bool slow = status.stall > status.policy.stall_budget;
  say.push_back(std::string(slow ? "Slow? Yes: " : "Slow? No: ") + short_share_text(status.stall) + " stall, budget " +
                short_share_text(status.policy.stall_budget) + ".");
  if (status.faults != 0) {
    char text[128];
    std::snprintf(text, sizeof text, "Far pages come home in %.0f us (median), %.0f us (p99); %.0f a second now.",
                  static_cast<double>(status.fault_p50.count()) / 1e3,
                  static_cast<double>(status.fault_p99.count()) / 1e3, status.faults_per_second);
    say.emplace_back(text);
  }
  if (status.policy.mode == Mode::kObserve) say.emplace_back("Nothing moves: the VM is in observe mode.");
  if (const auto paper = driver.dry_run(vm.number())) {
    char text[96];
    std::snprintf(text, sizeof text, " would be far, at %.0f faults a second and %.2f%% stall.", paper->faults,
                  paper->stall * 100);
    say.push_back("Nothing moves: the VM is in dry-run mode. Active, " + short_text(paper->far) + text);
  }
  if (const auto immovable = immovable_of(vm))
    say.push_back("Nothing may move: " + immovable->message + " " + immovable->remedy);
  if (vm.memory && vm.memory->restless)
    say.emplace_back(
        "Its private memory goes to no pool from now on: it unmaps or moves memory that is managed, so that no address "
        "of it is safe to drop.");
  if (const Bytes pinned = pinned_of(vm); pinned != Bytes{})
    say.push_back("Nothing more is demoted: " + short_text(pinned) +
                  " of it are pinned or locked since it was adopted, by a device or a ring that may write to them.");
  if (vm.memory && vm.memory->ring_broken)
    say.emplace_back(
        "Its private memory goes to no pool from now on: the ring that was placed in it contradicts itself, so the "
        "process has written to it. What it was asked to drop may never be answered: then only its end ends it.");
  if (status.held) say.push_back("Nothing more is demoted: held (" + status.hold_reason + ").");
  if (context.frozen) say.emplace_back("Nothing moves: the host is frozen.");
  if (!context.clerk->holding()) say.emplace_back("Nothing moves out: " + context.clerk->trouble() + ".");
  if (status.state == VmState::kIntegrity)
    say.emplace_back("Stopped: a far page is damaged or lost. It will not be continued with wrong bytes.");
  if (vm.memory && vm.memory->blocked_by == kStoreAway)
    say.emplace_back(
        "It waits for far pages that no memory server gives now (tidectl pool status): it goes on when one does.");
  if (status.state == VmState::kStopped) say.emplace_back("The process is stopped: drops wait until it goes on.");
  if (const auto last = context.decisions.newest([&](const Decision& d) { return d.vm == vm.name; })) {
    say.push_back((last->action == "none" ? "Not shrinking: " : "Last decision: " + last->action + ", ") +
                  last->reason + " (" + last->detail + ").");
  }
  if (vm.workload) {
    explain_kernel_tier(context, say);
    return explanation;
  }
  if (vm.beside && status.far_swapped != Bytes{}) {
    say.push_back(short_text(status.far_swapped) + " of what is far is in the kernel's tier, the rest in the pool.");
    explain_kernel_tier(context, say);
  }
  if (const auto remote = context.pool->remote(); remote && remote->expired_slices != 0)
    say.emplace_back(
        "Leases at memory servers have run out: far pages are read as before, and nothing goes there until they are "
        "renewed (tidectl pool status).");
  if (const pool::StoreUsage pool = context.pool->usage(); pool.used.value > pool.capacity.value / 10 * 8) {
    say.push_back("The pool has little room left: " + short_text(pool.used) + " of " + short_text(pool.capacity) +
                  " used; what does not fit stays resident.");
  }
  const std::uint64_t incompressible = [&] {
    std::uint64_t sum = 0;
    for (const auto& object : vm.memory->objects) {
      for (std::uint64_t r = 0; r < object->map->regions(); ++r) sum += object->map->region(r).incompressible;
    }
    return sum;
  }();
  if (incompressible != 0)
    say.push_back(short_text(to_bytes(PageCount{incompressible})) + " would not compress and stay resident.");
  return explanation;
}

}  // namespace tidepool::daemon
