#include "policy/region_history.h"

#include <algorithm>

namespace tidepool::policy {
namespace {

constexpr float kNewWeight = 0.25f;
// A touched sample says more than an untouched one: memory in use is touched somewhere, not everywhere.
constexpr std::uint32_t kBackoffDecay = 600;  // seconds without regret after which one doubling is forgiven

void forget_old_regrets(RegretCount& regrets, std::uint32_t now, std::uint32_t window) {
  const std::uint32_t half = std::max<std::uint32_t>(1, window / 2);
  if (now - regrets.half_started < half) return;
  regrets.moved[1] = now - regrets.half_started < 2 * half ? regrets.moved[0] : 0;
  regrets.regretted[1] = now - regrets.half_started < 2 * half ? regrets.regretted[0] : 0;
  regrets.moved[0] = regrets.regretted[0] = 0;
  regrets.half_started = now;
}

}  // namespace

void observe(const VmView& vm, std::uint32_t now, const PolicyConfig& config, VmHistory& history) {
  const auto window =
      static_cast<std::uint32_t>(std::chrono::duration_cast<std::chrono::seconds>(config.regret_window).count());
  forget_old_regrets(history.regrets, now, window);
  if (history.objects.size() < vm.objects.size()) history.objects.resize(vm.objects.size());
  for (std::size_t i = 0; i < vm.objects.size(); ++i) {
    const auto& seen = vm.objects[i].regions;
    auto& known = history.objects[i];
    // Memory that is new to us counts as touched now: it has to prove that it is cold.
    if (known.size() < seen.size()) known.resize(seen.size(), RegionHistory{0, now, 0, 0, 0, 0});
    for (std::size_t r = 0; r < seen.size(); ++r) {
      const RegionObservation& region = seen[r];
      RegionHistory& memory = known[r];
      if (region.armed > 0) {
        const float share = std::min(1.0f, static_cast<float>(region.touches) / static_cast<float>(region.armed));
        memory.heat = memory.samples == 0 ? share : memory.heat * (1 - kNewWeight) + share * kNewWeight;
        memory.samples = static_cast<std::uint8_t>(std::min(255, memory.samples + 1));
      }
      if (region.touches > 0 || region.refaults > 0) memory.last_touch = now;
      if (region.refaults > 0 && memory.demoted_at != 0) {
        if (now - memory.demoted_at <= window) {
          memory.backoff = static_cast<std::uint8_t>(std::min<int>(config.max_backoff, memory.backoff + 1));
          ++history.regrets.regretted[0];
        }
        memory.heat = std::max(memory.heat, 0.5f);
        memory.demoted_at = 0;
      } else if (memory.backoff > 0 && now - memory.last_touch > kBackoffDecay << memory.backoff) {
        --memory.backoff;
      }
    }
  }
}

}  // namespace tidepool::policy
