// What is learned of single pages, and for how long it spares them.
#include "policy/page_age.h"

#include <gtest/gtest.h>

#include <random>

#include "policy/hold.h"

namespace tidepool::policy {
namespace {

using namespace std::chrono_literals;

MonoTime at(Nanoseconds time) {
  return MonoTime{1h + time};
}

TEST(PageAge, KnowsNothingAtFirst) {
  const PageAge age;
  EXPECT_FALSE(age.known());
  EXPECT_EQ(age.interval(), PageAge::kUnknown);
  EXPECT_FALSE(age.spared(at(0s), 100s));
  EXPECT_EQ(age.returned(at(0s)).interval(), PageAge::kUnknown) << "since when it was away is not known";
}

TEST(PageAge, TakesTheFirstReturnForTheInterval) {
  const PageAge left = PageAge::at(at(0s));
  EXPECT_EQ(left.returned(at(0s)).interval(), 0u);
  EXPECT_EQ(left.returned(at(1s)).interval(), 3u) << "125 ms, three times doubled";
  EXPECT_EQ(left.returned(at(4s)).interval(), 5u);
  EXPECT_EQ(left.returned(at(500s)).interval(), 12u);
}

TEST(PageAge, FollowsLaterReturnsHalfWay) {
  PageAge page = PageAge::at(at(0s), 9);  // 64 s
  page = PageAge::at(at(0s), page.returned(at(0s)).interval());
  EXPECT_EQ(page.interval(), 4u);
  page = PageAge::at(at(0s), page.returned(at(64s)).interval());
  EXPECT_EQ(page.interval(), 7u);
  for (int i = 0; i < 10; ++i) page = PageAge::at(at(0s), page.returned(at(1s)).interval());
  EXPECT_EQ(page.interval(), 3u) << "and arrives in the end";
}

TEST(PageAge, SparesTheMoreTheOftenerAPageIsUsed) {
  const auto spared_for = [](unsigned interval, Nanoseconds hold) {
    const PageAge home = PageAge::at(at(0s), interval);
    Nanoseconds time{0};
    while (home.spared(at(time), hold) && time < 2000s) time += 250ms;
    return time;
  };
  EXPECT_EQ(spared_for(6, 8s), 8s) << "8 s is its interval";
  EXPECT_EQ(spared_for(5, 8s), 64s);
  EXPECT_EQ(spared_for(2, 8s), PageAge::kLongestHold);
  EXPECT_EQ(spared_for(8, 8s), 0s) << "used more rarely than the hold";
  EXPECT_EQ(spared_for(PageAge::kUnknown, 8s), 2s);
}

TEST(PageAge, CountsTimeAcrossTheWrapOfItsStamp) {
  const Nanoseconds wrap = 4095 * PageAge::kUnit;
  for (Nanoseconds start = 0s; start < 2 * wrap; start += 77s) {
    const PageAge age = PageAge::at(at(start), 5);
    EXPECT_TRUE(age.known());
    EXPECT_EQ(age.interval(), 5u);
    EXPECT_LE(age.since(at(start + 300s)), 300s + PageAge::kUnit);
    EXPECT_GE(age.since(at(start + 300s)), 300s - PageAge::kUnit);
  }
}

TEST(PageAge, SaysOfAPageThatNeverReturnedAtMostHowOftenItIsUsed) {
  const PageAge left = PageAge::at(at(0s));
  EXPECT_EQ(left.likely_interval(at(64s), true), 9u);
  EXPECT_EQ(left.likely_interval(at(64s), false), PageAge::kUnknown);
  EXPECT_EQ(PageAge::at(at(0s), 2).likely_interval(at(64s), true), 2u);
  EXPECT_EQ(PageAge{}.likely_interval(at(64s), true), PageAge::kUnknown);
}

TEST(AgeSpread, TellsPagesApartWhereTheyDiffer) {
  AgeSpread differ;
  for (unsigned page = 0; page < 512; ++page) differ.add(page % 2 == 0 ? 4 : 9);
  EXPECT_TRUE(differ.stands_out(4));
  EXPECT_TRUE(differ.stands_out(9)) << "its own hold says that it may go";
}

TEST(AgeSpread, LeavesLikePagesToTheirRegion) {
  std::mt19937 random(1);
  std::exponential_distribution<double> gap(1.0 / 30);
  AgeSpread alike;
  std::vector<unsigned> intervals;
  for (int page = 0; page < 512; ++page) {
    PageAge age = PageAge::at(at(0s));
    for (int use = 0; use < 12; ++use) {
      const auto wait = std::chrono::duration_cast<Nanoseconds>(std::chrono::duration<double>(gap(random)));
      age = PageAge::at(at(0s), age.returned(at(std::min<Nanoseconds>(wait, 500s))).interval());
    }
    intervals.push_back(age.interval());
    alike.add(age.interval());
  }
  const auto outstanding = std::ranges::count_if(intervals, [&](unsigned each) { return alike.stands_out(each); });
  EXPECT_LT(outstanding, 25) << "of 512, by chance";
}

TEST(AgeSpread, FindsAFewBusyPagesAmongManyIdleOnes) {
  AgeSpread spread;
  for (unsigned page = 0; page < 512; ++page) spread.add(page < 8 ? 1 : 10);
  EXPECT_TRUE(spread.stands_out(1));
  EXPECT_FALSE(spread.stands_out(10));
}

TEST(AgeSpread, SaysNothingOfWhatItDoesNotKnow) {
  AgeSpread spread;
  for (unsigned page = 0; page < 512; ++page) spread.add(PageAge::kUnknown);
  EXPECT_FALSE(spread.stands_out(0));
}

TEST(HoldControl, ShrinksWhileMovesFindFewPages) {
  HoldControl hold;
  const float before = hold.seconds();
  hold.ended(3, 200);
  hold.end_tick(true, 0);
  EXPECT_LT(hold.seconds(), before);
  for (int i = 0; i < 1000; ++i) {
    hold.ended(0, 512);
    hold.end_tick(true, 0.5);
  }
  EXPECT_FLOAT_EQ(hold.seconds(), HoldControl::kShortest);
}

TEST(HoldControl, GrowsWhileMovesFindManyOrNothingMustGo) {
  HoldControl hold;
  const float before = hold.seconds();
  hold.ended(200, 200);
  hold.end_tick(true, 0);
  const float after = hold.seconds();
  EXPECT_GT(after, before);
  hold.end_tick(false, 0);
  EXPECT_GT(hold.seconds(), after);
  for (int i = 0; i < 1000; ++i) hold.end_tick(false, 0);
  EXPECT_FLOAT_EQ(hold.seconds(), HoldControl::kLongest);
}

TEST(HoldControl, ShrinksWhenNothingAtAllCouldBeMoved) {
  HoldControl hold;
  const float before = hold.seconds();
  hold.end_tick(true, 0.1);
  EXPECT_LT(hold.seconds(), before);
}

TEST(HoldControl, IsNotConcernedByRegionsThatGaveAll) {
  HoldControl hold;
  const float before = hold.seconds();
  hold.ended(512, 0);
  hold.end_tick(true, 0.5);
  EXPECT_FLOAT_EQ(hold.seconds(), before);
}

}  // namespace
}  // namespace tidepool::policy
