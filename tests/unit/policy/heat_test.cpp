#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "policy/vm_heat.h"

namespace tidepool::policy {
namespace {

// Time, news and samples for one VM's heat.
class Heat : public testing::Test {
 protected:
  void SetUp() override {
    sample_.object = {VmId{1}, 0};
    begin(10);
  }

  void begin(std::uint32_t tenths) {
    now_.tenths += tenths;
    now_.period = static_cast<std::uint16_t>(now_.tenths / 100);
    now_.seconds = static_cast<std::uint16_t>(now_.tenths / 10);
    heat_.begin_tick(now_, config_);
    sample_.until = MonoTime{std::chrono::milliseconds(100) * now_.tenths};
    sample_.since = sample_.until - std::chrono::seconds(1);
    sample_.window = std::chrono::seconds(1);
  }
  void end(std::uint8_t ripe_age = 12, bool partial = true) { heat_.sweep(ripe_age, 3000, partial); }

  void regions(std::uint32_t count, std::uint16_t resident = kRegionPages, std::uint16_t far = 0) {
    std::vector<RegionNews> news;
    for (std::uint32_t r = 0; r < count; ++r) news.push_back({r, resident, far, 0});
    const ObjectView view{0, PageCount{std::uint64_t{count} * kRegionPages}, news};
    heat_.know(view);
    heat_.take(view, counts_);
  }
  void report(RegionNews news) {
    const ObjectView view{0, PageCount{0}, std::span(&news, 1)};
    heat_.take(view, counts_);
  }
  void look(PageRun run, std::uint32_t watched, std::uint32_t used) {
    sample_.pages = run;
    sample_.watched = watched;
    sample_.used = used;
    heat_.take(sample_, counts_);
  }
  static PageRun region(std::uint32_t r) { return {PageIndex{std::uint64_t{r} * kRegionPages}, kRegionPages}; }
  std::vector<Candidate> coldest(Pick pick, std::uint32_t count) {
    std::vector<Candidate> out;
    heat_.coldest(pick, {~0ull, count}, out);
    return out;
  }

