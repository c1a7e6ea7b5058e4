#include "daemon/agent/policy_driver.h"

#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <cmath>

#include "daemon/control/notify.h"
#include "daemon/vm/eligibility.h"
#include "kmod-interfaces/meminfo.h"
#include "telemetry/hotness/trackers.h"

namespace tidepool::daemon {
namespace {

constexpr auto kPoolFullHoldOff = std::chrono::seconds(10);
constexpr auto kStandstill = std::chrono::seconds(20);
constexpr std::uint64_t kGrowthTicks = 10;
constexpr std::size_t kReliefRegions = 32;
constexpr double kShortAverage = 10.0;  // seconds
constexpr double kLongAverage = 60.0;

std::uint16_t narrowed(std::uint32_t count) {
  return static_cast<std::uint16_t>(std::min<std::uint32_t>(count, 0xffff));
}

double averaged(double old, double now, double passed, double window) {
  return old + (now - old) * (1 - std::exp(-passed / window));
}

}  // namespace

PolicyDriver::PolicyDriver(Context& context, std::function<void(const std::shared_ptr<ManagedVm>&)> vm_gone)
    : context_(context),
      vm_gone_(std::move(vm_gone)),
      trackers_(telemetry::trackers_by_preference(context.roots, context.clock, cpu_clock_),
                context.config().limits.tracker_cpu),
      tracker_status_(trackers_.status()) {}

PolicyDriver::~PolicyDriver() {
  stop();
}

void PolicyDriver::start() {
  last_progress_ns_ = context_.clock.now().since_boot.count();
  thread_ = std::thread([this] { run(); });
  ::pthread_setname_np(thread_.native_handle(), "policy");
}

void PolicyDriver::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void PolicyDriver::relieve(VmId vm) {
  const std::lock_guard lock(mutex_);
  if (std::find(relieve_.begin(), relieve_.end(), vm) == relieve_.end()) relieve_.push_back(vm);
  wake_.notify_one();
}

bool PolicyDriver::alive() const {
  return context_.clock.now().since_boot - Nanoseconds{last_progress_ns_.load()} < Nanoseconds{kStandstill};
}

std::vector<telemetry::TrackerStatus> PolicyDriver::trackers() const {
  const std::lock_guard lock(mutex_);
  return tracker_status_;
}

telemetry::DroppedSamples PolicyDriver::dropped_samples() const {
  const std::lock_guard lock(mutex_);
  return dropped_samples_;
}

std::vector<DecisionCount> PolicyDriver::decision_counts() const {
  const std::lock_guard lock(mutex_);
  std::vector<DecisionCount> list;
  for (const auto& [what, count] : counts_) list.push_back({what.first, what.second, count});
  return list;
}

void PolicyDriver::run() {
  std::unique_lock lock(mutex_);
  MonoTime next_tick = context_.clock.now();
  while (!stopping_) {
    const MonoTime now = context_.clock.now();
    if (now < next_tick && relieve_.empty()) {
      wake_.wait_for(lock, next_tick - now);
      continue;
    }
    lock.unlock();
    relieve_now();
    if (context_.clock.now() >= next_tick) {
      tick();
      next_tick = context_.clock.now() + context_.config().policy.tick;
    }
    lock.lock();
  }
}

void PolicyDriver::tick() {
  const MonoTime start = context_.clock.now();
  for (const auto& vm : context_.vms.all()) {
    if (vm->memory->dead) {
      context_.pager->abandon(vm->memory);
      vm_gone_(vm);
    }
  }
  sample();
  policy::Snapshot seen = snapshot();
  policy::PolicyConfig config;
  config.demote_per_second = context_.config().limits.demote_bandwidth;
  const policy::Plan plan = policy::plan_tick(seen, state_, config);
  act(plan);
  record(plan);
  bound_clean_copies();
  if (++ticks_ % kGrowthTicks == 0) find_growth();
  tick_times_.record(context_.clock.now() - start);
  // The watchdog is fed by the fault loops' progress, not by ours alone: they go round at least twice a second.
  const std::uint64_t heartbeat = context_.pager->heartbeat();
  if (heartbeat != last_heartbeat_) {
    last_heartbeat_ = heartbeat;
    last_progress_ns_ = context_.clock.now().since_boot.count();
    ServiceManager::watchdog();
  }
}

policy::HostView PolicyDriver::host_view() const {
  const Config config = context_.config();
  policy::HostView host;
  if (const auto memory = kernel::read_meminfo(context_.roots)) {
    host.total = memory->total;
    host.available = memory->available;
  }
  host.reserve = config.safety.host_reserve.resolve(host.total);
  host.max_far = config.safety.max_far.resolve(host.total);
  const pool::StoreUsage usage = context_.store->usage();
  host.pool_capacity = usage.capacity;
  host.pool_used = usage.used;
  const Bytes stored = to_bytes(usage.pages);
  if (stored.value > (1u << 20))
    host.pool_ratio = static_cast<double>(usage.used.value) / static_cast<double>(stored.value);
  host.pool_is_dram = context_.store->uses_host_dram();
  host.require_evacuable = config.safety.require_evacuable;
  host.frozen = context_.frozen;
  return host;
}

void PolicyDriver::update_rates(ManagedVm& vm, MonoTime now) const {
  const std::uint64_t stall = vm.memory->counters.stall_ns;
  const std::uint64_t faults = vm.memory->counters.faults_far;
  VmRates& rates = vm.rates;
  if (rates.at != MonoTime{}) {
    const double passed = std::chrono::duration<double>(now - rates.at).count();
    if (passed <= 0) return;
    const double share = static_cast<double>(stall - rates.stall_ns) / 1e9 / passed / vm.fault_threads;
    rates.stall = averaged(rates.stall, share, passed, kShortAverage);
    rates.stall_minute = averaged(rates.stall_minute, share, passed, kLongAverage);
    rates.faults_per_second =
        averaged(rates.faults_per_second, static_cast<double>(faults - rates.faults) / passed, passed, 2.0);
  }
  rates.at = now;
  rates.stall_ns = stall;
  rates.faults = faults;
}

policy::VmView PolicyDriver::view_of(ManagedVm& vm) {
  policy::VmView view;
  PagedVm& memory = *vm.memory;
  view.id = memory.id;
  view.name = vm.name;
  {
    const std::lock_guard lock(vm.mutex);
    update_rates(vm, context_.clock.now());
    view.mode = vm.policy.mode == Mode::kActive ? policy::Mode::kActive : policy::Mode::kObserve;
    view.held = vm.held || vm.state == VmState::kReleasing || vm.state == VmState::kIntegrity ||
                memory.drops_overdue != 0 || (memory.restless && !memory.has_shared_memory());
    view.guarantee = vm.policy.guarantee;
    view.limit = vm.policy.limit;
    view.stall = vm.rates.stall;
    view.stall_budget = vm.policy.stall_budget;
    view.min_cold_age = vm.policy.min_cold_age;
  }
  const auto bytes = [&](PageState state) { return to_bytes(PageCount{memory.count(state)}); };
  view.resident = bytes(PageState::kResident) + bytes(PageState::kResidentClean) + bytes(PageState::kDemoting) +
                  bytes(PageState::kDropping);
  view.far = bytes(PageState::kFar) + bytes(PageState::kFetching);
  view.promised = view.resident + view.far + bytes(PageState::kUntouched) + bytes(PageState::kReleased);
  // What is on its way out counts as gone, so that a long grace does not order the same memory out again each tick.
  const Bytes leaving = std::min(view.resident, bytes(PageState::kDemoting) + bytes(PageState::kDropping));
  view.resident -= leaving;
  view.far += leaving;
  for (std::size_t i = 0; i < memory.objects.size(); ++i) {
    PageMap& map = *memory.objects[i]->map;
    policy::ObjectView object;
    object.object = static_cast<std::uint32_t>(i);
    object.regions.resize(map.regions());
    const auto tally = seen_.take({memory.id, object.object});
    for (std::uint64_t r = 0; r < map.regions(); ++r) {
      const RegionCounters& counters = map.region(r);
      policy::RegionObservation& seen = object.regions[r];
      // A page that changes twice at once may be counted out before it is counted in.
      const auto pages = [](const std::atomic<std::uint16_t>& counter) {
        const std::uint16_t count = counter.load(std::memory_order_relaxed);
        return count > kPagesPerRegion ? std::uint16_t{0} : count;
      };
      seen.resident = pages(counters.resident);
      seen.far = pages(counters.far);
      if (r < tally.size()) {
        seen.armed = narrowed(tally[r].watched);
        seen.touches = narrowed(tally[r].used + tally[r].events);
        seen.refaults = narrowed(tally[r].refaults);
      }
      seen.incompressible = pages(counters.incompressible);
    }
    view.objects.push_back(std::move(object));
  }
  return view;
}

// A pool can be full for the pages that come although some of its bytes are free: it is sized in slabs. Then it counts
// as full for a while, so that the same pages are not frozen, copied and turned away each tick.
bool PolicyDriver::pool_turned_pages_away(const policy::HostView& host, MonoTime now) {
  std::uint64_t turned_away = 0;
  for (const auto& vm : context_.vms.all()) turned_away += vm->memory->counters.store_full;
  if (turned_away > pages_turned_away_) {
    turned_away_at_ = now;
    turned_away_capacity_ = host.pool_capacity;
  }
  pages_turned_away_ = turned_away;
  return turned_away_at_ != MonoTime{} && now - turned_away_at_ < Nanoseconds{kPoolFullHoldOff} &&
         host.pool_capacity <= turned_away_capacity_;
}

policy::Snapshot PolicyDriver::snapshot() {
  policy::Snapshot seen;
  seen.now = context_.clock.now();
  seen.host = host_view();
  if (pool_turned_pages_away(seen.host, seen.now)) seen.host.pool_used = seen.host.pool_capacity;
  for (const auto& vm : context_.vms.all()) {
    if (!vm->memory->dead) seen.vms.push_back(view_of(*vm));
  }
  return seen;
}

void PolicyDriver::act(const policy::Plan& plan) {
  for (const policy::Move& move : plan.demotions) {
    const auto vm = context_.vms.find(move.vm);
    if (vm == nullptr || move.region.object >= vm->memory->objects.size()) continue;
    context_.pager->demote(vm->memory, {vm->memory->objects[move.region.object].get(), move.region.region});
  }
  for (const policy::Move& move : plan.restores) {
    const auto vm = context_.vms.find(move.vm);
    if (vm == nullptr || move.region.object >= vm->memory->objects.size()) continue;
    context_.pager->restore(vm->memory, vm->memory->objects[move.region.object].get(),
                            {PageIndex{move.region.region * kPagesPerRegion}, kPagesPerRegion}, [](std::uint64_t) {});
  }
}

void PolicyDriver::record(const policy::Plan& plan) {
  for (const policy::Decision& decision : plan.decisions) {
    const auto vm = context_.vms.find(decision.vm);
    Decision line;
    line.vm = vm ? vm->name : std::string();
    line.action = policy::word(decision.action);
    line.reason = policy::word(decision.reason);
    line.detail = decision.detail;
    line.bytes = decision.bytes;
    line.carried_out = !decision.would && decision.action != policy::Action::kNone;
    context_.decisions.add(std::move(line));
    if (vm) {
      const std::lock_guard lock(vm->mutex);
      vm->blocked.clear();
      if (decision.would) vm->blocked.emplace_back("observe");
      if (decision.action == policy::Action::kNone) vm->blocked.emplace_back(policy::word(decision.reason));
    }
    const std::lock_guard lock(mutex_);
    ++counts_[{decision.action, decision.reason}];
  }
}

void PolicyDriver::sample() {
  const telemetry::MemoryList memory =
      context_.frozen ? telemetry::MemoryList{} : tracked_.of(*context_.pager, context_.vms.all());
  seen_.set_memory(memory);
  trackers_.set_cpu_per_100_gib(context_.config().limits.tracker_cpu);
  trackers_.set_memory(memory);
  trackers_.round(seen_);
  const std::lock_guard lock(mutex_);
  tracker_status_ = trackers_.status();
  dropped_samples_ = {seen_.malformed(), seen_.unknown()};
}

// Processes other than VMs map more memory as they go: private mappings that nobody watches yet join their VM.
void PolicyDriver::find_growth() {
  for (const auto& vm : context_.vms.all()) {
    // A process that handed itself off said what is to be managed.
    if (vm->hypervisor || vm->origin == VmOrigin::kHandedOff || vm->memory->dead || vm->memory->releasing ||
        context_.frozen)
      continue;
    std::size_t private_object = vm->memory->objects.size();
    for (std::size_t i = 0; i < vm->memory->objects.size(); ++i) {
      if (!vm->memory->objects[i]->shared) private_object = i;
    }
    const auto spaces = vm->memory->spaces();
    if (private_object == vm->memory->objects.size() || spaces.empty()) continue;
    auto process = kernel::Process::open(context_.roots, vm->id.pid);
    if (!process) continue;
    const auto maps = process->maps();
    if (!maps) continue;
    const auto table = spaces.front()->segments();
    const bool grown = std::any_of(maps->begin(), maps->end(), [&](const kernel::MemoryMap& map) {
      return !map.shared && map.writable && map.file.inode == 0 && map.range.size() >= kSmallestMapping.value &&
             !map.is_stack() && table->at(map.range.start) == nullptr;
    });
    if (!grown) continue;
    const auto facts = collect_facts(vm->id.pid, context_.roots);
    if (!facts || facts->id != vm->id) continue;
    std::vector<MappingSpec> more;
    for (const ManagedMapping& mapping : facts->mappings.chosen) {
      const bool known = std::any_of(table->all().begin(), table->all().end(),
                                     [&](const Segment& segment) { return segment.addresses.overlaps(mapping.range); });
      if (!is_shared(mapping.kind) && !known) more.push_back({mapping.range, private_object, 0});
    }
    if (more.empty()) continue;
    if (auto extended = context_.pager->extend(vm->memory, more); !extended) {
      context_.event(vm->name, "growth", extended.error().message());
    } else {
      context_.event(vm->name, "growth", std::to_string(more.size()) + " new mappings");
    }
  }
}

void PolicyDriver::bound_clean_copies() {
  // Copies of resident pages cost room: keep them only while there is plenty, and never where the room is DRAM.
  const pool::StoreUsage usage = context_.store->usage();
  const bool plenty = !context_.store->uses_host_dram() && usage.used.value < usage.capacity.value / 4 * 3;
  for (const auto& vm : context_.vms.all()) vm->memory->keep_clean_copies = plenty;
}

// A VM at its own control group's limit: its coldest regions go now, whatever the tick would have said.
void PolicyDriver::relieve_now() {
  std::vector<VmId> wanted;
  {
    const std::lock_guard lock(mutex_);
    wanted.swap(relieve_);
  }
  for (const VmId id : wanted) {
    const auto vm = context_.vms.find(id);
    if (vm == nullptr || context_.frozen) continue;
    const auto history =
        std::find_if(state_.vms.begin(), state_.vms.end(), [&](const policy::VmHistory& h) { return h.id == id; });
    struct Cold {
      std::uint32_t last_touch;
      std::size_t object;
      std::uint64_t region;
    };
    std::vector<Cold> coldest;
    for (std::size_t i = 0; i < vm->memory->objects.size(); ++i) {
      PageMap& map = *vm->memory->objects[i]->map;
      for (std::uint64_t r = 0; r < map.regions(); ++r) {
        if (map.region(r).resident == 0) continue;
        const bool known = history != state_.vms.end() && i < history->objects.size() && r < history->objects[i].size();
        coldest.push_back({known ? history->objects[i][r].last_touch : 0, i, r});
      }
    }
    const std::size_t count = std::min(kReliefRegions, coldest.size());
    std::partial_sort(coldest.begin(), coldest.begin() + static_cast<std::ptrdiff_t>(count), coldest.end(),
                      [](const Cold& a, const Cold& b) { return a.last_touch < b.last_touch; });
    for (std::size_t i = 0; i < count; ++i) {
      context_.pager->demote(vm->memory, {vm->memory->objects[coldest[i].object].get(), coldest[i].region});
    }
  }
}

}  // namespace tidepool::daemon
