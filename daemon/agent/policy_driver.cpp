#include "daemon/agent/policy_driver.h"

#include <pthread.h>
#include <spdlog/spdlog.h>
#include <sys/mman.h>

#include <algorithm>
#include <cmath>

#include "base/text.h"
#include "daemon/agent/home_bringer.h"
#include "daemon/control/config_schema.h"
#include "daemon/vm/eligibility.h"
#include "service/log.h"
#include "telemetry/hotness/trackers.h"

namespace tidepool::daemon {
namespace {

constexpr auto kLongestTick = std::chrono::seconds(20);
constexpr std::uint64_t kGrowthTicks = 10;

RegionToDemote region_of(PagedVm& vm, const policy::Move& move) {
  return {vm.objects[move.region.object].get(), move.region.region, move.units, move.spares};
}

}  // namespace

PolicyDriver::PolicyDriver(Context& context, AccessRecorder& recorder,
                           std::function<void(const std::shared_ptr<ManagedVm>&)> vm_gone)
    : context_(context),
      recorder_(recorder),
      vm_gone_(std::move(vm_gone)),
      groups_(context),
      pins_(context),
      view_(context),
      trackers_(telemetry::trackers_by_preference({.soft_dirty = context.config().trackers.soft_dirty}, context.roots,
                                                  context.clock, cpu_clock_),
                context.config().limits.tracker_cpu),
      views_(context),
      needs_(context),
      tracker_status_(trackers_.status()) {}

PolicyDriver::~PolicyDriver() {
  stop();
}

void PolicyDriver::start() {
  needs_.open();
  last_tick_ns_ = context_.clock.now().since_boot.count();
  thread_ = std::thread([this] { run(); });
  ::pthread_setname_np(thread_.native_handle(), "policy");
}

void PolicyDriver::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  if (!thread_.joinable()) return;
  thread_.join();
  needs_.close();
}

void PolicyDriver::relieve(VmId vm) {
  const std::lock_guard lock(mutex_);
  if (std::find(relieve_.begin(), relieve_.end(), vm) == relieve_.end()) relieve_.push_back(vm);
  wake_.notify_one();
}

bool PolicyDriver::alive() const {
  const Nanoseconds period = context_.config().policy.tick;
  return context_.clock.now().since_boot - Nanoseconds{last_tick_ns_.load()} < period + kLongestTick;
}

std::vector<telemetry::TrackerStatus> PolicyDriver::trackers() const {
  const std::lock_guard lock(mutex_);
  return tracker_status_;
}

telemetry::DroppedSamples PolicyDriver::dropped_samples() const {
  const policy::IntakeCounts all = intake();
  return {all.samples_absurd, all.samples_stale + samples_dropped_};
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
    if (!vm->dead()) continue;
    if (vm->memory) context_.pager->abandon(vm->memory);
    vm_gone_(vm);
  }
  groups_.look_at_all();
  pins_.look_at_all();
  sample();
  take_demotion_news();
  needs_.remember([this](VmId vm, const std::string& history) {
    const std::lock_guard lock(engine_mutex_);
    engine_.give_history(vm, history);
  });
  const policy::Snapshot snapshot = view_.snapshot(seen_);
  policy::Plan plan;
  {
    const std::lock_guard lock(engine_mutex_);
    plan = engine_.tick(snapshot, policy_config());
    pressure_ = plan.pressure;
    intake_ += plan.intake;
    dry_runs_ = plan.dry_runs;
  }
  carry_out(plan);
  record_pressure(plan.pressure);
  feed_views();
  needs_.note([this](VmId vm) {
    const std::lock_guard lock(engine_mutex_);
    return engine_.history_of(vm);
  });
  bound_clean_copies();
  for (const auto& vm : context_.vms.paged()) {
    if (!context_.frozen) bring_home_what_leaves(*context_.pager, vm->memory);
  }
  if (++ticks_ % kGrowthTicks == 0) find_growth();
  tick_times_.record(context_.clock.now() - start);
  last_tick_ns_ = context_.clock.now().since_boot.count();
}

