// Idle page tracking against counted accesses, in the VM rig, whose kernel has it.
#include <gtest/gtest.h>

#include <cerrno>
#include <cstdlib>

#include "telemetry/hotness/idle_page_tracker.h"
#include "tests/support/watched_load.h"

namespace tidepool::telemetry {
namespace {

using test::WatchedLoad;
using test::WatchRequest;

class IdlePageVm : public testing::Test {
 protected:
  void SetUp() override {
    if (std::getenv("TIDEPOOL_VM") == nullptr) GTEST_SKIP() << "runs in the VM rig: tests/vm/run COMMAND";
  }
  // The emulated processor is some twenty times slower than a real one: its share is larger for that.
  WatchRequest request_ = {.duration = std::chrono::seconds(12), .cpu_share = 0.1, .enough_samples = 1200};
  const SystemClock clock_;
  const ThreadCpuClock cpu_;
  const kernel::KernelRoots roots_;
};

constexpr IdlePageConfig kQuick{.windows = {.shortest = std::chrono::milliseconds(250), .doublings = 4},
                                .pass = std::chrono::seconds(5)};

void expect_true(const test::WatchResult& result, const WatchRequest& request) {
  EXPECT_TRUE(result.info.usable) << result.info.why_not;
  EXPECT_EQ(result.info.self_checks_failed, 0u);
  EXPECT_GE(result.accuracy.precision, 0.9);
  EXPECT_GE(result.accuracy.recall, 0.9);
  // A second's worth is given in advance, and what was begun is finished.
  const double seconds = static_cast<double>(request.duration.count());
  EXPECT_LE(result.cpu_share, request.cpu_share * (1 + 1 / seconds) + 0.005);
  EXPECT_EQ(result.unseen_regions, 0u);
}

TEST_F(IdlePageVm, FindsTheHottestFifthOfAZipf) {
  WatchedLoad load({"--size", "256MiB", "--pattern", "zipf", "--rate", "6000", "--verify", "header", "--huge", "off"});
  IdlePageTracker tracker(kQuick, roots_, clock_, cpu_);
  expect_true(load.watch(tracker, "zipf 0.99, private", request_), request_);
}

TEST_F(IdlePageVm, FindsAHotSetInSharedMemory) {
  WatchedLoad load({"--size", "256MiB", "--memory", "shared", "--pattern", "phase-shift", "--hot", "0.2", "--phase",
                    "1000", "--rate", "3000", "--verify", "header"});
  IdlePageTracker tracker(kQuick, roots_, clock_, cpu_);
  expect_true(load.watch(tracker, "hot fifth, shared", request_), request_);
}

TEST_F(IdlePageVm, FindsHotHugePages) {
  WatchedLoad load({"--size", "256MiB", "--pattern", "phase-shift", "--hot", "0.2", "--phase", "1000", "--rate", "100",
                    "--verify", "header", "--huge", "on"});
  IdlePageTracker tracker(kQuick, roots_, clock_, cpu_);
  expect_true(load.watch(tracker, "hot fifth, 2 MiB pages", request_), request_);
}

TEST_F(IdlePageVm, SaysThatReadsAreSeen) {
  WatchedLoad load({"--size", "64MiB", "--pattern", "phase-shift", "--hot", "0.19", "--phase", "1000", "--rate", "3000",
                    "--read-ratio", "1", "--verify", "header", "--huge", "off"});
  IdlePageTracker tracker(kQuick, roots_, clock_, cpu_);
  request_.duration = std::chrono::seconds(6);
  request_.enough_samples = 300;
  expect_true(load.watch(tracker, "reads only", request_), request_);
}

// Memory seldom ends with a word of the bitmap: the frames of the last one are neither an error nor a reason to stop.
TEST_F(IdlePageVm, TakesTheLastFramesOfMemoryForUntrackable) {
  const auto bitmap = kernel::PageIdleBitmap::open(roots_);
  ASSERT_TRUE(bitmap) << bitmap.error().message();
  std::size_t short_ones = 0;
  for (std::uint64_t frame = 0; frame < (2ull << 30) / kPageSize; frame += 64) {
    const std::uint64_t all = ~0ull;
    const auto marked = bitmap->mark(kernel::IdleWord::of(frame), {&all, 1});
    if (!marked) {
      EXPECT_EQ(marked.error().code.value(), ENXIO) << frame;
      break;
    }
    short_ones += *marked == 0 ? 1 : 0;
    std::uint8_t idle = 0;
    ASSERT_TRUE(bitmap->read_frames({&frame, 1}, {&idle, 1}));
    EXPECT_EQ(idle == kernel::PageIdleBitmap::kBeyondMemory, *marked == 0) << frame;
  }
  EXPECT_LE(short_ones, 1u);
}

// A process that ends under the tracker's eyes is no error of the tracker's.
TEST_F(IdlePageVm, OutlivesTheProcess) {
  IdlePageTracker tracker(kQuick, roots_, clock_, cpu_);
  tracker.set_cpu_share(0.5);
  test::RateEstimate estimate(PageCount{16384});
  {
    WatchedLoad load({"--size", "64MiB", "--rate", "1000"});
    tracker.set_memory(load.memory());
    tracker.round(estimate);
  }
  for (int i = 0; i < 3; ++i) tracker.round(estimate);
  EXPECT_TRUE(tracker.info().usable) << tracker.info().why_not;
}

}  // namespace
}  // namespace tidepool::telemetry
