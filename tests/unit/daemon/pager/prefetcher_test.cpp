// Goal: streams are found, whatever of their way is at home already; noise is not taken for one.
#include "daemon/pager/prefetcher.h"

#include <gtest/gtest.h>

#include <functional>
#include <random>
#include <set>

namespace tidepool::daemon {
namespace {

constexpr unsigned kMost = 256;

struct Walked {
  std::uint64_t faults = 0;
  std::uint64_t ahead = 0;  // pages that were home when they were wanted, because they were fetched ahead
  std::uint64_t wasted = 0;
};

// A reader at `from`, `from + step` and so on: pages for which `far` is true fault unless they were fetched ahead.
Walked walk(Prefetcher& prefetcher, std::uint64_t from, std::int64_t step, unsigned steps,
            const std::function<bool(std::uint64_t)>& far) {
  Walked walked;
  std::set<std::uint64_t> fetched;
  std::uint64_t page = from;
  for (unsigned i = 0; i < steps; ++i, page += static_cast<std::uint64_t>(step)) {
    if (!far(page)) continue;
    if (fetched.erase(page) != 0) {
      ++walked.ahead;
      continue;
    }
    ++walked.faults;
    if (const auto advice = prefetcher.on_fault(page, kMost)) {
      for (unsigned n = 1; n <= advice->pages; ++n) {
        const std::uint64_t next = page + static_cast<std::uint64_t>(advice->stride * static_cast<std::int64_t>(n));
        if (far(next)) fetched.insert(next);
      }
    }
  }
  walked.wasted = fetched.size();
  return walked;
}

bool everywhere(std::uint64_t) {
  return true;
}
// Anything of a page's number that looks like no pattern.
std::uint64_t noise(std::uint64_t page) {
  page *= 0x9e3779b97f4a7c15ull;
  return (page ^ (page >> 29)) * 0xbf58476d1ce4e5b9ull >> 33;
}

TEST(Prefetcher, FetchesAScanAheadInEitherDirection) {
  for (const std::int64_t step : {1, -1}) {
    Prefetcher prefetcher;
    const Walked walked = walk(prefetcher, 1 << 20, step, 20000, everywhere);
    EXPECT_LT(walked.faults, 120u) << step;
    EXPECT_LE(walked.wasted, kMost) << step;
  }
}

TEST(Prefetcher, KeepsToAStride) {
  Prefetcher prefetcher;
  const Walked walked = walk(prefetcher, 1000, 7, 20000, everywhere);
  EXPECT_LT(walked.faults, 120u);
  EXPECT_LE(walked.wasted, kMost);
}

TEST(Prefetcher, FollowsAScanPastPagesThatAreAtHome) {
  for (const std::int64_t step : {1, -1}) {
    Prefetcher prefetcher;
    const Walked walked =
        walk(prefetcher, 1 << 20, step, 20000, [](std::uint64_t page) { return noise(page) % 2 == 0; });
    EXPECT_LT(walked.faults * 10, walked.ahead) << step;
  }
}

TEST(Prefetcher, FollowsAScanFromOneFarStretchToTheNext) {
  Prefetcher prefetcher;
  const Walked walked = walk(prefetcher, 0, 1, 1 << 20, [](std::uint64_t page) { return noise(page / 512) % 3 == 0; });
  EXPECT_LT(walked.faults * 20, walked.ahead);
}

TEST(Prefetcher, LeavesNoiseAlone) {
  Prefetcher prefetcher;
  std::mt19937_64 random(1);
  unsigned advised = 0;
  for (unsigned i = 0; i < 20000; ++i) advised += prefetcher.on_fault(random() % (1 << 20), kMost) ? 1 : 0;
  EXPECT_LT(advised, 20u);
}

TEST(Prefetcher, LearnsNothingFromAFaultThatIsAskedAgain) {
  Prefetcher once, often;
  for (std::uint64_t page = 100; page < 104; ++page) {
    EXPECT_FALSE(once.on_fault(page, kMost));
    for (unsigned i = 0; i < 5; ++i) EXPECT_FALSE(often.on_fault(page, kMost));
  }
  EXPECT_TRUE(once.on_fault(104, kMost));
  EXPECT_TRUE(often.on_fault(104, kMost));
}

TEST(Prefetcher, GoesOnPastASinglePageThatWasNotFetched) {
  Prefetcher prefetcher;
  std::optional<PrefetchAdvice> advice;
  std::uint64_t page = 100;
  for (; !advice; ++page) advice = prefetcher.on_fault(page, kMost);
  EXPECT_FALSE(prefetcher.on_fault(page + 3, kMost)) << "within the window";
  const auto next = prefetcher.on_fault(page + advice->pages, kMost);
  ASSERT_TRUE(next) << "behind it";
  EXPECT_EQ(next->pages, 2 * advice->pages);
}

TEST(Prefetcher, AsksAgainWhereNothingOfTheWindowCame) {
  Prefetcher prefetcher;
  std::optional<PrefetchAdvice> advice;
  std::uint64_t page = 100;
  for (; !advice; ++page) advice = prefetcher.on_fault(page, kMost);
  unsigned faults = 0;
  for (advice.reset(); !advice && faults < kMost; ++page, ++faults) advice = prefetcher.on_fault(page, kMost);
  EXPECT_LT(faults, 8u);
}

TEST(Prefetcher, KeepsToTheBoundThatItIsGiven) {
  Prefetcher prefetcher;
  std::uint64_t page = 0;
  std::optional<PrefetchAdvice> advice;
  for (; !advice; ++page) advice = prefetcher.on_fault(page, 16);
  EXPECT_EQ(advice->pages, 16u);
  unsigned most = 0;
  for (unsigned i = 0; i < 6; ++i) {
    page += advice->pages;
    EXPECT_TRUE(prefetcher.expects(page));
    advice = prefetcher.on_fault(page++, 64);
    ASSERT_TRUE(advice);
    EXPECT_EQ(advice->stride, 1);
    most = std::max(most, advice->pages);
  }
  EXPECT_EQ(most, 64u);
  EXPECT_FALSE(prefetcher.on_fault(page + advice->pages, 0));
}

}  // namespace
}  // namespace tidepool::daemon
