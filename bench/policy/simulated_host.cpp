#include "bench/policy/simulated_host.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "policy/page_age.h"

namespace tidepool::simulator {
namespace {

using policy::kRegionPages;

enum class PageState : std::uint8_t { kResident, kDemoting, kFar };

struct Page {
  PageState state = PageState::kResident;
  bool armed = false;
  bool touched = false;  // while armed
  bool shallow = false;  // far, in the shallow tier
  policy::PageAge age;
};

struct Armed {
  std::uint64_t page;
  unsigned since;  // tick
};

struct Job {
  std::uint32_t region;
  policy::UnitMask units;
  bool spares;
  unsigned due = 0;  // tick in which its pages are dropped; 0: not begun
};

constexpr double kStallAverage = 10;  // seconds, as the agent's

MonoTime time_at(double seconds) {
  return MonoTime{std::chrono::duration_cast<Nanoseconds>(std::chrono::duration<double>(seconds + 1000))};
}

}  // namespace

struct SimulatedHost::Vm {
  VmId id;
  VmSpec spec;
  load::Random random;
  std::vector<Page> pages;
  std::vector<policy::RegionNews> regions;   // as of now
  std::vector<policy::RegionNews> reported;  // what changed
  std::vector<bool> changed;
  std::vector<std::uint32_t> refaults;
  std::vector<std::pair<std::uint32_t, std::uint32_t>> armed_of;  // by region: watched in this tick, used
  std::vector<Armed> armed;
  std::vector<std::uint32_t> armed_in;  // by region
  std::uint64_t cursor = 0;
  std::deque<Job> jobs;
  unsigned jobs_begun = 0;
  std::uint64_t resident = 0;
  std::uint64_t shallow = 0;
  double stall = 0;
  double fault_cost = 0;  // mean of late
  Nanoseconds hold{0};
  policy::ObjectView object;
  std::vector<VmTick> history;
  VmTick now;

  Vm(VmId vm, VmSpec s, std::uint64_t seed) : id(vm), spec(std::move(s)), random(seed) {
    const auto count = static_cast<std::uint32_t>((spec.pages + kRegionPages - 1) / kRegionPages);
    pages.resize(spec.pages);
    regions.resize(count);
    changed.assign(count, true);
    refaults.assign(count, 0);
    armed_in.assign(count, 0);
    for (std::uint32_t r = 0; r < count; ++r) {
      regions[r].region = r;
      regions[r].resident = static_cast<std::uint16_t>(
          std::min<std::uint64_t>(kRegionPages, spec.pages - r * std::uint64_t{kRegionPages}));
    }
    resident = spec.pages;
  }

