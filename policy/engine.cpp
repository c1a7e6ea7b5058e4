#include "policy/engine.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "policy/planner.h"
#include "policy/pressure.h"

namespace tidepool::policy {
namespace {

constexpr std::int64_t kLongestTick = 60;         // seconds; what lies between is not known to have passed
constexpr std::uint32_t kMinute = 600;            // tenths
constexpr double kPredictionMemory = 10;          // seconds after which what was expected has been measured
constexpr std::size_t kWaitingHistories = 10000;  // of VMs that are not adopted yet

}  // namespace

struct Engine::Host {
  bool started = false;
  MonoTime last{};
  double left_over = 0;  // time that did not make up a tenth, in seconds
  std::uint32_t tenths = 1;
  std::uint32_t period_tenths = 0;
  std::uint16_t period = 0;
  Moment now() const { return {tenths, period, static_cast<std::uint16_t>(tenths / 10)}; }
  double passed = 0;  // seconds of this tick
  PlannerState planner;
  PressureLadder ladder;
  HostView view;
  unsigned day_windows = 6;
  double window_percentile = 0.95;
};

Engine::Engine() : host_(std::make_unique<Host>()) {}
Engine::~Engine() = default;
Engine::Engine(Engine&&) noexcept = default;
Engine& Engine::operator=(Engine&&) noexcept = default;

VmState* Engine::find(VmId vm) const {
  const auto found = std::lower_bound(vms_.begin(), vms_.end(), vm,
                                      [](const std::unique_ptr<VmState>& s, VmId wanted) { return s->id < wanted; });
  return found != vms_.end() && (*found)->id == vm ? found->get() : nullptr;
}

VmState& Engine::state_of(VmId vm) {
  const auto at = std::lower_bound(vms_.begin(), vms_.end(), vm,
                                   [](const std::unique_ptr<VmState>& s, VmId wanted) { return s->id < wanted; });
  if (at != vms_.end() && (*at)->id == vm) return **at;
  VmState& state = **vms_.insert(at, std::make_unique<VmState>(vm));
  state.history = Utilisation(host_->day_windows);
  state.next_minute = host_->tenths + kMinute;
  const auto waiting = std::find_if(waiting_histories_.begin(), waiting_histories_.end(),
                                    [&](const auto& each) { return each.first == vm; });
  if (waiting != waiting_histories_.end()) {
    if (waiting->second.windows() == state.history.windows()) state.history = std::move(waiting->second);
    waiting_histories_.erase(waiting);
  }
  return state;
}

Moment Engine::advance_clock(MonoTime now, const PolicyConfig& config, IntakeCounts& counts) {
  Host& host = *host_;
  double passed = 1;  // of the first tick, nobody knows
  if (host.started) {
    passed = std::chrono::duration<double>(now - host.last).count();
    if (passed < 0 || passed > kLongestTick) {
      ++counts.clock_jumps;
      passed = passed < 0 ? 0 : kLongestTick;
    }
  }
  host.started = true;
  host.last = now;
  host.passed = passed;
  const double tenths = (passed + host.left_over) * 10;
  const auto whole = static_cast<std::uint32_t>(tenths);
  host.left_over = (tenths - whole) / 10;
  host.tenths += whole;
  host.period_tenths += whole;
  const auto period = static_cast<std::uint32_t>(std::clamp<std::int64_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(config.heat.scan_period).count() / 100, 1, 36000));
  host.period = static_cast<std::uint16_t>(host.period + host.period_tenths / period);
  host.period_tenths %= period;
  return host.now();
}

void Engine::take_samples(const Snapshot& snapshot, IntakeCounts& counts) {
  for (const bool far : {true, false}) {
    VmState* vm = nullptr;
    for (std::size_t i = 0; i < snapshot.samples.size(); ++i) {
      const AccessSample& sample = snapshot.samples[i];
      if (sample.far != far) continue;
      if (i + kLookAhead < snapshot.samples.size()) {
        const AccessSample& soon = snapshot.samples[i + kLookAhead];
        if (vm != nullptr && vm->id == soon.object.vm) vm->heat.expect(soon);
      }
      if (vm == nullptr || vm->id != sample.object.vm) vm = find(sample.object.vm);
      if (vm != nullptr) {
        vm->heat.take(sample, counts);
      } else {
        ++counts.samples;
        ++counts.samples_stale;
      }
    }
  }
}

