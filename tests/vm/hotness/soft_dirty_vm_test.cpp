// Soft-dirty bits against counted writes, in the VM rig, whose kernel keeps them.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <optional>
#include <utility>

#include "bench/telemetry/managed_load.h"
#include "telemetry/hotness/soft_dirty_tracker.h"
#include "tests/support/watched_load.h"

namespace tidepool::telemetry {
namespace {

using test::WatchedLoad;
using test::WatchRequest;

class SoftDirtyVm : public testing::Test {
 protected:
  void SetUp() override {
    if (std::getenv("TIDEPOOL_VM") == nullptr) GTEST_SKIP() << "runs in the VM rig: tests/vm/run COMMAND";
  }
  void expect_true(const test::WatchResult& result) {
    EXPECT_TRUE(result.info.usable) << result.info.why_not;
    EXPECT_EQ(result.info.self_checks_failed, 0u);
    EXPECT_GE(result.accuracy.precision, 0.9);
    EXPECT_GE(result.accuracy.recall, 0.9);
    // A second's worth is given in advance, and what was begun is finished.
    const double seconds = static_cast<double>(request_.duration.count());
    EXPECT_LE(result.cpu_share, request_.cpu_share * (1 + 1 / seconds) + 0.02);
    EXPECT_EQ(result.unseen_regions, 0u);
  }

  // The emulated processor is some twenty times slower than a real one: its share and its pauses are larger for that.
  WatchRequest request_ = {
      .duration = std::chrono::seconds(15), .cpu_share = 0.2, .enough_samples = 4000, .what = test::Counted::kWrites};
  const SoftDirtyConfig config_ = {.allowed = true,
                                   .windows = {.doublings = 2},
                                   .longest_stall = std::chrono::seconds(2),
                                   .self_check = std::chrono::seconds(2)};
  const SystemClock clock_{};
  const ThreadCpuClock cpu_{};
  const kernel::KernelRoots roots_{};
};

TEST_F(SoftDirtyVm, FindsTheMostWrittenFifthOfPrivateMemory) {
  WatchedLoad load({"--size", "256MiB", "--pattern", "zipf", "--rate", "6000", "--read-ratio", "0.5", "--verify",
                    "header", "--huge", "off"});
  SoftDirtyTracker tracker(config_, roots_, clock_, cpu_);
  expect_true(load.watch(tracker, "zipf 0.99, private, writes", request_));
}

TEST_F(SoftDirtyVm, FindsTheMostWrittenFifthOfSharedMemory) {
  WatchedLoad load({"--size", "256MiB", "--memory", "shared", "--pattern", "phase-shift", "--hot", "0.2", "--phase",
                    "1000", "--rate", "3000", "--read-ratio", "0.5", "--verify", "header"});
  SoftDirtyTracker tracker(config_, roots_, clock_, cpu_);
  expect_true(load.watch(tracker, "hot fifth, shared, writes", request_));
}

// As on a kernel that cannot track writes for a userfaultfd: beside the pager's own write protection.
TEST_F(SoftDirtyVm, SeesWritesToMemoryInThePagersCare) {
  WatchedLoad load({"--size", "256MiB", "--memory", "memfd", "--pattern", "phase-shift", "--hot", "0.2", "--phase",
                    "1000", "--rate", "1500", "--read-ratio", "0.5"});
  std::optional<bench::ManagedLoad> managed(std::in_place, load, true);
  SoftDirtyConfig config = config_;
  config.managed = true;
  SoftDirtyTracker tracker(config, roots_, clock_, cpu_);
  EXPECT_EQ(tracker.covers(load.memory()), Coverage::kWritesShared);
  EXPECT_EQ(SoftDirtyTracker(config_, roots_, clock_, cpu_).covers(load.memory()), Coverage::kNone);
  expect_true(load.watch(tracker, "hot fifth, the pager's", request_));
  // Pages that leave and come home again, while their bits are cleared over and over.
  managed->demote_all();
  tracker.set_memory(load.memory());
  test::RateEstimate estimate(PageCount{256ull << 8});
  for (int i = 0; i < 20; ++i) {
    tracker.round(estimate);
    ::usleep(250'000);
  }
  EXPECT_EQ(estimate.malformed(), 0u);
  EXPECT_TRUE(tracker.info().usable) << tracker.info().why_not;
  managed.reset();
  EXPECT_EQ(load.end(), 0) << "the load verifies every byte that it reads";
}

TEST_F(SoftDirtyVm, SeesNoReads) {
  WatchedLoad load({"--size", "64MiB", "--pattern", "uniform", "--rate", "2000", "--read-ratio", "1", "--verify",
                    "header", "--huge", "off"});
  SoftDirtyTracker tracker(config_, roots_, clock_, cpu_);
  tracker.set_cpu_share(0.5);
  tracker.set_memory(load.memory());
  struct Writes final : SampleSink {
    void add(const policy::AccessSample& sample) override { looks += sample.watched, found += sample.used; }
    std::uint64_t looks = 0;
    std::uint64_t found = 0;
  } writes;
  for (int i = 0; i < 240 && writes.looks < 32768; ++i) {
    tracker.round(writes);
    ::usleep(250'000);
  }
  EXPECT_GE(writes.looks, 32768u);
  EXPECT_EQ(writes.found, 0u);
}

// A process that ends under the tracker's eyes is no error of the tracker's.
TEST_F(SoftDirtyVm, OutlivesTheProcess) {
  SoftDirtyTracker tracker(config_, roots_, clock_, cpu_);
  tracker.set_cpu_share(0.5);
  test::RateEstimate estimate(PageCount{16384});
  {
    WatchedLoad load({"--size", "64MiB", "--rate", "1000"});
    tracker.set_memory(load.memory());
    tracker.round(estimate);
  }
  for (int i = 0; i < 5; ++i) {
    ::usleep(300'000);
    tracker.round(estimate);
  }
  EXPECT_TRUE(tracker.info().usable) << tracker.info().why_not;
}

}  // namespace
}  // namespace tidepool::telemetry
