#include "pool/store/slot_set.h"

#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <set>
#include <thread>
#include <vector>

namespace tidepool::pool {
namespace {

SlotSet make_set(std::uint64_t slots, SlotSet::Initially initially, SlotSet::Order order) {
  auto set = SlotSet::create(slots, initially, order);
  EXPECT_TRUE(set.has_value());
  return std::move(*set);
}

class SlotSetTest : public ::testing::TestWithParam<SlotSet::Initially> {
 protected:
  // A full set, made either way.
  SlotSet full(std::uint64_t slots, SlotSet::Order order = SlotSet::Order::kSpread) {
    SlotSet set = make_set(slots, GetParam(), order);
    if (GetParam() == SlotSet::Initially::kEmpty) set.give({0, slots});
    return set;
  }
};

TEST_P(SlotSetTest, HandsOutEverySlotOnceAndThenNothing) {
  for (const std::uint64_t slots : {1u, 63u, 64u, 65u, 4096u, 4100u, 10000u}) {
    SlotSet set = full(slots);
    std::set<std::uint64_t> seen;
    for (SlotRun run = set.take(7); run.count != 0; run = set.take(7)) {
      ASSERT_LE(run.count, 7u);
      for (std::uint64_t slot = run.first; slot < run.end(); ++slot) ASSERT_TRUE(seen.insert(slot).second);
    }
    EXPECT_EQ(seen.size(), slots);
    EXPECT_EQ(*seen.rbegin(), slots - 1);
    EXPECT_EQ(set.count(), 0u);
  }
}

TEST_P(SlotSetTest, GivesAdjacentSlotsWhileThereAreAny) {
  SlotSet set = full(1024);
  const SlotRun first = set.take(64);
  const SlotRun second = set.take(64);
  EXPECT_EQ(first.count, 64u);
  EXPECT_EQ(second.first, first.end());
}

TEST_P(SlotSetTest, PrefersARunThatFitsOverASmallerOneBeforeIt) {
  SlotSet set = full(64);
  ASSERT_EQ(set.take(64).count, 64u);
  set.give({2, 1});
  set.give({10, 5});
  const SlotRun run = set.take(4);
  EXPECT_EQ(run.first, 10u);
  EXPECT_EQ(run.count, 4u);
}

TEST_P(SlotSetTest, StaysWithinItsBound) {
  SlotSet set = full(4096);
  set.set_bound(128);
  std::uint64_t taken = 0;
  for (SlotRun run = set.take(64); run.count != 0; run = set.take(64)) {
    EXPECT_LE(run.end(), 128u);
    taken += run.count;
  }
  EXPECT_EQ(taken, 128u);
  set.set_bound(4096);
  EXPECT_EQ(set.take(1).count, 1u);
}

TEST_P(SlotSetTest, ReusesTheLowestSlotWhenAskedTo) {
  SlotSet set = full(5000, SlotSet::Order::kLowest);
  for (int i = 0; i < 3000; ++i) ASSERT_EQ(set.take(1).first, static_cast<std::uint64_t>(i));
  set.give({77, 1});
  set.give({1500, 1});
  EXPECT_EQ(set.take(1).first, 77u);
  EXPECT_EQ(set.take(1).first, 1500u);
  EXPECT_EQ(set.take(1).first, 3000u);
}

TEST_P(SlotSetTest, NeverGivesASlotToTwoThreads) {
  constexpr std::uint64_t kSlots = 700;  // scarce, so that threads meet
  constexpr int kThreads = 4;
  SlotSet set = full(kSlots);
  std::vector<std::atomic<int>> owners(kSlots);
  std::atomic<int> doubly_owned{0};
  std::vector<std::jthread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(static_cast<unsigned>(t));
      std::vector<SlotRun> mine;
      const auto give_last = [&] {
        const SlotRun run = mine.back();
        mine.pop_back();
        for (std::uint64_t slot = run.first; slot < run.end(); ++slot) --owners[slot];
        set.give(run);
      };
      for (int i = 0; i < 20000; ++i) {
        if (random() % 2 == 0) {
          const SlotRun run = set.take(1 + random() % 20);
          for (std::uint64_t slot = run.first; slot < run.end(); ++slot)
            if (owners[slot].fetch_add(1) != 0) ++doubly_owned;
          if (run.count != 0) mine.push_back(run);
        } else if (!mine.empty()) {
          give_last();
        }
      }
      while (!mine.empty()) give_last();
    });
  }
  threads.clear();
  EXPECT_EQ(doubly_owned, 0);
  std::uint64_t left = 0;
  for (SlotRun run = set.take(64); run.count != 0; run = set.take(64)) left += run.count;
  EXPECT_EQ(left, kSlots);
}

INSTANTIATE_TEST_SUITE_P(BothStarts, SlotSetTest,
                         ::testing::Values(SlotSet::Initially::kEmpty, SlotSet::Initially::kFull));

TEST(SlotSet, TakesOneByName) {
  SlotSet set = make_set(200, SlotSet::Initially::kFull, SlotSet::Order::kSpread);
  EXPECT_TRUE(set.take_one(130));
  EXPECT_FALSE(set.take_one(130));
  EXPECT_EQ(set.count(), 199u);
}

}  // namespace
}  // namespace tidepool::pool