Plan Engine::tick(const Snapshot& snapshot, const PolicyConfig& config) {
  Plan plan;
  Host& host = *host_;
  host.day_windows = config.day_windows;
  host.window_percentile = config.window_percentile;
  const Moment now = advance_clock(snapshot.now, config, plan.intake);
  host.view = sane_host(snapshot.host, plan.intake);
  const TierChooser tiers(host.view.tiers, 0);

  // The VMs that are there; each once.
  for (const auto& vm : vms_) vm->seen = false;
  std::vector<std::pair<VmState*, const VmView*>> present;
  for (const VmView& view : snapshot.vms) {
    VmState& vm = state_of(view.id);
    if (vm.seen) {
      ++plan.intake.duplicate_vms;
      continue;
    }
    vm.seen = true;
    present.emplace_back(&vm, &view);
  }
  std::erase_if(vms_, [](const std::unique_ptr<VmState>& vm) { return !vm->seen; });

  for (const auto& [vm, view] : present) {
    vm->terms = terms_of(*view, config, tiers.fault_cost(0.01f, view->tiers), plan.intake);
    if (view->shallow_tier && *view->shallow_tier < host.view.tiers.size()) {
      const auto far = static_cast<double>(std::min(view->shallow, vm->terms.far).value);
      vm->terms.shallow_dram = Bytes{static_cast<std::uint64_t>(far * tiers.excess(*view->shallow_tier, view->tiers))};
    } else {
      vm->terms.shallow_tier.reset();
    }
    vm->heat.begin_tick(now, config.heat);
    vm->heat.set_paper(view->mode == Mode::kDryRun);
    vm->heat.set_spares(view->spares, vm->hold.seconds());
    for (const ObjectView& object : view->objects) vm->heat.know(object);
  }
  take_samples(snapshot, plan.intake);
  std::vector<VmState*> states;
  for (const auto& [vm, view] : present) {
    for (const ObjectView& object : view->objects) vm->heat.take(object, plan.intake);
    settle_tick(*vm, now, snapshot.time_of_day, config);
    states.push_back(vm);
    if (view->mode == Mode::kDryRun) {
      plan.dry_runs.push_back(
          {vm->id, to_bytes(PageCount{vm->heat.far_pages()}), vm->heat.fault_rate(), vm->terms.stall});
    }
  }
  std::sort(states.begin(), states.end(), [](const VmState* a, const VmState* b) { return a->id < b->id; });
  plan.pressure = measure_pressure(states, now, config);
  Planner(host.view, states, now, host.passed, host.planner, config).run(plan.pressure, plan);
  for (VmState* vm : states) {
    const auto in_dram = static_cast<double>(saturating_sub(vm->terms.resident, vm->terms.leaving).value);
    const double limit = vm->terms.limit ? std::max(1.0, static_cast<double>(vm->terms.limit->value)) : in_dram;
    vm->hold.end_tick(std::exchange(vm->must_give, false), in_dram / std::max(1.0, limit) - 1);
    if (vm->terms.spares) plan.holds.push_back({vm->id, vm->hold.seconds()});
  }
  return plan;
}

Plan Engine::relieve(VmId id, std::span<const VmSizes> sizes, const PolicyConfig& config) {
  Plan plan;
  VmState* vm = find(id);
  if (vm == nullptr) return plan;
  for (const VmSizes& now : sizes) {
    if (VmState* each = find(now.vm)) take_sizes(now, each->terms, plan.intake);
  }
  std::vector<VmState*> states;
  for (const auto& each : vms_) states.push_back(each.get());
  Planner(host_->view, states, host_->now(), 0, host_->planner, config).relieve(*vm, plan);
  return plan;
}

// What follows for a VM from what was seen of it.
void Engine::settle_tick(VmState& vm, const Moment& now, std::chrono::seconds time_of_day, const PolicyConfig& config) {
  VmTerms& terms = vm.terms;
  if (terms.mode == Mode::kDryRun) terms.stall = vm.heat.fault_rate() * terms.fault_cost / terms.threads;
  vm.predicted *= std::exp(-host_->passed / kPredictionMemory);
  vm.stall.measure(terms.stall, terms.budget, now.tenths, config);
  const Regrets regrets = vm.heat.regrets();
  vm.pingpong.measure(regrets.moved, regrets.returned, now.tenths, config);
  if (now.tenths >= vm.next_minute) {
    vm.next_minute = now.tenths + kMinute;
    vm.heat.threshold().end_minute(terms.faults_allowed * 60, config.threshold_percentile);
    if (vm.history.windows() != std::clamp(config.day_windows, 1u, kMaxDayWindows))
      vm.history = Utilisation(config.day_windows);
    const double need = vm.heat.miss_curve().least_local(terms.faults_allowed);
    vm.history.record(Utilisation::window_at(time_of_day, config.day_windows),
                      to_bytes(PageCount{static_cast<std::uint64_t>(need)}), terms.promised);
  }
  const unsigned age = std::max(terms.min_age, vm.heat.threshold().periods());
  const auto cautious = static_cast<std::uint8_t>(std::min(age << std::min(vm.stall.level(), 4u), kAges - 1));
  const auto regret = std::chrono::duration_cast<std::chrono::milliseconds>(config.regret_window).count() / 100;
  vm.heat.sweep(cautious, static_cast<std::uint32_t>(std::clamp<std::int64_t>(regret, 1, 1 << 24)), terms.partial);
}

