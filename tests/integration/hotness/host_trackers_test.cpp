// Trackers that need no special kernel, against counted accesses of a running workload.
#include <gtest/gtest.h>
#include <unistd.h>

#include "daemon/vm/foothold.h"
#include "telemetry/hotness/referenced_tracker.h"
#include "telemetry/hotness/write_tracker.h"
#include "tests/support/watched_load.h"

namespace tidepool::telemetry {
namespace {

using test::WatchedLoad;
using test::WatchRequest;

class HostTrackers : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "placing descriptors in another process is for root";
  }

  // Places two userfaultfds in the workload and divides its memory with them. Skips where the kernel cannot.
  void divide(WatchedLoad& load) {
    daemon::FootholdRequest request;
    request.id = load.memory().front()->spaces.front().process;
    request.userfaultfds = 2;
    request.helper.program = std::string(TIDEPOOL_BINARY_DIR) + "/bin/tidepool-adopt";
    auto foothold = daemon::take_foothold(request);
    ASSERT_TRUE(foothold) << foothold.error().message();
    auto divided = DividedMappings::divide(kernel::Userfaultfd{std::move(foothold->userfaultfd)},
                                           kernel::Userfaultfd{std::move(foothold->second_userfaultfd)}, {load.range()},
                                           Bytes{kHugePageSize});
    if (!divided && divided.error().code == std::errc::not_supported) GTEST_SKIP() << divided.error().message();
    ASSERT_TRUE(divided) << divided.error().message();
    load.set_divided(std::make_shared<DividedMappings>(std::move(*divided)));
  }

  WatchRequest request_ = {.duration = std::chrono::seconds(10), .every = std::chrono::milliseconds(100)};
  const SystemClock clock_{};
  const ThreadCpuClock cpu_{};
  const kernel::KernelRoots roots_{};
};

void expect_true(const test::WatchResult& result, const WatchRequest& request) {
  EXPECT_TRUE(result.info.usable) << result.info.why_not;
  EXPECT_EQ(result.info.self_checks_failed, 0u);
  EXPECT_GE(result.accuracy.precision, 0.85);
  EXPECT_GE(result.accuracy.recall, 0.85);
  // What has been begun is finished, on an overdraft that is paid back later; a second is given in advance.
  const double seconds = static_cast<double>(request.duration.count());
  EXPECT_LE(result.cpu_share, request.cpu_share * (1 + 1 / seconds) + 0.02);
  EXPECT_EQ(result.unseen_regions, 0u);
}

TEST_F(HostTrackers, SeeReferencedBytesOfPrivateMemory) {
  WatchedLoad load({"--size", "256MiB", "--pattern", "zipf", "--rate", "6000", "--verify", "header", "--huge", "off"});
  divide(load);
  if (IsSkipped() || HasFatalFailure()) return;
  ReferencedTracker tracker({}, roots_, clock_);
  expect_true(load.watch(tracker, "zipf 0.99, private", request_), request_);
}

TEST_F(HostTrackers, SeeReferencedBytesOfSharedMemory) {
  WatchedLoad load({"--size", "256MiB", "--memory", "shared", "--pattern", "phase-shift", "--hot", "0.2", "--phase",
                    "1000", "--rate", "3000", "--read-ratio", "1", "--verify", "header"});
  divide(load);
  if (IsSkipped() || HasFatalFailure()) return;
  ReferencedTracker tracker({}, roots_, clock_);
  expect_true(load.watch(tracker, "hot fifth, shared, reads", request_), request_);
}

TEST_F(HostTrackers, SeeWrites) {
  WatchedLoad load({"--size", "256MiB", "--pattern", "zipf", "--rate", "6000", "--read-ratio", "0.5", "--verify",
                    "header", "--huge", "off"});
  divide(load);
  if (IsSkipped() || HasFatalFailure()) return;
  WriteTracker tracker({.shortest = std::chrono::milliseconds(250), .doublings = 4}, roots_, clock_, cpu_);
  request_.what = test::Counted::kWrites;
  expect_true(load.watch(tracker, "zipf 0.99, private, writes", request_), request_);
}

TEST_F(HostTrackers, SeeNothingOfMemoryThatIsNotDivided) {
  WatchedLoad load({"--size", "16MiB", "--rate", "100"});
  ReferencedTracker referenced({}, roots_, clock_);
  WriteTracker writes({}, roots_, clock_, cpu_);
  EXPECT_EQ(referenced.covers(load.memory()), Coverage::kNone);
  EXPECT_EQ(writes.covers(load.memory()), Coverage::kNone);
}

TEST_F(HostTrackers, LetMappingsGrowTogetherAgain) {
  WatchedLoad load({"--size", "64MiB", "--rate", "1000", "--huge", "off"});
  const auto mappings = [&] {
    std::size_t count = 0;
    const auto process = kernel::Process::open(roots_, load.pid());
    const auto maps = process->maps();
    for (const auto& map : *maps) count += load.range().overlaps(map.range) ? 1 : 0;
    return count;
  };
  const std::size_t before = mappings();
  divide(load);
  if (IsSkipped() || HasFatalFailure()) return;
  EXPECT_GE(mappings(), 32u);
  load.set_divided(nullptr);
  EXPECT_EQ(mappings(), before);
}

}  // namespace
}  // namespace tidepool::telemetry
