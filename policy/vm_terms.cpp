#include "policy/vm_terms.h"

#include <algorithm>
#include <cmath>

#include "policy/region_heat.h"

namespace tidepool::policy {
namespace {

constexpr Bytes kMostMemory{1ull << 52};  // of a host, in 2026
constexpr unsigned kMostThreads = 65536;

// `otherwise` for what is not a number or outside.
double within(double value, double low, double high, double otherwise, IntakeCounts& counts) {
  if (value >= low && value <= high) return value;
  ++counts.values_absurd;
  return otherwise;
}

Bytes at_most(Bytes value, Bytes most, IntakeCounts& counts) {
  if (value <= most) return value;
  ++counts.values_absurd;
  return most;
}

}  // namespace

VmTerms terms_of(const VmView& vm, const PolicyConfig& config, double tier_fault_cost, IntakeCounts& counts) {
  const auto index = static_cast<unsigned>(vm.service_class);
  if (index >= kServiceClasses) ++counts.values_absurd;
  const ClassSettings& settings = config.classes[index < kServiceClasses ? index : 1];
  VmTerms terms;
  terms.mode = vm.mode;
  terms.held = vm.held;
  terms.partial = vm.partial;
  terms.spares = vm.spares;
  terms.tiers = vm.tiers;
  terms.leased = vm.leased;
  terms.threads = std::clamp(vm.threads, 1u, kMostThreads);
  // A stall that is not a number is one that nobody measured: for safety it counts as all the time.
  terms.stall = within(vm.stall, 0, 1e6, 1, counts);
  terms.budget = within(vm.stall_budget.value_or(settings.stall_budget), 0, 1, settings.stall_budget, counts);
  terms.weight = within(vm.weight.value_or(settings.weight), 1e-3, 1e3, settings.weight, counts);
  const double measured = std::chrono::duration<double>(vm.fault_cost).count();
  terms.fault_cost = measured == 0 ? tier_fault_cost : within(measured, 1e-7, 10, tier_fault_cost, counts);
  terms.faults_allowed = terms.budget * terms.threads / terms.fault_cost;
  const auto age = vm.min_cold_age.value_or(settings.min_cold_age);
  const auto period = std::max<Nanoseconds>(config.heat.scan_period, std::chrono::milliseconds(100));
  terms.min_age =
      static_cast<std::uint8_t>(std::clamp<std::int64_t>((age + period - Nanoseconds{1}) / period, 1, kAges - 1));
  terms.promised = at_most(vm.promised, kMostMemory, counts);
  take_sizes({vm.id, vm.resident, vm.leaving, vm.far}, terms, counts);
  terms.shallow_tier = vm.shallow_tier;
  terms.guarantee = vm.guarantee;
  terms.limit = vm.limit;
  return terms;
}

void take_sizes(const VmSizes& sizes, VmTerms& terms, IntakeCounts& counts) {
  terms.resident = at_most(sizes.resident, kMostMemory, counts);
  terms.leaving = at_most(sizes.leaving, terms.resident, counts);
  terms.far = at_most(sizes.far, kMostMemory, counts);
}

HostView sane_host(const HostView& host, IntakeCounts& counts) {
  HostView sane = host;
  sane.total = at_most(host.total, kMostMemory, counts);
  sane.available = at_most(host.available, sane.total, counts);
  sane.reserve = at_most(host.reserve, sane.total, counts);
  sane.memory_pressure = within(host.memory_pressure, 0, 1, 0, counts);
  for (TierView& tier : sane.tiers) {
    tier.ratio = within(tier.ratio, 0, 16, 1, counts);
    if (tier.fault_cost <= Nanoseconds{0}) tier.fault_cost = TierView{}.fault_cost;
  }
  return sane;
}

}  // namespace tidepool::policy
