// Goal: fetching ahead goes on as long as it pays, and no longer.
#include "daemon/pager/prefetch_tuner.h"

#include <gtest/gtest.h>

#include <set>

namespace tidepool::daemon {
namespace {

using namespace std::chrono_literals;

// A load of streams: each fault gives advice, and the pages up to `length` from there are used.
struct Streams {
  PrefetchTuner tuner;
  MonoTime now{10s};
  std::uint64_t page = 1000;

  void one(unsigned length, Nanoseconds apart = 20ms) {
    const auto drawn = tuner.draw(tuner.advice(), now);
    for (unsigned i = 0; i < drawn.count; ++i) tuner.watch(1, page + drawn.distance[i], drawn.distance[i], now);
    for (unsigned d = 1; d <= length; ++d) tuner.used(1, page + d);
    page += 10000;
    now = now + apart;
    while (const auto control = tuner.expired(now)) tuner.settle(*control, PrefetchTuner::Fate::kUnused);
  }
  void many(unsigned count, unsigned length) {
    for (unsigned i = 0; i < count; ++i) one(length);
  }
};

TEST(PrefetchTuner, GoesFarWhereStreamsAreLong) {
  Streams load;
  load.many(3000, 300);
  EXPECT_EQ(load.tuner.window(), 256u);
  EXPECT_EQ(load.tuner.settled_unused(), 0u);
}

TEST(PrefetchTuner, EndsWhereStreamsEnd) {
  Streams load;
  load.many(3000, 64);
  EXPECT_EQ(load.tuner.window(), 64u);
  load.many(3000, 30);
  EXPECT_EQ(load.tuner.window(), 32u);
}

TEST(PrefetchTuner, StopsWhereNothingIsUsed) {
  Streams load;
  load.many(2000, 0);
  EXPECT_EQ(load.tuner.window(), 0u);
  EXPECT_EQ(load.tuner.settled_used(), 0u);
  EXPECT_EQ(load.tuner.advice(), PrefetchTuner::kNearest) << "advice is still to be checked";
}

TEST(PrefetchTuner, BeginsAgainWhenTheLoadChanges) {
  Streams load;
  load.many(2000, 0);
  ASSERT_EQ(load.tuner.window(), 0u);
  load.many(200, 300);
  EXPECT_GE(load.tuner.window(), 16u);
  load.many(3000, 300);
  EXPECT_EQ(load.tuner.window(), 256u);
  load.many(3000, 0);
  EXPECT_EQ(load.tuner.window(), 0u);
}

TEST(PrefetchTuner, LeavesFewPagesOutOnceItKnows) {
  Streams load;
  load.many(3000, 300);
  const std::uint64_t before = load.tuner.settled_used();
  load.many(1000, 300);  // in 20 s
  EXPECT_LE(load.tuner.settled_used() - before, 20s / 50ms);
  EXPECT_GT(load.tuner.settled_used(), before) << "what it knows must not grow old";
}

TEST(PrefetchTuner, WeighsWhatAFaultCosts) {
  const auto window_at = [](Nanoseconds fault, Nanoseconds copy) {
    Streams load;
    for (int i = 0; i < 2000; ++i) {
      load.tuner.fault_took(fault);
      load.tuner.copies_took(copy, 1);
    }
    // One stream of four is one.
    for (unsigned i = 0; i < 4000; ++i) load.one(i % 4 == 0 ? 300 : 0);
    return load.tuner.window();
  };
  EXPECT_EQ(window_at(6us, 3us), 0u);
  EXPECT_EQ(window_at(200us, 3us), 256u);
}

TEST(PrefetchTuner, GoesOnWhereAllIsUsedHoweverDearTheCopy) {
  Streams load;
  for (int i = 0; i < 5000; ++i) {
    load.tuner.fault_took(5us);
    load.tuner.copies_took(50us, 1);
  }
  load.many(3000, 300);
  EXPECT_EQ(load.tuner.window(), 256u);
}

TEST(PrefetchTuner, DoesNotTakeALostCpuForACost) {
  Streams load;
  const double before = load.tuner.break_even();
  load.tuner.copies_took(100ms, 16);
  EXPECT_LT(load.tuner.break_even(), 1.1 * before);
}

TEST(PrefetchTuner, WhatNobodyKnowsSaysNothing) {
  PrefetchTuner tuner;
  MonoTime now{10s};
  for (unsigned i = 0; i < 1000; ++i) {
    tuner.watch(1, i, 1, now);
    now = now + PrefetchTuner::kHorizon;
    while (const auto control = tuner.expired(now)) tuner.settle(*control, PrefetchTuner::Fate::kUnknown);
  }
  EXPECT_EQ(tuner.window(), 32u);
  EXPECT_EQ(tuner.settled_used() + tuner.settled_unused(), 0u);
}

TEST(PrefetchTuner, HoldsNoMoreThanItsBound) {
  PrefetchTuner tuner;
  const MonoTime now{10s};
  for (unsigned i = 0; i < 1000; ++i) tuner.watch(i % 3, i, i % 400, now);
  std::size_t expired = 0;
  while (tuner.expired(now + PrefetchTuner::kHorizon)) ++expired;
  EXPECT_EQ(expired, PrefetchTuner::kMostWatched);
  EXPECT_FALSE(tuner.used(0, 0));
}

TEST(PrefetchTuner, TellsObjectsApart) {
  PrefetchTuner tuner;
  tuner.watch(1, 7, 1, MonoTime{10s});
  EXPECT_FALSE(tuner.is_control(2, 7));
  EXPECT_FALSE(tuner.used(2, 7));
  EXPECT_TRUE(tuner.is_control(1, 7));
  EXPECT_TRUE(tuner.used(1, 7));
  EXPECT_FALSE(tuner.is_control(1, 7));
}

TEST(PrefetchTuner, DrawsWithinTheAdviceAndOneBandBehindItsWindow) {
  PrefetchTuner tuner;
  std::set<unsigned> seen;
  for (unsigned i = 0; i < 1000; ++i) {
    const auto drawn = tuner.draw(32, MonoTime{10s} + i * 100ms);
    for (unsigned k = 0; k < drawn.count; ++k) seen.insert(drawn.distance[k]);
  }
  ASSERT_FALSE(seen.empty());
  EXPECT_EQ(*seen.begin(), 1u);
  EXPECT_EQ(*seen.rbegin(), 64u);
  EXPECT_EQ(tuner.draw(0, MonoTime{1000s}).count, 0u);
}

}  // namespace
}  // namespace tidepool::daemon