policy::PolicyConfig PolicyDriver::policy_config() const {
  policy::PolicyConfig config;
  const Config::Limits limits = context_.config().limits;
  config.demote_per_second = limits.demote_bandwidth;
  config.restore_per_second = limits.promote_bandwidth;
  const DemoterConfig mover;
  config.moves_under_way = mover.max_jobs;
  config.moves_under_way_per_vm = mover.max_jobs_per_vm;
  return config;
}

void PolicyDriver::take_demotion_news() {
  for (const auto& vm : context_.vms.by_kernel()) {
    for (const SwapMoveNews& news : vm->by_kernel()->take_news()) {
      const std::lock_guard lock(engine_mutex_);
      if (news.over) {
        engine_.ended(vm->number(), news.region, news.pages, news.stayed);
      } else {
        engine_.begun(vm->number(), news.region, news.pages);
      }
    }
  }
  for (const auto& vm : context_.vms.paged()) {
    for (const DemotionNews& news : vm->memory->take_news()) {
      const auto& objects = vm->memory->objects;
      const auto object = std::ranges::find_if(objects, [&](const auto& o) { return o.get() == news.object; });
      if (object == objects.end()) continue;
      const policy::RegionId region{static_cast<std::uint32_t>(object - objects.begin()),
                                    static_cast<std::uint32_t>(news.region)};
      const std::lock_guard lock(engine_mutex_);
      if (news.over) {
        engine_.ended(vm->memory->id, region, news.pages, news.spared);
      } else {
        engine_.begun(vm->memory->id, region, news.pages);
      }
    }
  }
}

policy::Pressure PolicyDriver::pressure() const {
  const std::lock_guard lock(engine_mutex_);
  return pressure_;
}

policy::IntakeCounts PolicyDriver::intake() const {
  const std::lock_guard lock(engine_mutex_);
  return intake_;
}

std::optional<policy::DryRun> PolicyDriver::dry_run(VmId vm) const {
  const std::lock_guard lock(engine_mutex_);
  for (const policy::DryRun& each : dry_runs_) {
    if (each.vm == vm) return each;
  }
  return std::nullopt;
}

void PolicyDriver::feed_views() {
  const MonoTime now = context_.clock.now();
  for (const auto& vm : context_.vms.paged()) {
    if (vm->dead()) continue;
    const std::lock_guard lock(engine_mutex_);
    if (const policy::VmHeat* heat = engine_.heat_of(vm->number())) views_.feed(*vm, *heat, now);
  }
  views_.forget_gone();
}

WorkingSet PolicyDriver::working_set(const ManagedVm& vm, Nanoseconds last) const {
  WorkingSet set = views_.working_set(vm, last);
  MemoryNow now;
  {
    const std::lock_guard lock(vm.mutex);
    now.fault_cost = std::chrono::duration_cast<Nanoseconds>(std::chrono::duration<double>(vm.rates.fault_cost));
    now.stall_budget = vm.policy.stall_budget;
  }
  now.threads = vm.fault_threads;
  std::optional<policy::MissCurve> curve;
  {
    const std::lock_guard lock(engine_mutex_);
    const policy::VmHeat* heat = engine_.heat_of(vm.number());
    if (heat == nullptr) return set;  // adopted since the last tick
    curve = heat->miss_curve();
    now.resident = to_bytes(PageCount{heat->resident_pages()});
    now.far = to_bytes(PageCount{heat->far_pages()});
  }
  WorkingSet whole = working_set_now(*curve, now);
  whole.vm = std::move(set.vm);
  whole.period = set.period;
  whole.samples = std::move(set.samples);
  return whole;
}

policy::Fit PolicyDriver::fits(Bytes guaranteed, Bytes oversubscribed) const {
  const std::lock_guard lock(engine_mutex_);
  return engine_.fits(guaranteed, oversubscribed);
}

