#include "daemon/agent/vm_views.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "policy/exposure.h"
#include "policy/snapshot.h"

namespace tidepool::daemon {
namespace {

// Two hours, a day, a week.
constexpr std::array kResolutions{Resolution{std::chrono::minutes(1), 120}, Resolution{std::chrono::minutes(15), 96},
                                  Resolution{std::chrono::hours(1), 169}};
constexpr auto kSizePeriod = std::chrono::seconds(15);
constexpr unsigned kCurvePoints = 33;
constexpr std::array kSlowdowns{0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1};
constexpr Nanoseconds kUsualFaultCost = std::chrono::microseconds(20);

Bytes bytes_of(double pages) {
  return to_bytes(PageCount{static_cast<std::uint64_t>(std::llround(std::max(0.0, pages)))});
}

std::uint32_t pages_of(double pages) {
  return static_cast<std::uint32_t>(std::clamp(std::round(pages), 0.0, 4294967295.0));
}

// The series count on the monotonic clock, people on the wall's.
class WallClock {
 public:
  explicit WallClock(MonoTime now) : now_(now) {}
  WallTime at(MonoTime time) const { return wall_ - std::chrono::duration_cast<WallTime::duration>(now_ - time); }

 private:
  MonoTime now_;
  WallTime wall_ = std::chrono::system_clock::now();
};

// Where a region's memory is mapped in the VM's first process that shows it.
std::optional<std::uint64_t> address_of(const PagedVm& memory, std::uint32_t object, std::uint64_t region) {
  if (object >= memory.objects.size()) return std::nullopt;
  for (const auto& space : memory.spaces()) {
    const auto table = space->segments();
    const PageIndex page{region * kPagesPerRegion};
    if (const Segment* segment = table->showing(*memory.objects[object], page)) return segment->address_of(page);
  }
  return std::nullopt;
}

}  // namespace

VmViews::WorkingSetSum& VmViews::WorkingSetSum::operator+=(const WorkingSetSum& more) {
  minute += more.minute;
  ten_minutes += more.ten_minutes;
  resident += more.resident;
  far += more.far;
  return *this;
}

VmViews::WorkingSetColumn VmViews::WorkingSetSum::column(unsigned count) const {
  const double n = std::max(count, 1u);
  return {pages_of(minute / n), pages_of(ten_minutes / n), pages_of(resident / n), pages_of(far / n)};
}

VmViews::History::History() : sizes(kResolutions) {}

void VmViews::feed(const ManagedVm& vm, const policy::VmHeat& heat, MonoTime now) {
  const PagedVm& memory = *vm.memory;
  const std::lock_guard lock(mutex_);
  History& history = histories_[memory.id];
  std::vector<std::uint64_t> regions;
  for (const auto& object : memory.objects) regions.push_back(object->map->regions());
  history.heat.set_layout(regions);
  history.heat.sweep(now, [&](std::uint32_t object, std::uint64_t region) {
    const RegionCounters& counters = memory.objects[object]->map->region(region);
    const auto pages = [](const std::atomic<std::uint16_t>& counter) -> std::uint32_t {
      const std::uint16_t count = counter.load(std::memory_order_relaxed);
      return count > kPagesPerRegion ? 0 : count;  // counted out before it is counted in
    };
    const std::uint32_t resident = pages(counters.resident);
    const std::uint32_t swapped =
        vm.beside ? std::min(resident, vm.beside->far_at({object, static_cast<std::uint32_t>(region)})) : 0;
    return HeatHistory::Look{heat.rate_at(object, static_cast<std::uint32_t>(region)), resident - swapped,
                             pages(counters.far) + swapped};
  });
  if (now < history.next_size) return;
  history.next_size = now + kSizePeriod;
  const policy::MissCurve curve = heat.miss_curve();
  history.sizes.add({curve.working_set(60), curve.working_set(600), static_cast<double>(heat.resident_pages()),
                     static_cast<double>(heat.far_pages())},
                    now);
}

void VmViews::forget_gone() {
  std::vector<VmId> known;
  for (const auto& vm : context_.vms.all()) known.push_back(vm->number());
  const std::lock_guard lock(mutex_);
  std::erase_if(histories_, [&](const auto& each) { return std::ranges::find(known, each.first) == known.end(); });
}

Heatmap VmViews::heatmap(const ManagedVm& vm, Nanoseconds last) const {
  Heatmap map;
  map.vm = vm.name;
  const MonoTime now = context_.clock.now();
  const WallClock clock(now);
  map.from = clock.at(now - last);
  map.until = clock.at(now);
  std::vector<HeatHistory::Bucket> buckets;
  {
    const std::lock_guard lock(mutex_);
    const auto history = histories_.find(vm.number());
    if (history == histories_.end()) return map;
    const HeatHistory& heat = history->second.heat;
    buckets = heat.buckets();
    map.period = std::chrono::duration_cast<std::chrono::milliseconds>(heat.period_for(last));
    for (const auto& each : heat.last(last, now)) {
      Heatmap::Column column;
      column.start = clock.at(each.start);
      for (std::size_t b = 0; b < buckets.size(); ++b) {
        std::optional<Heatmap::Cell> cell;
        if (each.column.temperature[b] != 0)
          cell = Heatmap::Cell{policy::rate_of(each.column.temperature[b]), each.column.far[b] / 255.0};
        column.cells.push_back(cell);
      }
      map.columns.push_back(std::move(column));
    }
  }
  for (const HeatHistory::Bucket& bucket : buckets) {
    Heatmap::Stretch stretch;
    stretch.object = bucket.object;
    stretch.objects = bucket.objects;
    stretch.offset = to_bytes(PageCount{bucket.first * kPagesPerRegion});
    std::uint64_t pages = bucket.regions * kPagesPerRegion;
    if (bucket.objects == 1 && bucket.object < vm.memory->objects.size()) {
      const std::uint64_t all = vm.memory->objects[bucket.object]->map->pages().value;
      pages = std::min(pages, all - std::min(all, bucket.first * kPagesPerRegion));
    }
    stretch.size = to_bytes(PageCount{pages});
    if (bucket.objects == 1) stretch.address = address_of(*vm.memory, bucket.object, bucket.first);
    map.stretches.push_back(stretch);
  }
  return map;
}

WorkingSet VmViews::working_set(const ManagedVm& vm, Nanoseconds last) const {
  WorkingSet set;
  set.vm = vm.name;
  const MonoTime now = context_.clock.now();
  const WallClock clock(now);
  const std::lock_guard lock(mutex_);
  const auto history = histories_.find(vm.number());
  if (history == histories_.end()) return set;
  const auto& sizes = history->second.sizes;
  set.period = std::chrono::duration_cast<std::chrono::milliseconds>(sizes.period_for(last));
  for (const auto& each : sizes.last(last, now)) {
    const WorkingSetColumn& column = each.column;
    const auto bytes = [](std::uint32_t pages) { return to_bytes(PageCount{pages}); };
    set.samples.push_back({clock.at(each.start), bytes(column.minute), bytes(column.ten_minutes),
                           bytes(column.resident), bytes(column.far)});
  }
  return set;
}

Bytes VmViews::footprint() const {
  const std::lock_guard lock(mutex_);
  std::size_t bytes = 0;
  for (const auto& [id, history] : histories_)
    bytes += sizeof history + history.heat.footprint() + history.sizes.footprint();
  return Bytes{bytes};
}

WorkingSet working_set_now(const policy::MissCurve& curve, const MemoryNow& now) {
  WorkingSet set;
  set.resident = now.resident;
  set.far = now.far;
  set.minute = bytes_of(curve.working_set(60));
  set.ten_minutes = bytes_of(curve.working_set(600));
  set.uses = curve.uses_per_second();
  set.fault_cost_measured = now.fault_cost > Nanoseconds{0};
  set.fault_cost = set.fault_cost_measured ? now.fault_cost : kUsualFaultCost;
  set.threads = std::max(now.threads, 1u);
  set.stall_budget = now.stall_budget;
  for (unsigned i = 0; i < kCurvePoints; ++i) {
    const double local = curve.pages() * i / (kCurvePoints - 1);
    set.curve.push_back({bytes_of(local), curve.faults_at_best(local), curve.faults_of_lru(local)});
  }
  const double cost = std::chrono::duration<double>(set.fault_cost).count();
  for (const double slowdown : kSlowdowns) {
    WorkingSet::Offer offer;
    offer.slowdown = slowdown;
    offer.faults = slowdown * set.threads / cost;
    offer.local = bytes_of(curve.least_local(offer.faults));
    offer.gives = saturating_sub(now.resident, offer.local);
    set.offers.push_back(offer);
  }
  return set;
}

}  // namespace tidepool::daemon
