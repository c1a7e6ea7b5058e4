#include "daemon/agent/policy_view.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <thread>

#include "daemon/agent/kernel_tier_view.h"
#include "kmod-interfaces/meminfo.h"
#include "kmod-interfaces/psi.h"
#include "policy/config.h"

namespace tidepool::daemon {
namespace {

constexpr auto kPoolFullHoldOff = std::chrono::seconds(10);
constexpr double kShortAverage = 10.0;  // seconds
constexpr double kLongAverage = 60.0;
constexpr double kCostAverage = 30.0;
constexpr std::uint64_t kFewFaults = 8;  // in a tick: too few to say what one costs

static_assert(kPagesPerRegion == policy::kRegionPages);

double averaged(double old, double now, double passed, double window) {
  return old + (now - old) * (1 - std::exp(-passed / window));
}

std::chrono::seconds local_time_of_day() {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm local{};
  ::localtime_r(&now, &local);
  return std::chrono::hours(local.tm_hour) + std::chrono::minutes(local.tm_min) + std::chrono::seconds(local.tm_sec);
}

}  // namespace

unsigned fault_threads_of(const ManagedVm& vm) {
  if (vm.memory) return vm.fault_threads;
  return std::min(vm.workload->threads(), std::max(1u, std::thread::hardware_concurrency()));
}

policy::VmSizes sizes_of(const ManagedVm& vm) {
  policy::VmSizes sizes{vm.number()};
  if (vm.workload) {
    const WorkloadMemory memory = vm.workload->memory();
    sizes.resident = memory.resident;
    sizes.far = memory.far;
    return sizes;
  }
  const auto bytes = [&](PageState state) { return to_bytes(PageCount{vm.memory->count(state)}); };
  const Bytes stays = bytes(PageState::kResident) + bytes(PageState::kResidentClean);
  // What is in swap is resident to the pager.
  const Bytes swapped = std::min(vm.swapped(), stays);
  sizes.leaving = bytes(PageState::kDemoting) + bytes(PageState::kDropping);
  sizes.resident = stays - swapped + sizes.leaving;
  sizes.far = bytes(PageState::kFar) + bytes(PageState::kFetching) + swapped;
  return sizes;
}

policy::HostView host_view_of(const Context& context) {
  const Config config = context.config();
  policy::HostView host;
  if (const auto memory = kernel::read_meminfo(context.roots)) {
    host.total = memory->total;
    host.available = memory->available;
  }
  host.reserve = config.safety.host_reserve.resolve(host.total);
  host.max_far = config.safety.max_far.resolve(host.total);
  host.require_evacuable = config.safety.require_evacuable;
  host.frozen = context.frozen;
  host.keeper_away = !context.clerk->holding();
  const pool::StoreUsage usage = context.pool->usage();
  policy::TierView pool;
  pool.name = "pool";
  pool.capacity = usage.capacity;
  pool.used = usage.used;
  const Bytes stored = to_bytes(usage.pages);
  if (stored.value > (1u << 20)) pool.ratio = static_cast<double>(usage.used.value) / static_cast<double>(stored.value);
  pool.host_dram = context.pool->uses_host_dram();
  host.tiers.push_back(std::move(pool));
  host.tiers.push_back(kernel_tier_view(context));
  return host;
}

// A pool can be full for the pages that come although some of its bytes are free: it is sized in slabs. Then it counts
// as full for a while, so that the same pages are not frozen, copied and turned away each tick. A store of leased room
// says by itself how much there is.
bool PolicyView::pool_turned_pages_away(const policy::TierView& pool, MonoTime now) {
  std::uint64_t turned_away = 0;
  for (const auto& vm : context_.vms.paged())
    if (!vm->memory->store->leased_room()) turned_away += vm->memory->counters.store_full;
  if (turned_away > pages_turned_away_) {
    turned_away_at_ = now;
    turned_away_capacity_ = pool.capacity;
  }
  pages_turned_away_ = turned_away;
  return turned_away_at_ != MonoTime{} && now - turned_away_at_ < Nanoseconds{kPoolFullHoldOff} &&
         pool.capacity <= turned_away_capacity_;
}

// What a wait for a page of the pool costs, of all VMs: they share its ways.
void PolicyView::price_pool(policy::TierView& pool, MonoTime now) {
  std::uint64_t stall = 0;
  std::uint64_t faults = 0;
  for (const auto& vm : context_.vms.paged()) {
    stall += vm->memory->counters.stall_ns;
    faults += vm->memory->counters.faults_far;
  }
  VmRates& rates = pool_rates_;
  // A VM that left took its sums along.
  const bool grown = faults >= rates.faults + kFewFaults && stall > rates.stall_ns;
  if (rates.at != MonoTime{} && grown) {
    const double cost = static_cast<double>(stall - rates.stall_ns) / 1e9 / static_cast<double>(faults - rates.faults);
    const double passed = std::chrono::duration<double>(now - rates.at).count();
    rates.fault_cost = rates.fault_cost == 0 ? cost : averaged(rates.fault_cost, cost, passed, kCostAverage);
  }
  if (grown || faults < rates.faults || rates.at == MonoTime{})
    rates.at = now, rates.stall_ns = stall, rates.faults = faults;
  if (rates.fault_cost > 0)
    pool.fault_cost = std::chrono::duration_cast<Nanoseconds>(std::chrono::duration<double>(rates.fault_cost));
}

policy::Snapshot PolicyView::snapshot(const SampleBuffer& samples) {
  policy::Snapshot seen;
  seen.now = context_.clock.now();
  seen.time_of_day = local_time_of_day();
  seen.host = host_view_of(context_);
  seen.host.memory_pressure = memory_pressure(seen.now);
  policy::TierView& pool = seen.host.tiers[kPoolTier];
  price_pool(pool, seen.now);
  if (pool_turned_pages_away(pool, seen.now)) pool.usable = false;
  for (auto& [id, vm] : vms_) vm.seen = false;
  double faults = 0;
  double waited = 0;
  for (const auto& vm : context_.vms.all()) {
    if (vm->dead()) continue;
    seen.vms.push_back(view_of(*vm));
    if (vm->workload) continue;
    const std::lock_guard lock(vm->mutex);
    faults += vm->rates.faults_per_second;
    waited += vm->rates.faults_per_second * vm->rates.fault_cost;
  }
  // The pool's cost is what its users measured, weighted by how much they used it.
  if (faults > 1)
    seen.host.tiers[kPoolTier].fault_cost =
        std::chrono::duration_cast<Nanoseconds>(std::chrono::duration<double>(waited / faults));
  std::erase_if(vms_, [](const auto& each) { return !each.second.seen; });
  seen.samples = samples.samples();
  return seen;
}

// The share of the time since the last tick in which something waited for memory. Waiting in a userfaultfd is not
// counted by the kernel, so what the agent itself causes is not in it.
double PolicyView::memory_pressure(MonoTime now) {
  const auto pressure = kernel::read_host_memory_pressure(context_.roots);
  if (!pressure) return 0;
  const auto waited = pressure->some.total - pressure_total_;
  const double passed = std::chrono::duration<double>(now - pressure_at_).count();
  const bool first = pressure_at_ == MonoTime{};
  pressure_total_ = pressure->some.total;
  pressure_at_ = now;
  if (first || passed <= 0) return 0;
  return std::clamp(std::chrono::duration<double>(waited).count() / passed, 0.0, 1.0);
}

void PolicyView::update_rates(ManagedVm& vm, MonoTime now) const {
  std::uint64_t stall = 0;
  std::uint64_t faults = 0;
  if (vm.memory) {
    stall += vm.memory->counters.stall_ns;
    faults += vm.memory->counters.faults_far;
  }
  if (const Workload* by_kernel = vm.by_kernel().get()) {
    stall += by_kernel->counters.stall_ns;
    faults += by_kernel->counters.swap_ins;
  }
  VmRates& rates = vm.rates;
  if (rates.at != MonoTime{}) {
    const double passed = std::chrono::duration<double>(now - rates.at).count();
    if (passed <= 0) return;
    const double waited = static_cast<double>(stall - rates.stall_ns) / 1e9;
    const double share = waited / passed / fault_threads_of(vm);
    const std::uint64_t more = faults - rates.faults;
    rates.stall = averaged(rates.stall, share, passed, kShortAverage);
    rates.stall_minute = averaged(rates.stall_minute, share, passed, kLongAverage);
    rates.faults_per_second = averaged(rates.faults_per_second, static_cast<double>(more) / passed, passed, 2.0);
    if (more >= kFewFaults) {
      const double cost = waited / static_cast<double>(more);
      rates.fault_cost = rates.fault_cost == 0 ? cost : averaged(rates.fault_cost, cost, passed, kCostAverage);
    }
  }
  rates.at = now;
  rates.stall_ns = stall;
  rates.faults = faults;
}

void PolicyView::Object::begin(std::uint64_t regions) {
  news.clear();
  // Never true of a region: the first look reports it.
  if (reported.size() < regions) reported.resize(regions, ~std::uint64_t{0});
}

void PolicyView::Object::report(const policy::RegionNews& region) {
  const std::uint64_t now = region.resident | std::uint64_t{region.far} << 10 |
                            std::uint64_t{region.incompressible} << 20 | std::uint64_t{region.shallow} << 30;
  if (now == reported[region.region]) return;
  reported[region.region] = now;
  news.push_back(region);
}

void PolicyView::find_news(const SwapRegions& regions, Object& object) {
  object.begin(regions.count());
  for (std::uint32_t r = 0; r < regions.count(); ++r)
    object.report({r, regions.at(r).resident, regions.at(r).far(), 0});
}

void PolicyView::find_news(PageMap& map, const SwapRegions* beside, Object& object) {
  const std::uint64_t regions = map.regions();
  object.begin(regions);
  // A page that changes twice at once may be counted out before it is counted in.
  const auto pages = [](const std::atomic<std::uint16_t>& counter) {
    const std::uint16_t count = counter.load(std::memory_order_relaxed);
    return count > kPagesPerRegion ? std::uint16_t{0} : count;
  };
  for (std::uint64_t r = 0; r < regions; ++r) {
    const RegionCounters& counters = map.region(r);
    policy::RegionNews news{static_cast<std::uint32_t>(r), pages(counters.resident), pages(counters.far),
                            pages(counters.incompressible)};
    // Counted one after the other: a page on its way may be in both.
    news.far = std::min(news.far, static_cast<std::uint16_t>(kPagesPerRegion - news.resident));
    // What is in swap is resident to the pager. Of what is on its way between the two, somebody may be behind.
    if (beside != nullptr && r < beside->count()) {
      news.shallow = std::min(news.resident, beside->at(static_cast<std::uint32_t>(r)).far());
      news.resident = static_cast<std::uint16_t>(news.resident - news.shallow);
      news.far = static_cast<std::uint16_t>(news.far + news.shallow);
    }
    object.report(news);
  }
}

policy::VmView PolicyView::view_of(ManagedVm& vm) {
  policy::VmView view;
  view.id = vm.number();
  view.partial = true;
  view.threads = fault_threads_of(vm);
  {
    const std::lock_guard lock(vm.mutex);
    update_rates(vm, context_.clock.now());
    view.mode = vm.policy.mode == Mode::kActive   ? policy::Mode::kActive
                : vm.policy.mode == Mode::kDryRun ? policy::Mode::kDryRun
                                                  : policy::Mode::kObserve;
    view.held = vm.held || vm.evacuating || vm.state == VmState::kReleasing || vm.state == VmState::kIntegrity;
    view.service_class = policy::parse_service_class(vm.policy.service_class).value_or(policy::ServiceClass::kStandard);
    view.guarantee = vm.policy.guarantee;
    view.limit = vm.policy.limit;
    view.stall = vm.rates.stall;
    view.stall_budget = vm.policy.stall_budget;
    view.min_cold_age = vm.policy.min_cold_age;
    view.fault_cost = std::chrono::duration_cast<Nanoseconds>(std::chrono::duration<double>(vm.rates.fault_cost));
  }
  const policy::VmSizes sizes = sizes_of(vm);
  view.resident = sizes.resident;
  view.leaving = sizes.leaving;
  view.far = sizes.far;
  Vm& known = vms_[view.id];
  known.seen = true;
  known.views.clear();
  if (vm.workload) {
    look_at(*vm.workload, known, view);
  } else {
    look_at(vm, known, view);
  }
  view.objects = known.views;
  return view;
}

void PolicyView::look_at(const ManagedVm& vm, Vm& known, policy::VmView& view) const {
  const PagedVm& memory = *vm.memory;
  // Whose addresses do not keep still has nothing dropped; the kernel finds its pages itself.
  const bool to_pool = !memory.keeps_private() || memory.has_shared_memory();
  // Of shared memory the page tables do not show what is in swap.
  const bool to_kernel = vm.beside && context_.config().kernel_tier.beside_pool && !memory.has_shared_memory();
  view.tiers = policy::TierMask{to_pool} << kPoolTier | policy::TierMask{to_kernel} << kKernelTier;
  view.spares = true;
  view.held = view.held || memory.drops_overdue != 0 || view.tiers == 0;
  const auto bytes = [&](PageState state) { return to_bytes(PageCount{memory.count(state)}); };
  view.promised = view.resident + view.far + bytes(PageState::kUntouched) + bytes(PageState::kReleased);
  if (vm.beside) {
    view.shallow_tier = kKernelTier;
    view.shallow = std::min(vm.beside->memory().far, view.far);
  }
  // What is on its way there has no place yet.
  if (const auto room = memory.store->leased_room())
    view.leased = {policy::TierMask{1} << kPoolTier, saturating_sub(*room, bytes(PageState::kDemoting))};
  known.objects.resize(memory.objects.size());
  for (std::size_t i = 0; i < memory.objects.size(); ++i) {
    const bool swaps = vm.beside && vm.beside->first_object() == i;
    if (swaps) {
      vm.beside->for_each([&](const WorkloadProcess& process) {
        find_news(*memory.objects[i]->map, &process.regions, known.objects[i]);
      });
    } else {
      find_news(*memory.objects[i]->map, nullptr, known.objects[i]);
    }
    known.views.push_back({static_cast<std::uint32_t>(i), memory.objects[i]->map->pages(), known.objects[i].news});
  }
}

void PolicyView::look_at(const Workload& workload, Vm& known, policy::VmView& view) {
  view.tiers = policy::TierMask{1} << kKernelTier;
  view.promised = workload.memory().mapped;
  std::size_t count = 0;
  workload.for_each([&](const WorkloadProcess& process) {
    if (known.objects.size() == count) known.objects.emplace_back();
    find_news(process.regions, known.objects[count++]);
  });
  // Only now: the lists of news have found their places.
  std::uint32_t number = 0;
  workload.for_each([&](const WorkloadProcess& process) {
    if (number < count) known.views.push_back({number, process.regions.pages(), known.objects[number].news});
    ++number;
  });
}

}  // namespace tidepool::daemon