// The plan may be older than an operator's word that nothing shall move.
bool PolicyDriver::order_out(const ManagedVm& vm, const policy::Move& move) {
  const std::lock_guard lock(vm.mutex);
  if (vm.policy.mode != Mode::kActive) return false;
  if (vm.workload) return context_.swap_mover->demote(vm.workload, move.region, move.units);
  if (move.region.object >= vm.memory->objects.size()) return false;
  if (move.tier == kKernelTier) return vm.beside && context_.swap_mover->demote(vm.beside, move.region, move.units);
  const RegionToDemote region = region_of(*vm.memory, move);
  if (move.reason != policy::Reason::kDeeper) return context_.pager->demote(vm.memory, region);
  // What the pager demotes has to be there: it comes out of swap first.
  const auto onwards = [pager = context_.pager.get(), memory = vm.memory, region](const SwapMover::RegionPages& home) {
    if (home.none()) return;
    RegionToDemote those = region;
    those.only = std::make_shared<const SwapMover::RegionPages>(home);
    (void)pager->demote(memory, those);
  };
  return vm.beside && context_.swap_mover->restore(vm.beside, move.region, move.units, onwards);
}

bool PolicyDriver::order_home(const ManagedVm& vm, const policy::Move& move) {
  const bool out_of_swap = vm.by_kernel() && context_.swap_mover->restore(vm.by_kernel(), move.region, move.units);
  if (!vm.memory || move.region.object >= vm.memory->objects.size()) return out_of_swap;
  context_.pager->restore(vm.memory, vm.memory->objects[move.region.object].get(),
                          {PageRun{PageIndex{move.region.region * kPagesPerRegion}, kPagesPerRegion}},
                          RestoreKind::kOwnAccord, [](std::uint64_t) {});
  return true;
}

void PolicyDriver::carry_out(const policy::Plan& plan) {
  for (const policy::Hold& hold : plan.holds) {
    if (const auto vm = context_.vms.find(hold.vm); vm != nullptr && vm->memory)
      vm->memory->hold = std::chrono::duration_cast<Nanoseconds>(std::chrono::duration<float>(hold.seconds));
  }
  CarriedOut moves;
  for (const policy::Move& move : plan.demotions) {
    const auto vm = context_.vms.find(move.vm);
    const bool taken = vm != nullptr && order_out(*vm, move);
    moves.count(policy::Action::kDemote, move, taken);
    if (taken) continue;
    const std::lock_guard lock(engine_mutex_);
    engine_.not_taken(move);
  }
  for (const policy::Move& move : plan.restores) {
    const auto vm = context_.vms.find(move.vm);
    moves.count(policy::Action::kRestore, move, vm != nullptr && order_home(*vm, move));
  }
  record(plan, moves);
}

void PolicyDriver::record(const policy::Plan& plan, const CarriedOut& moves) {
  for (const policy::Decision& decision : plan.decisions) {
    const auto vm = context_.vms.find(decision.vm);
    context_.decisions.add(moves.line_of(decision, vm ? vm->name : std::string()));
    if (vm) {
      const std::lock_guard lock(vm->mutex);
      vm->blocked.clear();
      if (decision.would) vm->blocked.emplace_back(text_of(vm->policy.mode));
      if (decision.action == policy::Action::kNone) vm->blocked.emplace_back(policy::word(decision.reason));
    }
    const std::lock_guard lock(mutex_);
    ++counts_[{decision.action, decision.reason}];
  }
}

// Of the host, and without a VM: what its operator should know.
void PolicyDriver::record_pressure(const policy::Pressure& pressure) {
  if (!pressure.changed) return;
  Decision line;
  line.action = "pressure";
  line.reason = policy::word(pressure.level);
  line.detail = pressure.detail;
  if (pressure.migrate) {
    if (const auto vm = context_.vms.find(*pressure.migrate)) line.detail += "; best migrated: " + vm->name;
  }
  line.bytes = pressure.shortage;
  context_.event("", "pressure", line.reason + ": " + line.detail);
  context_.decisions.add(std::move(line));
}

