// Goal: a week of a VM's memory in little room, whatever its size, and true.
#include "daemon/agent/vm_views.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <utility>
#include <vector>

#include "policy/exposure.h"

namespace tidepool::daemon {
namespace {

using namespace std::chrono_literals;

struct Mean {
  double sum = 0;
  Mean& operator+=(const Mean& more) {
    sum += more.sum;
    return *this;
  }
  double column(unsigned count) const { return sum / count; }
};
constexpr std::array kLevels{Resolution{10s, 6}, Resolution{60s, 10}};

TEST(CoarseningSeries, KeepsTheRecentInDetailAndTheRestInOutline) {
  CoarseningSeries<Mean, double> series(kLevels);
  MonoTime now{1000h};
  for (int i = 0; i < 600; ++i, now = now + 1s) series.add({i < 300 ? 1.0 : 3.0}, now);
  const MonoTime last = now - 1s;
  EXPECT_EQ(series.period_for(50s), 10s);
  EXPECT_EQ(series.period_for(61s), 60s);
  EXPECT_EQ(series.period_for(1000h), 60s);
  const auto fine = series.last(60s, last);
  EXPECT_LE(fine.size(), 6u);
  for (const auto& each : fine) EXPECT_EQ(each.column, 3.0);
  const auto coarse = series.last(1h, last);
  EXPECT_LE(coarse.size(), 10u);
  ASSERT_GE(coarse.size(), 9u);
  EXPECT_EQ(coarse.front().column, 1.0);
  for (std::size_t i = 1; i < coarse.size(); ++i) EXPECT_EQ(coarse[i].start - coarse[i - 1].start, 60s);
}

TEST(CoarseningSeries, HasNothingForTimesThatNobodyWatched) {
  CoarseningSeries<Mean, double> series(kLevels);
  EXPECT_TRUE(series.last(1h, MonoTime{1h}).empty());
  series.add({1}, MonoTime{1000s});
  series.add({2}, MonoTime{1040s});
  const auto columns = series.last(60s, MonoTime{1041s});
  ASSERT_EQ(columns.size(), 2u);
  EXPECT_EQ(columns[1].start - columns[0].start, 40s);
}

TEST(CoarseningSeries, SurvivesTimeThatGoesBackwards) {
  CoarseningSeries<Mean, double> series(kLevels);
  series.add({1}, MonoTime{1000s});
  series.add({3}, MonoTime{10s});
  const auto columns = series.last(60s, MonoTime{1001s});
  ASSERT_EQ(columns.size(), 1u);
  EXPECT_EQ(columns[0].column, 2.0);
}

// Sweeps until a column is there.
template <class Look>
void watch(HeatHistory& history, MonoTime& now, unsigned ticks, Look&& look) {
  for (unsigned i = 0; i < ticks; ++i, now = now + 1s) history.sweep(now, look);
}

TEST(HeatHistory, TellsHotFromColdAndFarFromNear) {
  HeatHistory history;
  const std::array<std::uint64_t, 2> regions{100, 3};
  history.set_layout(regions);
  MonoTime now{1h};
  watch(history, now, 32, [](std::uint32_t object, std::uint64_t region) {
    if (object == 1) return HeatHistory::Look{};
    return region < 50 ? HeatHistory::Look{4, 512, 0} : HeatHistory::Look{0.001f, 128, 384};
  });
  const auto columns = history.last(10min, now);
  ASSERT_FALSE(columns.empty());
  const auto& column = columns.back().column;
  const auto& buckets = history.buckets();
  std::uint64_t covered = 0;
  for (std::size_t b = 0; b < buckets.size(); ++b) {
    covered += buckets[b].regions;
    if (buckets[b].object == 1) {
      EXPECT_EQ(column.temperature[b], 0) << "no memory there";
    } else if (buckets[b].first + buckets[b].regions <= 50) {
      EXPECT_NEAR(std::log2(policy::rate_of(column.temperature[b])), 2, 0.5);
      EXPECT_EQ(column.far[b], 0);
    } else if (buckets[b].first >= 50) {
      EXPECT_LT(policy::rate_of(column.temperature[b]), 0.002);
      EXPECT_NEAR(column.far[b] / 255.0, 0.75, 0.01);
    }
  }
  EXPECT_EQ(covered, 103u) << "every region is in the picture";
}

TEST(HeatHistory, IsAsSmallForATebibyte) {
  HeatHistory history;
  const std::array<std::uint64_t, 3> regions{524288, 1, 0};
  history.set_layout(regions);
  EXPECT_LE(history.buckets().size(), kMostHeatBuckets);
  MonoTime now{1h};
  std::uint64_t looks = 0;
  std::uint64_t most = 0;
  for (unsigned i = 0; i < 20; ++i, now = now + 1s) {
    const std::uint64_t before = looks;
    history.sweep(now, [&](std::uint32_t, std::uint64_t) {
      ++looks;
      return HeatHistory::Look{1, 512, 0};
    });
    most = std::max(most, looks - before);
  }
  EXPECT_LE(most, 524289u / HeatHistory::kSweepTicks + 1) << "no tick does all the work";
  EXPECT_FALSE(history.last(1min, now).empty());
  for (int hour = 0; hour < 24 * 7 * 60; ++hour, now = now + 1min)
    history.sweep(now, [](std::uint32_t, std::uint64_t) { return HeatHistory::Look{1, 512, 0}; });
  EXPECT_LT(history.footprint(), 64u << 10);
}

TEST(HeatHistory, KeepsWhatItKnowsByAddressWhenMemoryGrows) {
  HeatHistory history;
  const std::array<std::uint64_t, 1> small{8};
  history.set_layout(small);
  MonoTime now{1h};
  const auto look = [](std::uint32_t, std::uint64_t region) {
    return HeatHistory::Look{region < 4 ? 8.0f : 0.001f, 512, 0};
  };
  watch(history, now, 60, look);
  const std::array<std::uint64_t, 2> large{16, 4};
  history.set_layout(large);
  ASSERT_EQ(history.buckets().size(), 20u);
  const auto columns = history.last(10min, now);
  ASSERT_FALSE(columns.empty());
  const auto& column = columns.front().column;
  EXPECT_GT(policy::rate_of(column.temperature[0]), 4);
  EXPECT_LT(policy::rate_of(column.temperature[7]), 0.01);
  EXPECT_EQ(column.temperature[8], 0);
  EXPECT_EQ(column.temperature[17], 0);
}

TEST(HeatHistory, LeavesNoObjectOutHoweverManyThereAre) {
  for (const std::size_t objects : {63u, 64u, 65u, 100u, 700u}) {
    HeatHistory history;
    std::vector<std::uint64_t> regions(objects);
    std::uint64_t all = 0;
    for (std::size_t o = 0; o < objects; ++o) all += regions[o] = o % 7;  // some have none
    history.set_layout(regions);
    std::uint64_t covered = 0;
    std::size_t stands_for = 0;
    for (const auto& bucket : history.buckets())
      covered += bucket.regions, stands_for += bucket.objects > 1 ? bucket.objects : 0;
    EXPECT_LE(history.buckets().size(), kMostHeatBuckets);
    EXPECT_EQ(covered, all) << objects;
    EXPECT_EQ(stands_for, objects > kMostHeatBuckets ? objects - (kMostHeatBuckets - 1) : 0) << objects;
    // Each region of each object is looked at as often as any other.
    std::map<std::pair<std::uint32_t, std::uint64_t>, unsigned> looks;
    MonoTime now{1h};
    watch(history, now, 64, [&](std::uint32_t object, std::uint64_t region) {
      EXPECT_LT(object, objects);
      EXPECT_LT(region, regions[object]);
      ++looks[{object, region}];
      return HeatHistory::Look{object < 63 ? 0.001f : 8.0f, 512, 0};
    });
    EXPECT_EQ(looks.size(), all) << objects;
    unsigned least = ~0u;
    unsigned most = 0;
    for (const auto& [where, times] : looks) least = std::min(least, times), most = std::max(most, times);
    EXPECT_LE(most, least + 1) << objects;
    if (objects <= kMostHeatBuckets) continue;
    const auto columns = history.last(10min, now);
    ASSERT_FALSE(columns.empty());
    EXPECT_GT(policy::rate_of(columns.back().column.temperature[history.buckets().size() - 1]), 4)
        << "theirs, together";
  }
}

TEST(HeatHistory, TakesNothingAbsurd) {
  HeatHistory history;
  history.sweep(MonoTime{1h}, [](std::uint32_t, std::uint64_t) { return HeatHistory::Look{}; });  // no layout yet
  const std::vector<std::uint64_t> many(1000, 3);
  history.set_layout(many);
  EXPECT_LE(history.buckets().size(), kMostHeatBuckets);
  MonoTime now{1h};
  watch(history, now, 40, [](std::uint32_t, std::uint64_t region) {
    return HeatHistory::Look{region % 2 == 0 ? std::numeric_limits<float>::quiet_NaN() : -5.0f, 1, 4000000000u};
  });
  for (const auto& each : history.last(1h, now)) {
    for (std::size_t b = 0; b < kMostHeatBuckets; ++b) EXPECT_LE(policy::rate_of(each.column.temperature[b]), 1e-5);
  }
}

TEST(WorkingSetNow, OffersMoreForMoreSlowdown) {
  policy::RateHistogram pages{};
  pages[policy::temperature_of(10)] = 100000;       // hot
  pages[policy::temperature_of(0.0001f)] = 300000;  // cold
  const policy::MissCurve curve(pages);
  MemoryNow now;
  now.resident = to_bytes(PageCount{400000});
  now.threads = 2;
  now.stall_budget = 0.01;
  const WorkingSet set = working_set_now(curve, now);
  EXPECT_FALSE(set.fault_cost_measured);
  EXPECT_EQ(set.fault_cost, 20us);
  ASSERT_FALSE(set.offers.empty());
  Bytes before;
  for (const auto& offer : set.offers) {
    EXPECT_GE(offer.gives, before);
    EXPECT_NEAR(offer.faults, offer.slowdown * 2 / 20e-6, 1e-6);
    EXPECT_LE(offer.gives + offer.local, now.resident + Bytes{kPageSize});
    before = offer.gives;
  }
  // The cold three quarters cost next to nothing, the hot quarter dearly.
  EXPECT_GE(set.offers.front().gives, to_bytes(PageCount{299000}));
  EXPECT_LT(set.offers.back().gives, to_bytes(PageCount{310000}));
  EXPECT_NEAR(set.curve.front().best, curve.uses_per_second(), 1);
  EXPECT_EQ(set.curve.back().best, 0);
  for (std::size_t i = 1; i < set.curve.size(); ++i) {
    EXPECT_LE(set.curve[i].best, set.curve[i - 1].best);
    EXPECT_GE(set.curve[i].lru, set.curve[i].best - 1e-6) << "nothing is better than the best";
  }
}

TEST(WorkingSetNow, OffersNothingThatIsNotThere) {
  MemoryNow now;
  now.threads = 0;
  now.fault_cost = Nanoseconds{0};
  const WorkingSet set = working_set_now(policy::MissCurve(policy::RateHistogram{}), now);
  for (const auto& offer : set.offers) EXPECT_EQ(offer.gives, Bytes{});
  EXPECT_EQ(set.threads, 1u);
}

}  // namespace
}  // namespace tidepool::daemon
