#include "daemon/agent/heat_history.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "policy/exposure.h"

namespace tidepool::daemon {
namespace {

// 16 minutes, 2 hours, 17 hours, a week.
constexpr std::array kResolutions{Resolution{std::chrono::seconds(15), 64}, Resolution{std::chrono::minutes(2), 64},
                                  Resolution{std::chrono::minutes(16), 64}, Resolution{std::chrono::hours(2), 85}};

}  // namespace

HeatHistory::HeatHistory() : series_(kResolutions) {}

HeatHistory::Sum& HeatHistory::Sum::operator+=(const Sum& more) {
  for (std::size_t b = 0; b < kMostHeatBuckets; ++b) {
    uses[b] += more.uses[b];
    pages[b] += more.pages[b];
    far[b] += more.far[b];
  }
  return *this;
}

HeatHistory::Column HeatHistory::Sum::column(unsigned) const {
  Column column;
  for (std::size_t b = 0; b < kMostHeatBuckets; ++b) {
    if (pages[b] <= 0) continue;
    column.temperature[b] = policy::temperature_of(uses[b] / pages[b]);
    column.far[b] = static_cast<std::uint8_t>(std::lround(std::clamp(far[b] / pages[b], 0.0f, 1.0f) * 255));
  }
  return column;
}

// Each object gets stretches in proportion to its size, and one at least; where there are more objects than stretches,
// the last ones share one.
std::vector<HeatHistory::Bucket> HeatHistory::divide(std::span<const std::uint64_t> regions) {
  std::vector<Bucket> buckets;
  const std::size_t objects = regions.size() <= kMostHeatBuckets ? regions.size() : kMostHeatBuckets - 1;
  const auto rest = regions.begin() + static_cast<std::ptrdiff_t>(objects);
  const std::uint64_t whole = std::accumulate(regions.begin(), rest, std::uint64_t{0});
  const std::size_t spare = regions.size() > objects ? 0 : kMostHeatBuckets - objects;
  for (std::size_t o = 0; o < objects; ++o) {
    if (regions[o] == 0) continue;
    const auto share = static_cast<std::uint64_t>(static_cast<double>(spare) * static_cast<double>(regions[o]) /
                                                  static_cast<double>(whole));
    const std::uint64_t wanted = std::min(regions[o], 1 + share);
    const std::uint64_t each = (regions[o] + wanted - 1) / wanted;
    for (std::uint64_t first = 0; first < regions[o]; first += each)
      buckets.push_back({static_cast<std::uint32_t>(o), first, std::min(each, regions[o] - first), 1});
  }
  if (const std::uint64_t others = std::accumulate(rest, regions.end(), std::uint64_t{0}); others != 0)
    buckets.push_back(
        {static_cast<std::uint32_t>(objects), 0, others, static_cast<std::uint32_t>(regions.size() - objects)});
  return buckets;
}

void HeatHistory::set_layout(std::span<const std::uint64_t> regions) {
  if (std::ranges::equal(regions, layout_)) return;
  layout_.assign(regions.begin(), regions.end());
  const std::vector<Bucket> old = std::exchange(buckets_, divide(regions));
  sweep_ = {};
  bucket_ = 0;
  region_ = 0;
  rest_object_ = 0;
  rest_begin_ = 0;
  // Where each new stretch's middle lay before.
  std::array<std::size_t, kMostHeatBuckets> from{};
  from.fill(kMostHeatBuckets);
  for (std::size_t b = 0; b < buckets_.size(); ++b) {
    const std::uint64_t middle = buckets_[b].first + buckets_[b].regions / 2;
    for (std::size_t o = 0; o < old.size(); ++o) {
      if (old[o].object == buckets_[b].object && middle >= old[o].first && middle < old[o].first + old[o].regions)
        from[b] = o;
    }
  }
  series_.change_all([&](Column& column) {
    Column next;
    for (std::size_t b = 0; b < kMostHeatBuckets; ++b) {
      if (from[b] == kMostHeatBuckets) continue;
      next.temperature[b] = column.temperature[from[b]];
      next.far[b] = column.far[from[b]];
    }
    column = next;
  });
}

std::pair<std::uint32_t, std::uint64_t> HeatHistory::here() {
  const Bucket& bucket = buckets_[bucket_];
  if (bucket.objects == 1) return {bucket.object, bucket.first + region_};
  if (region_ == 0) rest_object_ = 0, rest_begin_ = 0;
  while (region_ - rest_begin_ >= layout_[bucket.object + rest_object_])
    rest_begin_ += layout_[bucket.object + rest_object_++];
  return {bucket.object + rest_object_, region_ - rest_begin_};
}

void HeatHistory::sweep(MonoTime now, const std::function<Look(std::uint32_t, std::uint64_t)>& look) {
  std::uint64_t whole = 0;
  for (const Bucket& bucket : buckets_) whole += bucket.regions;
  for (std::uint64_t left = (whole + kSweepTicks - 1) / kSweepTicks; left > 0; --left) {
    const Bucket& bucket = buckets_[bucket_];
    const auto [object, region] = here();
    const Look seen = look(object, region);
    const auto pages = static_cast<float>(seen.resident + seen.far);
    sweep_.uses[bucket_] += std::isfinite(seen.rate) ? std::max(seen.rate, 0.0f) * pages : 0;
    sweep_.pages[bucket_] += pages;
    sweep_.far[bucket_] += static_cast<float>(seen.far);
    if (++region_ < bucket.regions) continue;
    region_ = 0;
    if (++bucket_ < buckets_.size()) continue;
    bucket_ = 0;
    series_.add(sweep_, now);
    sweep_ = {};
  }
}

}  // namespace tidepool::daemon