Pressure Engine::measure_pressure(const std::vector<VmState*>& vms, const Moment& now, const PolicyConfig& config) {
  const HostView& view = host_->view;
  const TierChooser tiers(view.tiers, host_->planner.dram_price);
  double cold = 0;
  double above = 0;
  TierMask reachable = 0;  // by those that can give something
  const VmState* farewell = nullptr;
  double farewell_value = 0;
  for (const VmState* vm : vms) {
    if (vm->terms.mode != Mode::kActive || vm->terms.held) continue;
    const Bytes surplus = saturating_sub(saturating_sub(vm->terms.resident, vm->terms.leaving), vm->terms.guarantee);
    const double freed = tiers.freed_per_byte(vm->terms.tiers);
    const auto ripe = static_cast<double>(std::max<std::int64_t>(0, vm->heat.ripe_pages())) * kPageSize;
    cold += std::min(ripe, static_cast<double>(surplus.value)) * freed;
    above += static_cast<double>(surplus.value) * freed;
    reachable |= vm->terms.tiers;
    const double value = static_cast<double>(vm->terms.resident.value) / vm->terms.weight;
    if (value > farewell_value) farewell = vm, farewell_value = value;
  }
  const auto as_bytes = [](double bytes) { return Bytes{static_cast<std::uint64_t>(std::min(bytes, 1e18))}; };
  const bool full = tiers.room(reachable != 0 ? reachable : kAllTiers) < Bytes{kRegionPages * kPageSize};
  const PressureInput input{view.available, view.reserve, view.memory_pressure, as_bytes(cold), as_bytes(above), full};
  Pressure pressure = host_->ladder.measure(input, now.tenths, config);
  if (pressure.level >= PressureLevel::kMigrate && farewell != nullptr) pressure.migrate = farewell->id;
  return pressure;
}

void Engine::begun(VmId id, RegionId region, std::uint32_t pages) {
  if (VmState* vm = find(id)) vm->heat.begin_move(region, pages);
}

void Engine::ended(VmId id, RegionId region, std::uint32_t pages, std::uint32_t spared) {
  VmState* vm = find(id);
  if (vm == nullptr) return;
  vm->heat.end_move(region, pages, spared);
  vm->hold.ended(pages, spared);
}

void Engine::not_taken(const Move& move) {
  if (VmState* vm = find(move.vm)) vm->heat.forget_move(move.region);
}

const VmHeat* Engine::heat_of(VmId id) const {
  const VmState* vm = find(id);
  return vm != nullptr ? &vm->heat : nullptr;
}

Fit Engine::fits(Bytes guaranteed, Bytes oversubscribed) const {
  std::vector<Commitment> held;
  Bytes resident;
  for (const auto& vm : vms_) {
    held.push_back(commitment_of(vm->terms.guarantee, vm->terms.promised, vm->history, host_->window_percentile));
    resident += vm->terms.resident;
  }
  const HostView& view = host_->view;
  const Bytes others = saturating_sub(saturating_sub(view.total, view.available), resident);
  return policy::fits(view.total, view.reserve, others, held, guaranteed, oversubscribed, host_->day_windows,
                      host_->ladder.level());
}

std::string Engine::history_of(VmId id) const {
  const VmState* vm = find(id);
  return vm != nullptr ? vm->history.text() : std::string();
}

bool Engine::give_history(VmId id, std::string_view text) {
  std::optional<Utilisation> history = Utilisation::parse(text);
  if (!history) return false;
  if (VmState* vm = find(id)) {
    vm->history = std::move(*history);
  } else if (waiting_histories_.size() < kWaitingHistories) {
    waiting_histories_.emplace_back(id, std::move(*history));
  }
  return true;
}

Bytes Engine::footprint() const {
  Bytes bytes{sizeof *this + sizeof(Host)};
  for (const auto& vm : vms_) {
    bytes += vm->heat.footprint() + Bytes{sizeof(VmState) - sizeof(VmHeat) + vm->history.footprint().value};
  }
  return bytes;
}

}  // namespace tidepool::policy