void PolicyDriver::sample() {
  const telemetry::MemoryList memory =
      context_.frozen ? telemetry::MemoryList{} : tracked_.of(*context_.pager, context_.vms.all());
  seen_.clear();
  trackers_.set_cpu_per_100_gib(context_.config().limits.tracker_cpu);
  trackers_.set_memory(memory);
  trackers_.round(seen_);
  for (const auto& vm : context_.vms.by_kernel())
    vm->by_kernel()->take_refaults(context_.clock.now(),
                                   [&](const policy::AccessSample& sample) { seen_.add(sample); });
  samples_dropped_ = seen_.dropped();
  recorder_.take(context_.clock.now(), seen_.samples());
  const std::lock_guard lock(mutex_);
  tracker_status_ = trackers_.status();
}

// Processes other than VMs map more memory as they go: private mappings that nobody watches yet join their VM.
void PolicyDriver::find_growth() {
  for (const auto& vm : context_.vms.paged()) {
    // Whoever said just what is to be managed, a process that handed itself off among them, asked for no more.
    const bool all_named =
        vm->selector.kind == MemorySelector::Kind::range || vm->selector.kind == MemorySelector::Kind::handed_off;
    if (vm->hypervisor || all_named || vm->memory->dead || vm->memory->releasing || vm->memory->keeps_private() ||
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
    const auto facts = collect_facts(vm->id.pid, context_.roots, vm->selector);
    if (!facts || facts->id != vm->id) continue;
    std::vector<MappingSpec> more;
    std::vector<AddressRange> fresh;
    for (const ManagedMapping& mapping : facts->mappings.chosen) {
      const bool known = std::any_of(table->all().begin(), table->all().end(),
                                     [&](const Segment& segment) { return segment.addresses.overlaps(mapping.range); });
      if (is_shared(mapping.kind) || known) continue;
      fresh.push_back(mapping.within);
      // What still changes is left alone: see PrivateLayout.
      const bool settled = std::ranges::find(vm->growing, mapping.within) != vm->growing.end();
      if (settled) more.push_back({mapping.range, private_object, 0});
    }
    vm->growing = std::move(fresh);
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
  const pool::StoreUsage usage = context_.pool->usage();
  // Nor where others wait for it.
  const bool plenty = !context_.pool->uses_host_dram() && !context_.pool->controller() &&
                      usage.used.value < usage.capacity.value / 4 * 3;
  for (const auto& vm : context_.vms.paged()) vm->memory->keep_clean_copies = plenty;
}

// A VM whose control group is full: something of it goes now, not with the next tick.
void PolicyDriver::relieve_now() {
  std::vector<VmId> wanted;
  {
    const std::lock_guard lock(mutex_);
    wanted.swap(relieve_);
  }
  if (wanted.empty()) return;
  take_demotion_news();
  for (const VmId id : wanted) {
    const auto vm = context_.vms.find(id);
    if (vm == nullptr || !vm->memory) continue;
    groups_.look_at(*vm);
    // What has been ordered may be enough.
    if (!may_relieve(*vm) || vm->memory->demotions_in_flight != 0) continue;
    std::vector<policy::VmSizes> sizes;
    for (const auto& each : context_.vms.all()) {
      if (!each->dead()) sizes.push_back(sizes_of(*each));
    }
    policy::Plan plan;
    {
      const std::lock_guard lock(engine_mutex_);
      plan = engine_.relieve(id, sizes, policy_config());
      intake_ += plan.intake;
    }
    carry_out(plan);
  }
}

bool PolicyDriver::may_relieve(const ManagedVm& vm) const {
  if (!context_.may_move_out()) return false;
  const std::lock_guard lock(vm.mutex);
  return vm.policy.mode == Mode::kActive;
}

}  // namespace tidepool::daemon
