#include "daemon/agent/watchdog.h"

#include <gtest/gtest.h>

namespace tidepool::daemon {
namespace {

using namespace std::chrono_literals;

TEST(Watchdog, IsFedAsLongAsFaultLoopsGoRoundAndKeepsSilentWhenTheyDoNot) {
  ManualClock clock;
  std::uint64_t pulse = 7;
  int fed = 0;
  Watchdog watchdog([&] { return pulse; }, [&] { ++fed; }, clock);
  watchdog.look();
  EXPECT_EQ(fed, 0) << "nothing has grown yet";
  for (int round = 1; round <= 5; ++round) {
    clock.advance(1s);
    ++pulse;
    watchdog.look();
    EXPECT_EQ(fed, round);
    EXPECT_EQ(watchdog.silence(), 0s);
  }
  for (int round = 1; round <= 40; ++round) {
    clock.advance(1s);
    watchdog.look();
  }
  EXPECT_EQ(fed, 5);
  EXPECT_EQ(watchdog.silence(), 40s);
  ++pulse;
  watchdog.look();
  EXPECT_EQ(fed, 6);
  EXPECT_EQ(watchdog.silence(), 0s);
}

TEST(Watchdog, LooksByItself) {
  const SystemClock clock;
  std::atomic<std::uint64_t> pulse{0};
  std::atomic<int> fed{0};
  Watchdog watchdog([&] { return ++pulse; }, [&] { ++fed; }, clock);
  watchdog.start();
  while (fed < 2) std::this_thread::sleep_for(10ms);
  watchdog.stop();
  const int then = fed;
  std::this_thread::sleep_for(Watchdog::kPeriod + 100ms);
  EXPECT_EQ(fed, then);
}

}  // namespace
}  // namespace tidepool::daemon
