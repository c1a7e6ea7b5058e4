// The slow half of VmHeat: what has to be looked at though nothing was reported of it.
#include <algorithm>
#include <bit>
#include <cmath>

#include "policy/vm_heat.h"

namespace tidepool::policy {
namespace {

constexpr unsigned kWindowUnits = 12;      // units that a window must have seen before it is compared
constexpr float kWorthSplitting = 4;       // the hot part's rate over the cold part's
constexpr std::uint8_t kAlikeWindows = 6;  // sweeps without a difference before a split region is whole again
constexpr float kUnitPriorWatch = 4;       // page-seconds that the region's rate counts for
constexpr unsigned kForgiveAge = 60;       // scan periods of quiet after which one doubling of a back-off is forgiven
constexpr std::uint16_t kFruitlessPause = 1;  // seconds, doubled by the region's back-off ...
constexpr int kFruitlessDoublings = 3;  // ... but no more often: a VM above its limit may have nothing else to give

}  // namespace

void VmHeat::sweep(std::uint8_t ripe_age, std::uint32_t regret, bool partial) {
  ripe_age_ = std::max<std::uint8_t>(1, ripe_age);
  regret_ = regret;
  if (partial != partial_) {
    // Changes what of a split region can go: everything filed under the old rule comes out first.
    for (Object& object : objects_) {
      for (std::uint32_t r = 0; r < object.regions.size(); ++r) {
        if (object.regions[r].part == 0) continue;
        const Entry before = filed(object, r);
        merge(object, object.regions[r]);
        refile(object, r, before);
      }
    }
    partial_ = partial;
  }
  if (regions_ == 0) return;
  const std::uint64_t ticks = std::max(1u, config_.sweep_ticks);
  for (std::uint64_t left = (regions_ + ticks - 1) / ticks; left > 0; --left) {
    while (sweep_region_ >= objects_[sweep_object_].regions.size()) {
      sweep_region_ = 0;
      if (++sweep_object_ < objects_.size()) continue;
      sweep_object_ = 0;
      end_round();
    }
    prefetch(objects_[sweep_object_], sweep_region_ + 6);
    sweep_region(objects_[sweep_object_], sweep_region_++);
  }
}

void VmHeat::end_round() {
  stuck_fade_ =
      std::exp(-static_cast<float>(std::max(1u, config_.sweep_ticks) * tick_seconds_) / std::max(1.0f, hold_ / 4));
  by_age_ = by_age_next_;
  by_age_next_.fill(0);
  ++rounds_;
  const auto seconds = static_cast<float>(std::max(1u, config_.sweep_ticks) * tick_seconds_);
  distances_.fade(std::exp2(-seconds / (4 * half_life_)));
  outcome_.fade(std::exp2(-seconds / (8 * half_life_)));
}

void VmHeat::sweep_region(Object& object, std::uint32_t index) {
  const Entry before = filed(object, index);
  advance(object, index);
  RegionHeat& region = object.regions[index];
  const std::uint8_t age = age_of(region);
  // Kept from wrapping: a region that is older than ages can count stays just that.
  if (age == kAges - 1) region.last_used = static_cast<std::uint16_t>(now_.period - (kAges - 1));
  by_age_next_[age] += region.resident + region.far;
  region.momentum = static_cast<std::int8_t>(region.momentum / 2);
  if (region.has(RegionHeat::kSparing))
    region.stuck = static_cast<std::uint16_t>(static_cast<float>(region.stuck) * stuck_fade_);

  const auto since_planned = static_cast<std::uint16_t>(now_.seconds - region.planned_at);
  if (region.has(RegionHeat::kPending) && since_planned > std::chrono::duration<double>(config_.move_timeout).count()) {
    settle(region);
    note_fruitless(region);
  } else if (region.has(RegionHeat::kFruitless) &&
             since_planned > kFruitlessPause << std::min<int>(region.backoff, kFruitlessDoublings)) {
    region.set(RegionHeat::kFruitless, false);
  } else if (region.backoff > 0 && age >= kForgiveAge && rounds_ % 8 == 0) {
    --region.backoff;
  }
  if (region.demoted_at != 0 && region.far == 0 && now_.tenths - region.demoted_at > regret_) region.demoted_at = 0;
  if (region.has(RegionHeat::kCanary) &&
      (region.demoted_at == 0 || region.seen.watch + region.far_seen.watch >= config_.proof_watch)) {
    region.set(RegionHeat::kCanary, false);
    canaries_ -= std::min<std::uint64_t>(canaries_, region.moved);
  }
  roll_window(object, index);
  refile(object, index, before);
}

// Units that are used in one window and the next, beside others that are not in either: the inside differs.
void VmHeat::roll_window(Object& object, std::uint32_t index) {
  RegionHeat& region = object.regions[index];
  if (region.part != 0) return judge_part(object, region, prior_of(object, index));
  if (!partial_) return;
  // Far pages that did not come back were not used.
  if (region.used != 0 && region.far > kRegionPages / 2 && !region.has(RegionHeat::kPaper)) region.idle = ~region.used;
  region.idle &= ~region.used;
  if (static_cast<unsigned>(std::popcount(region.used | region.idle)) < kWindowUnits) return;
  const int hot = std::popcount(region.used & region.was_used);
  const int cold = std::popcount(region.idle & region.was_idle);
  const int crossed = std::popcount(region.used & region.was_idle) + std::popcount(region.idle & region.was_used);
  if (hot >= 2 && cold >= 4 && crossed * 4 <= hot + cold) split(object, region);
  region.was_used = region.used;
  region.was_idle = region.idle;
  region.used = region.idle = 0;
}

void VmHeat::split(Object& object, RegionHeat& region) {
  std::uint16_t slot;
  if (!object.free_parts.empty()) {
    slot = object.free_parts.back();
    object.free_parts.pop_back();
  } else {
    if (object.parts.size() >= config_.max_parts) return;
    slot = static_cast<std::uint16_t>(object.parts.size());
    object.parts.emplace_back();
  }
  PartHeat& part = object.parts[slot];
  part = PartHeat{};
  const UnitMask hot = region.used & region.was_used;
  const UnitMask cold = region.idle & region.was_idle;
  for (unsigned u = 0; u < kUnits; ++u) {
    if ((hot >> u & 1) != 0) part.units[u] = {2, 2};
    if ((cold >> u & 1) != 0) part.units[u] = {0, 4};
  }
  part.cold_rate = part.hot_rate = region.seen.rate(config_.unknown_rate, config_.prior_watch);
  region.part = static_cast<std::uint16_t>(slot + 1);
}

void VmHeat::merge(Object& object, RegionHeat& region) {
  object.free_parts.push_back(static_cast<std::uint16_t>(region.part - 1));
  region.part = 0;
  region.used = region.idle = region.was_used = region.was_idle = 0;
}

// Where in the order of rates is the widest step, and is it worth keeping the parts apart?
void VmHeat::judge_part(Object& object, RegionHeat& region, float prior) {
  PartHeat& part = object.parts[region.part - 1];
  const float faded = std::exp2(-static_cast<float>(std::max(1u, config_.sweep_ticks) * tick_seconds_) / half_life_);
  std::array<std::pair<float, unsigned>, kUnits> rates;
  for (unsigned u = 0; u < kUnits; ++u) {
    part.units[u].fade(faded);
    rates[u] = {part.units[u].rate(prior, kUnitPriorWatch), u};
  }
  std::sort(rates.begin(), rates.end());
  unsigned cut = 0;
  float widest = 1.5f;
  for (unsigned i = 1; i < kUnits; ++i) {
    const float step = rates[i].first / std::max(rates[i - 1].first, 1e-9f);
    if (step > widest) widest = step, cut = i;
  }
  float cold_rate = 0;
  float hot_rate = 0;
  UnitMask cold = 0;
  for (unsigned i = 0; i < kUnits; ++i) {
    (i < cut ? cold_rate : hot_rate) += rates[i].first;
    if (i < cut) cold |= UnitMask{1} << rates[i].second;
  }
  const bool differs =
      cut > 0 && hot_rate / static_cast<float>(kUnits - cut) >= kWorthSplitting * cold_rate / static_cast<float>(cut);
  if (differs) {
    part.alike = 0;
    part.cold = cold;
    part.cold_rate = cold_rate / static_cast<float>(cut);
    part.hot_rate = hot_rate / static_cast<float>(kUnits - cut);
    return;
  }
  part.cold = kAllUnits;
  part.cold_rate = part.hot_rate = region.seen.rate(prior, config_.prior_watch);
  if (++part.alike >= kAlikeWindows) merge(object, region);
}

MissCurve VmHeat::miss_curve() const {
  RateHistogram pages{};
  for (unsigned t = 0; t < kTemperatures; ++t) {
    pages[t] = static_cast<double>(any_.pages[t]) + missed_.pages[t];
  }
  return MissCurve(pages);
}

Bytes VmHeat::footprint() const {
  std::size_t bytes = sizeof *this;
  for (const Object& object : objects_) {
    bytes += sizeof object + object.regions.capacity() * sizeof(RegionHeat) + object.temperature.capacity() +
             object.far_temperature.capacity() + object.hoods.capacity() * sizeof(Neighbourhood) +
             object.parts.capacity() * sizeof(PartHeat) + object.free_parts.capacity() * sizeof(std::uint16_t) +
             object.shallow.capacity() * sizeof(Shallow);
  }
  return Bytes{bytes};
}

}  // namespace tidepool::policy