  void to_far(std::uint64_t page, MonoTime at) {
    pages[page] = {PageState::kFar, false, false, false, policy::PageAge::at(at, pages[page].age.interval())};
    auto& region = regions[page / kRegionPages];
    --region.resident;
    ++region.far;
    --resident;
    changed[page / kRegionPages] = true;
  }
  void set_shallow(std::uint64_t page, bool is) {
    if (pages[page].shallow == is) return;
    pages[page].shallow = is;
    auto& region = regions[page / kRegionPages];
    region.shallow = static_cast<std::uint16_t>(region.shallow + (is ? 1 : -1));
    shallow += is ? 1 : -1;
    changed[page / kRegionPages] = true;
  }
  void to_resident(std::uint64_t page, policy::PageAge age) {
    set_shallow(page, false);
    pages[page].state = PageState::kResident;
    pages[page].age = age;
    auto& region = regions[page / kRegionPages];
    ++region.resident;
    --region.far;
    ++resident;
    changed[page / kRegionPages] = true;
  }
  // Calls with every page of the units of a region.
  template <class Callback>
  void each(std::uint32_t region, policy::UnitMask units, Callback&& callback) {
    for (; units != 0; units &= units - 1) {
      const std::uint64_t first = region * std::uint64_t{kRegionPages} +
                                  static_cast<std::uint64_t>(std::countr_zero(units)) * policy::kUnitPages;
      for (std::uint64_t page = first; page < std::min<std::uint64_t>(first + policy::kUnitPages, pages.size()); ++page)
        callback(page);
    }
  }
};

SimulatedHost::SimulatedHost(HostSpec spec, policy::PolicyConfig config)
    : spec_(std::move(spec)), config_(config), random_(spec_.seed) {}
SimulatedHost::~SimulatedHost() = default;

VmId SimulatedHost::add(VmSpec spec) {
  const VmId id{next_id_++};
  vms_.push_back(std::make_unique<Vm>(id, std::move(spec), random_.next()));
  return id;
}

void SimulatedHost::remove(VmId id) {
  std::erase_if(vms_, [&](const auto& vm) { return vm->id == id; });
}

SimulatedHost::Vm& SimulatedHost::vm_of(VmId id) const {
  return **std::find_if(vms_.begin(), vms_.end(), [&](const auto& vm) { return vm->id == id; });
}

const VmTick& SimulatedHost::last(VmId vm) const {
  return vm_of(vm).history.back();
}

const std::vector<VmTick>& SimulatedHost::history(VmId vm) const {
  return vm_of(vm).history;
}

VmSpec& SimulatedHost::spec(VmId vm) {
  return vm_of(vm).spec;
}

VmTick SimulatedHost::sum(VmId id, std::size_t from) const {
  VmTick sum;
  const auto& history = vm_of(id).history;
  for (std::size_t i = from; i < history.size(); ++i) {
    sum.accesses += history[i].accesses;
    sum.faults += history[i].faults;
    sum.demoted += history[i].demoted;
    sum.restored += history[i].restored;
    sum.resident = history[i].resident;
    sum.shallow = history[i].shallow;
    sum.deeper += history[i].deeper;
    sum.stall += history[i].stall / static_cast<double>(history.size() - from);
  }
  return sum;
}

Bytes SimulatedHost::available() const {
  Bytes used = spec_.others;
  for (const auto& vm : vms_) {
    const std::uint64_t far = vm->pages.size() - vm->resident - vm->shallow;
    const double ratio = spec_.tiers.empty() || !spec_.tiers[0].host_dram ? 0 : spec_.tiers[0].ratio;
    used += to_bytes(PageCount{vm->resident}) +
            Bytes{static_cast<std::uint64_t>(ratio * static_cast<double>(far * kPageSize) +
                                             shallow_ratio() * static_cast<double>(vm->shallow * kPageSize))};
  }
  return saturating_sub(spec_.total, used);
}

void SimulatedHost::banish(VmId id, std::uint64_t first, std::uint64_t count) {
  Vm& vm = vm_of(id);
  for (std::uint64_t page = first; page < first + count; ++page) {
    if (vm.pages[page].state != PageState::kFar) vm.to_far(page, time_at(seconds_));
  }
}

void SimulatedHost::run_accesses(Vm& vm) {
  // Every thread has a second: what is not spent waiting is spent working.
  double left = vm.spec.threads;
  double waited = 0;
  while (left > 0) {
    const double at = seconds_ + 1 - left / vm.spec.threads;
    const std::uint64_t page = vm.spec.next(at, vm.random);
    left -= vm.spec.operation;
    ++vm.now.accesses;
    Page& state = vm.pages[page];
    const bool write = vm.random.real() < vm.spec.write_share;
    if (state.armed && (write || !vm.spec.writes_only)) state.touched = true;
    if (state.state == PageState::kResident) continue;
    if (state.state == PageState::kDemoting) {
      if (write) state.state = PageState::kResident;  // cancels
      continue;
    }
    const double cost = state.shallow ? std::chrono::duration<double>(spec_.tiers[*spec_.shallow].fault_cost).count()
                                      : spec_.fault_cost;
    vm.to_resident(page, state.age.returned(time_at(at)));
    ++vm.refaults[page / kRegionPages];
    ++vm.now.faults;
    left -= cost;
    waited += cost;
  }
  if (vm.now.faults > 8) vm.fault_cost = waited / static_cast<double>(vm.now.faults);
  vm.now.stall = waited / vm.spec.threads;
  vm.stall += (vm.now.stall - vm.stall) * (1 - std::exp(-1 / kStallAverage));
}

void SimulatedHost::finish_moves() {
  const auto tick = static_cast<unsigned>(seconds_);
  for (const auto& vm : vms_) {
    while (!vm->jobs.empty() && vm->jobs.front().due != 0 && vm->jobs.front().due <= tick) {
      const Job job = vm->jobs.front();
      vm->jobs.pop_front();
      --vm->jobs_begun;
      std::uint32_t left = 0;
      vm->each(job.region, job.units, [&](std::uint64_t page) {
        if (vm->pages[page].state != PageState::kDemoting) return;
        vm->to_far(page, time_at(seconds_));
        ++left;
      });
      vm->now.demoted += left;
      engine_.ended(vm->id, {0, job.region}, left, vm->regions[job.region].resident);
    }
  }
}

void SimulatedHost::begin_moves() {
  const auto tick = static_cast<unsigned>(seconds_);
  unsigned under_way = 0;
  for (const auto& vm : vms_) under_way += vm->jobs_begun;
  for (const auto& vm : vms_) {
    while (vm->jobs_begun < std::min<std::size_t>(vm->jobs.size(), spec_.moves_per_vm) &&
           under_way < spec_.moves_at_once) {
      Job& job = vm->jobs[vm->jobs_begun++];
      ++under_way;
      job.due = tick + spec_.grace;
      policy::AgeSpread spread;
      vm->each(job.region, policy::kAllUnits, [&](std::uint64_t page) {
        const Page& state = vm->pages[page];
        spread.add(state.age.likely_interval(time_at(seconds_), state.state == PageState::kFar));
      });
      std::uint32_t frozen = 0;
      vm->each(job.region, job.units, [&](std::uint64_t page) {
        Page& state = vm->pages[page];
        if (state.state != PageState::kResident) return;
        if (job.spares && spread.stands_out(state.age.interval()) && state.age.spared(time_at(seconds_), vm->hold))
          return;
        state.state = PageState::kDemoting;
        ++frozen;
      });
      engine_.begun(vm->id, {0, job.region}, frozen);
    }
  }
}

void SimulatedHost::move_shallow(Vm& vm, const policy::Move& move) {
  std::uint32_t left = 0;
  vm.each(move.region.region, move.units, [&](std::uint64_t page) {
    if (vm.pages[page].state != PageState::kResident) return;
    vm.to_far(page, time_at(seconds_));
    vm.set_shallow(page, true);
    ++left;
  });
  vm.now.demoted += left;
  engine_.begun(vm.id, move.region, left);
  engine_.ended(vm.id, move.region, left, 0);
}

void SimulatedHost::move_deeper(Vm& vm, const policy::Move& move) {
  vm.each(move.region.region, move.units, [&](std::uint64_t page) {
    vm.now.deeper += vm.pages[page].shallow ? 1 : 0;
    vm.set_shallow(page, false);
  });
}

// What the tracker saw in this tick, and what it will watch in the next.
void SimulatedHost::sample(Vm& vm, std::vector<policy::AccessSample>& samples) {
  const auto tick = static_cast<unsigned>(seconds_);
  policy::AccessSample sample;
  sample.object = {vm.id, 0};
  sample.until = MonoTime{std::chrono::seconds(tick + 1000)};
  sample.since = sample.until - std::chrono::seconds(1);
  sample.window = std::chrono::seconds(1);
  sample.far = true;
  for (std::uint32_t r = 0; r < vm.refaults.size(); ++r) {
    if (vm.refaults[r] == 0) continue;
    sample.pages = {PageIndex{r * std::uint64_t{kRegionPages}}, kRegionPages};
    sample.used = std::min(vm.refaults[r], kRegionPages);
    sample.watched = std::max<std::uint32_t>(sample.used, vm.regions[r].far + sample.used);
    samples.push_back(sample);
    vm.refaults[r] = 0;
  }
  sample.far = false;
  sample.sees = vm.spec.writes_only ? policy::Sees::kWrites : policy::Sees::kReadsAndWrites;
  std::vector<std::pair<std::uint32_t, std::uint32_t>> seen(vm.regions.size());
  std::erase_if(vm.armed, [&](const Armed& each) {
    Page& page = vm.pages[each.page];
    const auto region = static_cast<std::uint32_t>(each.page / kRegionPages);
    const bool gone = !page.armed;
    const bool touched = page.touched;
    const bool expired = spec_.watch_ticks != 0 && tick - each.since >= spec_.watch_ticks;
    if (!gone) {
      ++seen[region].first;
      seen[region].second += touched ? 1 : 0;
      if (spec_.fine_samples) {
        sample.pages = {PageIndex{each.page}, 1};
        sample.watched = 1;
        sample.used = touched ? 1 : 0;
        samples.push_back(sample);
      }
    }
    if (!gone && !touched && !expired) return false;
    page.armed = page.touched = false;
    --vm.armed_in[region];
    return true;
  });
  for (std::uint32_t r = 0; r < seen.size() && !spec_.fine_samples; ++r) {
    if (seen[r].first == 0) continue;
    sample.pages = {PageIndex{r * std::uint64_t{kRegionPages}}, kRegionPages};
    sample.watched = seen[r].first;
    sample.used = seen[r].second;
    samples.push_back(sample);
  }
  std::uint64_t all = 0;
  for (const auto& each : vms_) all += each->regions.size();
  auto budget = spec_.samples_per_second * vm.regions.size() / std::max<std::uint64_t>(1, all);
  for (std::size_t n = 0; n < vm.regions.size() && budget >= spec_.samples_per_region; ++n) {
    const auto r = static_cast<std::uint32_t>(vm.cursor++ % vm.regions.size());
    if (vm.regions[r].resident == 0 || vm.armed_in[r] >= spec_.samples_per_region) continue;
    for (unsigned k = 0; k < spec_.samples_per_region; ++k) {
      const std::uint64_t page = r * std::uint64_t{kRegionPages} + vm.random.below(kRegionPages);
      --budget;
      if (page >= vm.pages.size() || vm.pages[page].state != PageState::kResident || vm.pages[page].armed) continue;
      vm.pages[page].armed = true;
      vm.armed.push_back({page, tick});
      ++vm.armed_in[r];
    }
  }
}

void SimulatedHost::observe(Vm& vm) {
  vm.reported.clear();
  for (std::uint32_t r = 0; r < vm.regions.size(); ++r) {
    if (vm.changed[r]) vm.reported.push_back(vm.regions[r]);
    vm.changed[r] = false;
  }
  vm.object = {0, PageCount{vm.pages.size()}, vm.reported};
}

void SimulatedHost::tick() {
  for (const auto& vm : vms_) {
    vm->now = {};
    run_accesses(*vm);
  }
  finish_moves();
  policy::Snapshot snapshot;
  std::vector<policy::AccessSample> samples;
  snapshot.now = MonoTime{std::chrono::seconds(static_cast<std::int64_t>(seconds_) + 1000)};
  snapshot.time_of_day = std::chrono::seconds(static_cast<std::int64_t>(seconds_));
  snapshot.host.total = spec_.total;
  snapshot.host.available = available();
  snapshot.host.reserve = spec_.reserve;
  snapshot.host.max_far = spec_.max_far;
  snapshot.host.tiers = spec_.tiers;
  Bytes far;
  Bytes shallow;
  for (const auto& vm : vms_) {
    sample(*vm, samples);
    observe(*vm);
    policy::VmView view;
    view.id = vm->id;
    view.mode = vm->spec.mode;
    view.partial = vm->spec.partial;
    view.spares = vm->spec.spares;
    view.service_class = vm->spec.service_class;
    view.promised = to_bytes(PageCount{vm->pages.size()});
    view.resident = to_bytes(PageCount{vm->resident});
    view.far = view.promised - view.resident;
    view.guarantee = vm->spec.guarantee;
    view.limit = vm->spec.limit;
    view.stall = vm->stall;
    view.stall_budget = vm->spec.stall_budget;
    view.min_cold_age = vm->spec.min_cold_age;
    view.threads = vm->spec.threads;
    const double cost = vm->fault_cost > 0 && spec_.shallow ? vm->fault_cost : spec_.fault_cost;
    view.fault_cost = std::chrono::duration_cast<Nanoseconds>(std::chrono::duration<double>(cost));
    view.tiers = vm->spec.tiers;
    view.shallow_tier = spec_.shallow;
    view.shallow = to_bytes(PageCount{vm->shallow});
    shallow += view.shallow;
    view.objects = std::span(&vm->object, 1);
    far += view.far;
    snapshot.vms.push_back(view);
  }
  if (!snapshot.host.tiers.empty())
    snapshot.host.tiers[0].used = Bytes{static_cast<std::uint64_t>(
        static_cast<double>(saturating_sub(far, shallow).value) * snapshot.host.tiers[0].ratio)};
  if (spec_.shallow)
    snapshot.host.tiers[*spec_.shallow].used =
        Bytes{static_cast<std::uint64_t>(static_cast<double>(shallow.value) * shallow_ratio())};
  snapshot.samples = samples;
  plan_ = engine_.tick(snapshot, config_);
  for (const policy::Move& move : plan_.demotions) {
    Vm& vm = vm_of(move.vm);
    if (move.reason == policy::Reason::kDeeper) {
      move_deeper(vm, move);
    } else if (spec_.shallow == move.tier) {
      move_shallow(vm, move);
    } else {
      vm.jobs.push_back({move.region.region, move.units, move.spares});
    }
  }
  for (const policy::Hold& hold : plan_.holds)
    vm_of(hold.vm).hold = std::chrono::duration_cast<Nanoseconds>(std::chrono::duration<float>(hold.seconds));
  begin_moves();
  for (const policy::Move& move : plan_.restores) {
    Vm& vm = vm_of(move.vm);
    vm.each(move.region.region, policy::kAllUnits, [&](std::uint64_t page) {
      if (vm.pages[page].state != PageState::kFar) return;
      vm.to_resident(page, policy::PageAge::at(time_at(seconds_), vm.pages[page].age.interval()));
      ++vm.now.restored;
    });
  }
  for (const auto& vm : vms_) {
    vm->now.resident = vm->resident;
    vm->now.shallow = vm->shallow;
    vm->history.push_back(vm->now);
  }
  seconds_ += 1;
}

}  // namespace tidepool::simulator
