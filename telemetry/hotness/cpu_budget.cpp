#include "telemetry/hotness/cpu_budget.h"

#include <algorithm>

namespace tidepool::telemetry {
namespace {

constexpr Bytes kUnit{100ull << 30};

}  // namespace

double tracker_share(double per_100_gib, Bytes watched) {
  const std::uint64_t begun = std::max<std::uint64_t>(1, (watched.value + kUnit.value - 1) / kUnit.value);
  return per_100_gib * static_cast<double>(begun);
}

CpuBudget::CpuBudget(const Clock& clock, Nanoseconds longest_saving) : clock_(clock), longest_saving_(longest_saving) {}

void CpuBudget::set_share(double of_one_core) {
  available();  // what was earned so far was earned at the old share
  share_ = std::clamp(of_one_core, 0.0, 1.0);
  if (last_ == MonoTime{}) {
    // The first second is given in advance, so that the first round sees something.
    saved_ = share_ * static_cast<double>(Nanoseconds{std::chrono::seconds(1)}.count());
    last_ = clock_.now();
  }
  saved_ = std::min(saved_, static_cast<double>(most().count()));
}

Nanoseconds CpuBudget::available() {
  const MonoTime now = clock_.now();
  // A clock that goes back earns nothing, nor does it earn the same time twice.
  if (last_ != MonoTime{} && now > last_) {
    saved_ += share_ * static_cast<double>((now - last_).count());
    saved_ = std::min(saved_, static_cast<double>(most().count()));
    last_ = now;
  }
  return Nanoseconds{static_cast<std::int64_t>(std::max(saved_, 0.0))};
}

Nanoseconds CpuBudget::most() const {
  return Nanoseconds{static_cast<std::int64_t>(share_ * static_cast<double>(longest_saving_.count()))};
}

void CpuBudget::spend(Nanoseconds cost) {
  const Nanoseconds real = std::max(cost, Nanoseconds{0});
  spent_ += real;
  saved_ -= static_cast<double>(real.count());
}

}  // namespace tidepool::telemetry
