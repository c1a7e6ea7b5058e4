#include "policy/admission.h"

#include <algorithm>

#include "base/quantity_text.h"

namespace tidepool::policy {
namespace {

Bytes saturating_add(Bytes a, Bytes b) {
  return a.value > ~0ull - b.value ? Bytes{~0ull} : a + b;
}

}  // namespace

Evacuation evacuation(const HostView& host, Bytes far, Bytes bandwidth_per_second) {
  Evacuation result;
  result.far = far;
  result.spare = saturating_sub(host.available, host.reserve);
  for (const TierView& tier : host.tiers) {
    if (tier.host_dram) result.spare = saturating_add(result.spare, saturating_sub(tier.used, tier.foreign));
  }
  result.shortfall = saturating_sub(far, result.spare);
  if (bandwidth_per_second != Bytes{}) {
    const double time = static_cast<double>(far.value) / static_cast<double>(bandwidth_per_second.value);
    result.estimate = std::chrono::duration_cast<Nanoseconds>(std::chrono::duration<double>(std::min(time, 1e8)));
  }
  return result;
}

Commitment commitment_of(Bytes guarantee, Bytes promised, const Utilisation& history, double quantile) {
  Commitment result;
  result.guaranteed = std::min(guarantee, promised);
  const bool known = history.known();
  for (unsigned window = 0; known && window < history.windows(); ++window) {
    result.guaranteed = std::max(result.guaranteed, history.percentile(window, quantile, promised));
  }
  for (unsigned window = 0; window < history.windows(); ++window) {
    const Bytes most = known ? history.highest(window, promised) : promised;
    result.oversubscribed.push_back(saturating_sub(most, result.guaranteed));
  }
  return result;
}

Fit fits(Bytes total, Bytes reserve, Bytes others, std::span<const Commitment> held, Bytes guaranteed,
         Bytes oversubscribed, unsigned windows, PressureLevel pressure) {
  Fit fit;
  fit.capacity = saturating_sub(saturating_sub(total, reserve), others);
  fit.guaranteed = guaranteed;
  for (const Commitment& vm : held) fit.guaranteed = saturating_add(fit.guaranteed, vm.guaranteed);
  for (unsigned window = 0; window < std::clamp(windows, 1u, kMaxDayWindows); ++window) {
    Bytes sum = oversubscribed;
    for (const Commitment& vm : held) {
      if (window < vm.oversubscribed.size()) sum = saturating_add(sum, vm.oversubscribed[window]);
    }
    if (window == 0 || sum > fit.oversubscribed) {
      fit.oversubscribed = sum;
      fit.window = window;
    }
  }
  const Bytes need = saturating_add(fit.guaranteed, fit.oversubscribed);
  fit.shortfall = saturating_sub(need, fit.capacity);
  fit.spare = saturating_sub(fit.capacity, need);
  const bool refused = pressure == PressureLevel::kRefuseVms;
  fit.fits = fit.shortfall == Bytes{} && !refused;
  fit.arithmetic =
      "guaranteed " + short_text(fit.guaranteed) + " (" + std::to_string(held.size()) + " VMs and " +
      short_text(guaranteed) + ") + oversubscribed " + short_text(fit.oversubscribed) + " (window " +
      std::to_string(fit.window) + ", " + short_text(oversubscribed) + " of it new) = " + short_text(need) +
      "; capacity " + short_text(fit.capacity) + " (total " + short_text(total) + " - reserve " + short_text(reserve) +
      " - others " + short_text(others) +
      "): " + (fit.shortfall == Bytes{} ? short_text(fit.spare) + " to spare" : short_text(fit.shortfall) + " short") +
      (refused ? "; refused, since the host is under pressure" : "");
  return fit;
}

}  // namespace tidepool::policy
