// Whole pools under every kind of disturbance, from seeds. One schedule again: TIDEPOOL_POOL_SEED=N; for longer, with
// other seeds: TIDEPOOL_STRESS_SECONDS.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>

#include "tests/unit/pool/controller/simulated_pool.h"

namespace tidepool::pool::controller {
namespace {

constexpr int kSteps = 500;
// Sanitizers look at every access, and are as slow.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::uint64_t kSchedules = 100;
#else
constexpr std::uint64_t kSchedules = 1000;
#endif

struct Done {
  std::uint64_t writes = 0;
  std::uint64_t loads = 0;
  std::uint64_t grants = 0;
  std::uint64_t copies = 0;
};

PoolShape shape_of(std::uint64_t seed) {
  PoolShape shape;
  shape.replicas = 1 + static_cast<unsigned>(seed % 3);
  shape.domains = shape.replicas + static_cast<unsigned>(seed / 3 % 3);
  shape.servers = shape.domains + static_cast<unsigned>(seed / 9 % 3);
  shape.hosts = 2 + static_cast<unsigned>(seed / 27 % 2);
  return shape;
}

// What is wrong after this schedule.
std::string run(std::uint64_t seed, Done& done) {
  SimulatedPool pool(shape_of(seed), seed);
  for (int step = 0; step < kSteps; ++step) {
    pool.step();
    if (!pool.wrong().empty()) return pool.wrong() + ", step " + std::to_string(step) + pool.told();
  }
  pool.settle();
  done.writes += pool.writes();
  done.loads += pool.loads();
  done.grants += pool.grants();
  done.copies += pool.copies();
  return pool.wrong().empty() ? std::string{} : pool.wrong() + pool.told();
}

TEST(PoolSimulation, LeasesNothingTwiceAndFreesNothingInUse) {
  if (const char* only = std::getenv("TIDEPOOL_POOL_SEED"); only != nullptr) {
    Done done;
    EXPECT_EQ(run(std::strtoull(only, nullptr, 10), done), "");
    return;
  }
  Done done;
  for (std::uint64_t seed = 1; seed <= kSchedules; ++seed)
    ASSERT_EQ(run(seed, done), "") << "TIDEPOOL_POOL_SEED=" << seed;
  if (const char* const seconds = std::getenv("TIDEPOOL_STRESS_SECONDS"); seconds != nullptr) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(std::atoi(seconds));
    std::uint64_t seed =
        1'000'000 + static_cast<std::uint64_t>(std::chrono::system_clock::now().time_since_epoch().count());
    for (; std::chrono::steady_clock::now() < end; ++seed)
      ASSERT_EQ(run(seed, done), "") << "TIDEPOOL_POOL_SEED=" << seed;
  }
  // It is about something.
  EXPECT_GT(done.grants, 5 * kSchedules);
  EXPECT_GT(done.writes, 5 * kSchedules);
  EXPECT_GT(done.copies, kSchedules / 4);
  EXPECT_GT(done.loads, 4 * kSchedules);
}

}  // namespace
}  // namespace tidepool::pool::controller