  Moment now_;
  HeatConfig config_;
  VmHeat heat_;
  IntakeCounts counts_;
  AccessSample sample_;
};

TEST(Exposure, FindsTheRateOfAPoissonProcessWhateverTheLengthOfALook) {
  std::mt19937 random(7);
  for (const double rate : {0.01, 0.3, 2.0}) {
    for (const double seconds : {0.5, 2.0, 30.0}) {
      Exposure sum;
      std::uniform_real_distribution<double> uniform;
      for (int look = 0; look < 3000; ++look) {
        float used = 0;
        for (int page = 0; page < 64; ++page) used += uniform(random) < 1 - std::exp(-rate * seconds) ? 1.0f : 0.0f;
        sum += exposure_of(64, used, static_cast<float>(seconds));
      }
      // Where every page is used in every look, a rate is only known to be at least that high.
      const double most = std::log(64 / 0.5) / seconds;
      const double seen = sum.uses / sum.watch;
      if (rate * seconds < 3) {
        EXPECT_NEAR(seen / rate, 1, 0.1) << rate << " for " << seconds;
      } else {
        EXPECT_GT(seen, std::min(rate, most) * 0.7);
      }
    }
  }
}

TEST(Exposure, OrdersTemperaturesAsRates) {
  std::uint8_t last = 0;
  for (double rate = 1e-8; rate < 1e4; rate *= 1.1) {
    const std::uint8_t t = temperature_of(static_cast<float>(rate));
    EXPECT_GE(t, last);
    EXPECT_GE(t, 1);
    EXPECT_LT(t, kTemperatures);
    if (rate > 1e-6 && rate < 500) {
      EXPECT_NEAR(std::log2(rate_of(t) / rate), 0, 0.26) << rate;
    }
    last = t;
  }
  EXPECT_EQ(temperature_of(std::nanf("")), 1);
}

TEST(Exposure, FadesAsItShould) {
  for (float x = -125; x < 2; x += 0.37f) EXPECT_NEAR(fast_exp2(x), std::exp2(x), 2e-4 * std::exp2(x) + 1e-36);
}

TEST_F(Heat, TellsHotFromColdByFewSamples) {
  regions(64);
  for (int second = 0; second < 60; ++second) {
    begin(10);
    for (std::uint32_t r = 0; r < 64; ++r) look(region(r), 2, r < 16 ? 2 : 0);
    end();
  }
  const auto cold = coldest(Pick::kAny, 48);
  ASSERT_EQ(cold.size(), 48u);
  for (const Candidate& candidate : cold) EXPECT_GE(candidate.id.region, 16u);
  EXPECT_GT(heat_.rate_at(0, 3), 50 * heat_.rate_at(0, 40));
  EXPECT_TRUE(heat_.consistent());
}

TEST_F(Heat, LendsARegionOfWhichNothingIsKnownTheLikenessOfItsNeighbours) {
  regions(64);
  for (int second = 0; second < 60; ++second) {
    begin(10);
    for (std::uint32_t r = 0; r < 64; ++r) {
      if (r % 16 != 7) look(region(r), 2, r < 32 ? 2 : 0);
    }
    end();
  }
  EXPECT_GT(heat_.rate_at(0, 7), 3 * heat_.rate_at(0, 39));
}

TEST_F(Heat, BelievesAChangeAtItsSecondSign) {
  regions(16);
  for (int second = 0; second < 300; ++second) {
    begin(10);
    for (std::uint32_t r = 0; r < 16; ++r) look(region(r), 8, 0);
    end();
  }
  const float before = heat_.rate_at(0, 5);
  begin(10);
  look(region(5), 8, 8);
  const float once = heat_.rate_at(0, 5);
  begin(10);
  look(region(5), 8, 8);
  begin(10);
  look(region(5), 8, 8);
  EXPECT_LT(once, 0.1f);
  EXPECT_GT(heat_.rate_at(0, 5), 2 * once);
  EXPECT_GT(heat_.rate_at(0, 5), 50 * before);
}

TEST_F(Heat, SeesEveryUseOfFarMemoryAndThatThereAreNone) {
  regions(32, 0, kRegionPages);
  for (int second = 0; second < 30; ++second) {
    begin(10);
    sample_.far = true;
    look(region(3), kRegionPages, 5);
    end();
  }
  EXPECT_NEAR(heat_.rate_at(0, 3), 5.0 / kRegionPages, 0.003);
  EXPECT_LT(heat_.rate_at(0, 20), 0.0005);
  EXPECT_NEAR(heat_.fault_rate(), 5, 0.5);
  std::vector<Candidate> missed;
  heat_.most_missed({1, 1}, missed);
  ASSERT_EQ(missed.size(), 1u);
  EXPECT_EQ(missed[0].id.region, 3u);
}

TEST_F(Heat, TakesSilenceOfWritesForNoProof) {
  regions(8);
  sample_.sees = Sees::kWrites;
  for (int second = 0; second < 300; ++second) {
    begin(10);
    for (std::uint32_t r = 0; r < 4; ++r) look(region(r), 8, 0);
    end();
  }
  EXPECT_TRUE(coldest(Pick::kRipe, 8).empty());
  EXPECT_EQ(coldest(Pick::kUnknown, 8).size(), 8u);
  sample_.sees = Sees::kReadsAndWrites;
  for (int second = 0; second < 20; ++second) {
    begin(10);
    look(region(2), 8, 0);
    end();
  }
  ASSERT_EQ(coldest(Pick::kRipe, 8).size(), 1u);
  EXPECT_EQ(coldest(Pick::kRipe, 8)[0].id.region, 2u);
}

TEST_F(Heat, LearnsNothingFromTheAbsenceOfEvents) {
  regions(8);
  sample_.evidence = Evidence::kEvents;
  sample_.window = {};
  for (int second = 0; second < 200; ++second) {
    begin(10);
    look(region(1), 0, 3);
    end();
  }
  EXPECT_GT(heat_.rate_at(0, 1), 0.3f);
  for (const Candidate& candidate : coldest(Pick::kUnknown, 8)) EXPECT_NE(candidate.id.region, 1u);
  EXPECT_TRUE(coldest(Pick::kRipe, 8).empty());
}

TEST_F(Heat, SplitsARegionWhoseInsideDiffersAndMakesItWholeAgainWhenItDoesNot) {
  regions(4);
  std::mt19937 random(3);
  const auto play = [&](int seconds, bool half_hot) {
    for (int second = 0; second < seconds; ++second) {
      begin(10);
      for (int n = 0; n < 8; ++n) {
        const std::uint64_t page = random() % kRegionPages;
        const bool hot = half_hot && page < kRegionPages / 4;
        look({PageIndex{page}, 1}, 1, hot ? 1 : 0);
      }
      end();
    }
  };
  play(60, true);
  ASSERT_TRUE(heat_.split_at(0, 0));
  const auto candidates = coldest(Pick::kAny, 4);
  const auto found = std::find_if(candidates.begin(), candidates.end(),
                                  [](const Candidate& candidate) { return candidate.id.region == 0; });
  ASSERT_NE(found, candidates.end());
  EXPECT_EQ(found->units, 0xffffff00u) << "the first quarter stays";
  EXPECT_EQ(found->pages, kRegionPages / 4 * 3);
  play(900, false);
  EXPECT_FALSE(heat_.split_at(0, 0));
  EXPECT_TRUE(heat_.consistent());
}

TEST_F(Heat, OffersTheHotPartOfARegionOnceItIsAllThatIsLeft) {
  regions(4);
  std::mt19937 random(3);
  for (int second = 0; second < 60; ++second) {
    begin(10);
    for (int n = 0; n < 8; ++n) {
      const std::uint64_t page = random() % kRegionPages;
      look({PageIndex{page}, 1}, 1, page < kRegionPages / 4 ? 1 : 0);
    }
    end();
  }
  ASSERT_TRUE(heat_.split_at(0, 0));
  const auto offered = [&] {
    const auto candidates = coldest(Pick::kAny, 4);
    const auto found = std::ranges::find(candidates, 0u, [](const Candidate& each) { return each.id.region; });
    return found == candidates.end() ? Candidate{} : *found;
  };
  const float cold = offered().rate;
  report({0, kRegionPages / 4 + 10, kRegionPages / 4 * 3 - 10, 0});
  EXPECT_EQ(offered().pages, 10) << "of the cold part";
  report({0, kRegionPages / 4, kRegionPages / 4 * 3, 0});
  EXPECT_EQ(offered().pages, kRegionPages / 4);
  EXPECT_EQ(offered().units, kAllUnits);
  EXPECT_GT(offered().rate, 2 * cold) << "as hot as it is";
  EXPECT_TRUE(heat_.consistent());
}

TEST_F(Heat, DoesNotSplitWhatIsUsedEvenly) {
  regions(4);
  std::mt19937 random(3);
  int split = 0;
  for (int second = 0; second < 600; ++second) {
    begin(10);
    for (int n = 0; n < 8; ++n) look({PageIndex{random() % kRegionPages}, 1}, 1, random() % 2);
    end();
    split += heat_.split_at(0, 0) ? 1 : 0;
  }
  EXPECT_LT(split, 150);
}

TEST_F(Heat, CountsAndDropsSamplesThatMakeNoSense) {
  regions(4);
  look({PageIndex{4 * kRegionPages}, 1}, 1, 1);
  EXPECT_EQ(counts_.samples_stale, 1u) << "beyond the object";
  sample_.object.object = 9;
  look(region(0), 1, 1);
  EXPECT_EQ(counts_.samples_stale, 2u) << "of no object";
  sample_.object.object = 0;
  look({PageIndex{0}, 0}, 1, 1);
  look(region(0), 1, 2);
  look({PageIndex{~0ull - 1}, 5}, 1, 1);
  sample_.confidence = std::nanf("");
  look(region(0), 1, 1);
  sample_.confidence = 1;
  sample_.window = std::chrono::hours(100);
  look(region(0), 1, 1);
  sample_.window = std::chrono::seconds(1);
  std::swap(sample_.since, sample_.until);
  look(region(0), 1, 1);
  EXPECT_EQ(counts_.samples_absurd, 6u);
  std::swap(sample_.since, sample_.until);
  report({2, 0, kRegionPages, 0});
  look(region(2), 1, 1);
  EXPECT_EQ(counts_.samples_stale, 3u) << "of a region that is far";
  // Overlapping runs each say what they say.
  look({PageIndex{100}, 1000}, 10, 10);
  look({PageIndex{0}, 4 * kRegionPages}, 10, 0);
  report({7, 1, 1, 0});
  report({1, 600, 0, 0});
  report({1, 400, 400, 0});
  EXPECT_EQ(counts_.news_absurd, 3u);
  EXPECT_TRUE(heat_.consistent());
}

TEST_F(Heat, AgesOnlyWhatIsUnusedAndCountsAgesThatDoNotWrap) {
  regions(16);
  // Two weeks, in steps of an hour, while the engine sweeps now and then.
  for (int hour = 0; hour < 24 * 14; ++hour) {
    begin(36000);
    for (int i = 0; i < 10; ++i) end();
    look(region(1), 8, 8);
  }
  begin(36000);
  for (int i = 0; i < 20; ++i) end();
  EXPECT_EQ(heat_.pages_by_age()[kAges - 1], 15u * kRegionPages + kRegionPages) << "an hour is older than ages count";
  begin(10);
  look(region(1), 8, 8);
  for (int i = 0; i < 20; ++i) end();
  EXPECT_EQ(heat_.pages_by_age()[kAges - 1], 15u * kRegionPages);
}

TEST_F(Heat, NeedsFewBytesForMuchMemory) {
  regions(16384);  // 32 GiB
  const double share = static_cast<double>(heat_.footprint().value) / (16384.0 * (2 << 20));
  EXPECT_LT(share, 0.0002);
}

}  // namespace
}  // namespace tidepool::policy
