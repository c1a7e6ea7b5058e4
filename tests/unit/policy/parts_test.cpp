// The engine's smaller parts, each on its own.
#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "policy/admission.h"
#include "policy/age_threshold.h"
#include "policy/arbiter.h"
#include "policy/miss_curve.h"
#include "policy/pressure.h"
#include "policy/stall_guard.h"
#include "policy/tiers.h"
#include "policy/utilisation.h"

namespace tidepool::policy {
namespace {

using namespace literals;
using namespace std::chrono_literals;

TEST(AgeThreshold, IsTheLowestAgeThatKeepsPromotionsAffordable) {
  AgeThreshold threshold;
  EXPECT_EQ(threshold.periods(), 0);
  threshold.used(3, 1000);
  threshold.used(10, 50);
  threshold.used(40, 30);
  threshold.end_minute(60, 0.98);
  EXPECT_EQ(threshold.periods(), 11) << "30 a minute are affordable, 80 are not";
}

TEST(AgeThreshold, RemembersBadMinutesAndForgivesThemAsTheyBecomeRare) {
  AgeThreshold threshold;
  threshold.used(100, 1000);
  threshold.end_minute(60, 0.9);
  EXPECT_EQ(threshold.periods(), 101);
  threshold.end_minute(60, 0.9);
  EXPECT_EQ(threshold.periods(), 101) << "half of the minutes were bad";
  for (int i = 0; i < 20; ++i) threshold.end_minute(60, 0.9);
  EXPECT_EQ(threshold.periods(), 1);
}

TEST(MissCurve, KnowsWhatAnOracleAndAnLruWouldMiss) {
  RateHistogram pages{};
  pages[temperature_of(10)] = 1000;
  pages[temperature_of(0.01f)] = 9000;
  const MissCurve curve(pages);
  EXPECT_EQ(curve.pages(), 10000);
  EXPECT_NEAR(curve.faults_at_best(1000), 9000 * 0.01, 20);
  EXPECT_NEAR(curve.faults_at_best(10000), 0, 1e-9);
  EXPECT_NEAR(curve.working_set(3600), 10000, 1);
  EXPECT_NEAR(curve.working_set(1), 1000 + 90, 30);
  for (double local = 500; local < 10000; local += 500) {
    EXPECT_GE(curve.faults_of_lru(local) * 1.0001, curve.faults_at_best(local)) << local;
    EXPECT_NEAR(curve.faults_at_best(curve.least_local(curve.faults_at_best(local))), curve.faults_at_best(local), 1);
  }
  EXPECT_EQ(curve.faults_of_lru(10000), 0);
}

// Che's approximation, against an LRU that is simulated.
TEST(MissCurve, AgreesWithASimulatedLru) {
  constexpr int kPages = 2000;
  std::vector<double> weight(kPages);
  for (int i = 0; i < kPages; ++i) weight[i] = 1.0 / (i + 1);
  std::mt19937 random(11);
  std::discrete_distribution<int> next(weight.begin(), weight.end());
  const double all = std::accumulate(weight.begin(), weight.end(), 0.0);
  RateHistogram pages{};
  constexpr double kUses = 1000;  // per second
  for (const double w : weight) pages[temperature_of(static_cast<float>(w / all * kUses))] += 1;
  for (const int local : {200, 600, 1200}) {
    std::vector<int> last(kPages, -1);
    std::vector<int> stack;  // most recent last
    int misses = 0;
    constexpr int kAccesses = 60000;
    for (int access = 0; access < kAccesses; ++access) {
      const int page = next(random);
      const auto at = std::find(stack.begin(), stack.end(), page);
      if (at != stack.end()) {
        stack.erase(at);
      } else {
        misses += access > kAccesses / 2 ? 1 : 0;
        if (stack.size() == static_cast<std::size_t>(local)) stack.erase(stack.begin());
      }
      stack.push_back(page);
    }
    const double simulated = misses / (kAccesses / 2.0) * kUses;
    EXPECT_NEAR(MissCurve(pages).faults_of_lru(local) / simulated, 1, 0.15) << local;
  }
}

TEST(RefaultDistances, SayWhatMoreMemoryWouldHavePrevented) {
  RefaultDistances distances;
  EXPECT_EQ(distances.prevented(1000000_pages), 0);
  distances.came_back(1000, 30);
  distances.came_back(100000, 70);
  EXPECT_NEAR(distances.prevented(2048_pages), 0.3, 1e-6);
  EXPECT_EQ(distances.prevented(500_pages), 0);
  EXPECT_NEAR(distances.prevented(1000000_pages), 1, 1e-6);
  distances.fade(0.5f);
  EXPECT_NEAR(distances.total(), 50, 1e-3);
}

TEST(StallGuard, PausesLongerEachTimeAndTrustsAgainAfterQuiet) {
  StallGuard guard;
  const PolicyConfig config;
  std::uint32_t now = 1000;
  guard.measure(0.5, 0.01, now, config);
  EXPECT_TRUE(guard.over());
  EXPECT_EQ(guard.paused_until(), now + 100);
  EXPECT_EQ(guard.trust(), 0.5);
  guard.measure(0.5, 0.01, now + 50, config);
  EXPECT_EQ(guard.paused_until(), now + 100) << "one excess is one offence";
  now += 101;
  guard.measure(0.5, 0.01, now, config);
  EXPECT_EQ(guard.paused_until(), now + 200);
  EXPECT_EQ(guard.trust(), 0.25);
  for (int minute = 0; minute < 25; ++minute) guard.measure(0, 0.01, now += 600, config);
  EXPECT_EQ(guard.trust(), 1);
  EXPECT_FALSE(guard.paused(now));
}

TEST(PingpongGuard, JudgesByTheWindowAndForgetsWhatLiesBeforeIt) {
  PingpongGuard guard;
  const PolicyConfig config;
  std::uint32_t now = 10;
  guard.measure(100000, 1000, now, config);
  EXPECT_FALSE(guard.paused(now)) << "one in a hundred";
  guard.measure(110000, 12000, now += 10, config);
  EXPECT_TRUE(guard.paused(now));
  EXPECT_EQ(guard.returned(), 12000u);
  now = guard.paused_until() + 1;
  guard.measure(110000, 12000, now, config);
  EXPECT_FALSE(guard.paused(now)) << "the past is paid for";
}

TEST(Tiers, AreChosenByWaitAndMemoryTogether) {
  const std::vector<TierView> tiers{{.name = "kernel", .capacity = 1_GiB, .ratio = 0.33, .fault_cost = 5us},
                                    {.name = "pool", .capacity = 2_MiB, .host_dram = false, .fault_cost = 20us}};
  const TierChooser free_dram(tiers, 0);
  EXPECT_EQ(free_dram.choose(0.001f, 512), 0) << "where DRAM is worth nothing, the faster tier";
  TierChooser dear(tiers, 1e-6);
  EXPECT_EQ(dear.choose(1, 512), 0) << "15 us a second are more than a third of a page";
  EXPECT_EQ(dear.choose(0.001f, 512), 1);
  dear.take(1, 512);
  EXPECT_EQ(dear.choose(0.001f, 512), 0) << "the pool is full";
  EXPECT_EQ(TierChooser({}, 0).choose(1, 1), -1);
  EXPECT_EQ(TierChooser(std::span(tiers).first(1), 5).choose(0.001f, 1), 0) << "one tier is as good as several";
}

TEST(Tiers, ThatAPageCannotGoToAreNotThere) {
  const std::vector<TierView> tiers{{.name = "pool", .capacity = 1_GiB, .fault_cost = 20us},
                                    {.name = "kernel", .capacity = 2_MiB, .ratio = 0.5, .fault_cost = 5us}};
  TierChooser chooser(tiers, 0);
  EXPECT_EQ(chooser.choose(1, 512), 1);
  EXPECT_EQ(chooser.choose(1, 512, 0b01), 0);
  EXPECT_EQ(chooser.choose(1, 512, 0b10), 1);
  EXPECT_EQ(chooser.choose(1, 512, 0), -1);
  EXPECT_EQ(chooser.choose(1, 512, ~TierMask{0} << 2), -1) << "tiers that nobody offers";
  EXPECT_EQ(chooser.room(0b01), 1_GiB);
  EXPECT_EQ(chooser.room(0b10), 4_MiB) << "of pages";
  EXPECT_DOUBLE_EQ(chooser.fault_cost(1, 0b01), 20e-6);
  EXPECT_DOUBLE_EQ(chooser.freed_per_byte(0b10), 0.5);
  chooser.take(1, 512);
  chooser.take(1, 512);
  EXPECT_EQ(chooser.choose(1, 512, 0b10), -1) << "full, and the other one is out of reach";
  const std::vector<TierView> many(40, TierView{.name = "more than the mask has bits", .capacity = 1_GiB});
  EXPECT_EQ(TierChooser(many, 0).room(kAllTiers), Bytes{32ull << 30});
}

TEST(Arbiter, TakesTheCheapestPagesWhoeverOwnsThem) {
  std::array<std::int32_t, kTemperatures> one{};
  std::array<std::int32_t, kTemperatures> two{};
  one[10] = 1000;
  one[30] = 1000;
  two[20] = 1000;
  const std::vector<Claim> claims{{&one, 1, 1_GiB}, {&two, 1, 1_GiB}};
  Shares shares = share_shortage(claims, to_bytes(1500_pages));
  EXPECT_EQ(shares.give[0], to_bytes(1000_pages));
  EXPECT_EQ(shares.give[1], to_bytes(500_pages));
  EXPECT_NEAR(shares.price / rate_of(20), 1, 0.01);
  // A weight of 32 lifts ten half octaves.
  const std::vector<Claim> weighted{{&one, 64, 1_GiB}, {&two, 1, 1_GiB}};
  shares = share_shortage(weighted, to_bytes(500_pages));
  EXPECT_EQ(shares.give[1], to_bytes(500_pages));
  const std::vector<Claim> guaranteed{{&one, 1, to_bytes(10_pages)}, {&two, 1, 1_GiB}};
  EXPECT_EQ(share_shortage(guaranteed, to_bytes(500_pages)).give[0], to_bytes(10_pages));
  EXPECT_EQ(share_shortage(claims, 1_TiB).give[0], to_bytes(2000_pages)) << "all there is";
}

TEST(Pressure, ClimbsTheLadderAsTheStepsBeforeDoNotHelpAndComesDownSlowly) {
  PressureLadder ladder;
  const PolicyConfig config;
  PressureInput input{.available = 2_GiB + 10_MiB, .reserve = 2_GiB, .cold = 1_GiB, .above_guarantees = 4_GiB};
  std::uint32_t now = 10;
  const auto step = [&] { return ladder.measure(input, now += 10, config).level; };
  EXPECT_EQ(step(), PressureLevel::kNone);
  input.available = Bytes{2_GiB - 200_MiB};
  EXPECT_EQ(step(), PressureLevel::kTrimCold) << "there is enough that is cold";
  input.cold = 10_MiB;
  EXPECT_EQ(step(), PressureLevel::kExtendPool);
  input.above_guarantees = 10_MiB;
  Pressure pressure = ladder.measure(input, now += 10, config);
  EXPECT_EQ(pressure.level, PressureLevel::kMigrate);
  EXPECT_TRUE(pressure.changed);
  EXPECT_FALSE(pressure.detail.empty());
  for (int i = 0; i < 40; ++i) pressure = ladder.measure(input, now += 10, config);
  EXPECT_EQ(pressure.level, PressureLevel::kRefuseVms);
  input = {.available = 10_GiB, .reserve = 2_GiB, .cold = 1_GiB, .above_guarantees = 4_GiB};
  EXPECT_EQ(step(), PressureLevel::kRefuseVms) << "one good second is none";
  for (int i = 0; i < 35; ++i) step();
  EXPECT_EQ(ladder.level(), PressureLevel::kMigrate) << "one step at a time";
  for (int i = 0; i < 120; ++i) step();
  EXPECT_EQ(ladder.level(), PressureLevel::kNone);
}

TEST(Pressure, SeesAShortageComing) {
  PressureLadder ladder;
  PressureInput input{.available = 8_GiB, .reserve = 2_GiB, .cold = 4_GiB, .above_guarantees = 4_GiB};
  std::uint32_t now = 10;
  Bytes available = input.available;
  while (ladder.level() == PressureLevel::kNone && input.available > 1_GiB) {
    ladder.measure(input, now += 10, {});
    available = input.available;
    input.available -= 100_MiB;
  }
  EXPECT_GT(available, 2_GiB) << "before the reserve is touched";
}

TEST(Utilisation, KeepsPercentilesOfEachWindowOfTheDay) {
  Utilisation history(6);
  for (int minute = 0; minute < 240; ++minute) {
    history.record(0, 1_GiB, 4_GiB);
    history.record(2, minute < 6 ? 4_GiB : 2_GiB, 4_GiB);
  }
  EXPECT_EQ(history.percentile(0, 0.95, 4_GiB), 1_GiB);
  EXPECT_EQ(history.percentile(2, 0.95, 4_GiB), 2_GiB);
  EXPECT_EQ(history.highest(2, 4_GiB), 4_GiB);
  EXPECT_EQ(history.percentile(1, 0.95, 4_GiB), Bytes{});
  EXPECT_FALSE(history.known());
  EXPECT_EQ(Utilisation::window_at(0s, 6), 0u);
  EXPECT_EQ(Utilisation::window_at(86399s, 6), 5u);
  EXPECT_EQ(Utilisation::window_at(-1s, 6), 5u);
  EXPECT_EQ(Utilisation::window_at(86400s * 400, 6), 0u);
}

TEST(Utilisation, SurvivesItsOwnTextAndRefusesOthers) {
  Utilisation history(4);
  std::mt19937 random(5);
  for (int i = 0; i < 20000; ++i) history.record(random() % 4, Bytes{random() % (5ull << 30)}, 4_GiB);
  const std::string text = history.text();
  const auto again = Utilisation::parse(text);
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ(*again, history);
  EXPECT_EQ(Utilisation::parse(Utilisation(6).text()), Utilisation(6));
  for (std::size_t cut = 0; cut < text.size(); ++cut)
    EXPECT_FALSE(Utilisation::parse(text.substr(0, cut)).has_value()) << cut;
  for (const char* bad : {"", "v2 6 64;;;;;;;", "v1 0 64;", "v1 99 64;", "v1 1 63;;", "v1 1 64;64=1;",
                          "v1 1 64;1=99999;", "v1 1 64;1=1,;", "v1 1 64;1;", "v1 1 64;;x", "v1 1 64;-1=1;"})
    EXPECT_FALSE(Utilisation::parse(bad).has_value()) << bad;
}

TEST(Admission, AddsGuaranteesAndTheWorstWindow) {
  Utilisation night(2);
  Utilisation day(2);
  for (int minute = 0; minute < 100; ++minute) {
    night.record(0, minute < 90 ? 1_GiB : 4_GiB, 4_GiB);
    night.record(1, 1_GiB, 4_GiB);
    day.record(0, 1_GiB, 4_GiB);
    day.record(1, minute < 90 ? 1_GiB : 4_GiB, 4_GiB);
  }
  const std::vector<Commitment> held{commitment_of(1_GiB, 4_GiB, night, 0.85), commitment_of(1_GiB, 4_GiB, day, 0.85)};
  EXPECT_EQ(held[0].guaranteed, 1_GiB);
  EXPECT_EQ(held[0].oversubscribed[0], 3_GiB);
  EXPECT_EQ(held[0].oversubscribed[1], Bytes{});
  // 2 guaranteed, and 3 in either window, for their peaks do not meet: 5 of 7 GiB.
  EXPECT_TRUE(fits(8_GiB, 1_GiB, Bytes{}, held, 1_GiB, 1_GiB, 2, PressureLevel::kNone).fits);
  const Fit no = fits(8_GiB, 1_GiB, Bytes{}, held, 1_GiB, 2_GiB, 2, PressureLevel::kNone);
  EXPECT_FALSE(no.fits);
  EXPECT_EQ(no.shortfall, 1_GiB) << no.arithmetic;
  EXPECT_FALSE(fits(8_GiB, 1_GiB, Bytes{}, held, 1_MiB, Bytes{}, 2, PressureLevel::kRefuseVms).fits);
  const Commitment unknown = commitment_of(1_GiB, 4_GiB, Utilisation(2), 0.95);
  EXPECT_EQ(unknown.oversubscribed[0], 3_GiB) << "without a history, all that was promised";
  EXPECT_FALSE(fits(Bytes{~0ull}, Bytes{}, Bytes{}, held, Bytes{~0ull}, Bytes{~0ull}, 2, PressureLevel::kNone)
                   .arithmetic.empty());
}

TEST(Evacuation, CountsWhatAPoolInDramGivesBack) {
  HostView host;
  host.available = 4_GiB;
  host.reserve = 2_GiB;
  host.tiers.push_back({.name = "pool", .used = 1_GiB});
  EXPECT_EQ(evacuation(host, 3_GiB, 1_GiB).shortfall, Bytes{});
  EXPECT_EQ(evacuation(host, 4_GiB, 1_GiB).shortfall, 1_GiB);
  host.tiers[0].foreign = 512_MiB;
  EXPECT_EQ(evacuation(host, 3_GiB, 1_GiB).shortfall, 512_MiB) << "what others put there stays";
  host.tiers[0].foreign = 2_GiB;
  EXPECT_EQ(evacuation(host, 3_GiB, 1_GiB).shortfall, 1_GiB);
  host.tiers[0].host_dram = false;
  EXPECT_EQ(evacuation(host, 3_GiB, 1_GiB).shortfall, 1_GiB);
  EXPECT_EQ(evacuation(host, 3_GiB, 1_GiB).estimate, 3s);
}

}  // namespace
}  // namespace tidepool::policy
