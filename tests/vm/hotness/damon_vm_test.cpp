// DAMON against counted accesses, in the VM rig, whose DAMON is nobody else's.
#include <gtest/gtest.h>

#include <cstdlib>

#include "kmod-interfaces/proc_text.h"
#include "telemetry/hotness/damon_tracker.h"
#include "tests/support/watched_load.h"

namespace tidepool::telemetry {
namespace {

using test::WatchedLoad;
using test::WatchRequest;

const std::string kKdamonds = "/sys/kernel/mm/damon/admin/kdamonds/nr_kdamonds";

class DamonVm : public testing::Test {
 protected:
  void SetUp() override {
    if (std::getenv("TIDEPOOL_VM") == nullptr) GTEST_SKIP() << "runs in the VM rig: tests/vm/run COMMAND";
  }
  const SystemClock clock_;
  const kernel::KernelRoots roots_;
};

TEST_F(DamonVm, FindsAHotSet) {
  WatchedLoad load({"--size", "256MiB", "--memory", "shared", "--pattern", "phase-shift", "--hot", "0.2", "--phase",
                    "1000", "--rate", "12000", "--verify", "header"});
  DamonTracker tracker({}, roots_, clock_);
  const WatchRequest request{.duration = std::chrono::seconds(20), .cpu_share = 0.1, .enough_samples = 100};
  const auto result = load.watch(tracker, "hot fifth, shared", request);
  EXPECT_TRUE(result.info.usable) << result.info.why_not;
  EXPECT_EQ(result.info.self_checks_failed, 0u);
  EXPECT_GT(result.samples, 0u);
  EXPECT_GE(result.accuracy.precision, 0.7);
  EXPECT_GE(result.accuracy.recall, 0.7);
  EXPECT_LE(result.cpu_share, request.cpu_share);
  EXPECT_EQ(kernel::read_number(kKdamonds), 0u) << "what it made is still there";
}

TEST_F(DamonVm, LeavesAForeignKdamondAlone) {
  ASSERT_TRUE(kernel::write_value(kKdamonds, "1"));
  ASSERT_TRUE(kernel::write_value("/sys/kernel/mm/damon/admin/kdamonds/0/contexts/nr_contexts", "1"));
  {
    WatchedLoad load({"--size", "16MiB", "--rate", "1000"});
    DamonTracker tracker({}, roots_, clock_);
    EXPECT_FALSE(tracker.info().usable);
    EXPECT_NE(tracker.info().why_not.find("taken"), std::string::npos) << tracker.info().why_not;
    test::RateEstimate ignored(PageCount{4096});
    tracker.set_cpu_share(0.1);
    tracker.set_memory(load.memory());
    tracker.round(ignored);
    EXPECT_TRUE(kernel::damon_unavailable(roots_).has_value());
  }
  EXPECT_EQ(kernel::read_number(kKdamonds), 1u);
  EXPECT_EQ(kernel::read_number("/sys/kernel/mm/damon/admin/kdamonds/0/contexts/nr_contexts"), 1u);
  ASSERT_TRUE(kernel::write_value(kKdamonds, "0"));
}

TEST_F(DamonVm, ReadsPhysicalMemory) {
  kernel::DamonSettings settings;
  settings.space = kernel::DamonSpace::kPhysical;
  settings.intervals = {std::chrono::milliseconds(5), std::chrono::milliseconds(100)};
  settings.targets = {{0, {{64ull << 20, 512ull << 20}}}};
  auto session = kernel::DamonSession::start(roots_, settings);
  ASSERT_TRUE(session) << session.error().message();
  EXPECT_TRUE(session->running());
  ASSERT_TRUE(session->update());
  const auto regions = session->regions(0);
  ASSERT_TRUE(regions) << regions.error().message();
  EXPECT_FALSE(regions->empty());
  for (const auto& region : *regions) EXPECT_TRUE((AddressRange{64ull << 20, 512ull << 20}.contains(region.range)));
  ASSERT_TRUE(session->set_intervals({std::chrono::milliseconds(10), std::chrono::milliseconds(200)}));
  EXPECT_TRUE(session->cpu().has_value());
  session->stop();
  EXPECT_EQ(kernel::read_number(kKdamonds), 0u);
}

TEST_F(DamonVm, SurvivesTheEndOfTheProcess) {
  DamonTracker tracker({.first_sample = std::chrono::milliseconds(50)}, roots_, clock_);
  tracker.set_cpu_share(0.5);
  test::RateEstimate ignored(PageCount{4096});
  {
    WatchedLoad load({"--size", "16MiB", "--rate", "1000"});
    tracker.set_memory(load.memory());
    tracker.round(ignored);
    EXPECT_EQ(kernel::read_number(kKdamonds), 1u);
  }
  tracker.set_memory({});
  EXPECT_EQ(kernel::read_number(kKdamonds), 0u);
  EXPECT_TRUE(tracker.info().usable) << tracker.info().why_not;
}

}  // namespace
}  // namespace tidepool::telemetry
