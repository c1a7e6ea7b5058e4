// DAMON's sysfs files, as a tree of plain files: what is written where, what is believed, and what is left alone.
#include "kmod-interfaces/damon_sysfs.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>

#include "kmod-interfaces/proc_text.h"
#include "tests/unit/kmod-interfaces/kernel_tree.h"

namespace tidepool::kernel {
namespace {

const std::string kFolder = "sys/kernel/mm/damon/admin/kdamonds/";
const std::string kContext = kFolder + "0/contexts/0/";

class DamonFiles : public testing::Test {
 protected:
  // As the kernel has them once one kdamond with one context, two targets and two schemes was asked for.
  void SetUp() override {
    tree_.write(kFolder + "nr_kdamonds", "0\n");
    for (const char* file :
         {"0/contexts/nr_contexts", "0/contexts/0/operations", "0/contexts/0/targets/nr_targets",
          "0/contexts/0/schemes/nr_schemes", "0/contexts/0/monitoring_attrs/nr_regions/min",
          "0/contexts/0/monitoring_attrs/nr_regions/max", "0/contexts/0/monitoring_attrs/intervals/sample_us",
          "0/contexts/0/monitoring_attrs/intervals/aggr_us", "0/contexts/0/monitoring_attrs/intervals/update_us"})
      tree_.write(kFolder + file, "0\n");
    tree_.write(kFolder + "0/state", "off\n");
    tree_.write(kFolder + "0/pid", "77\n");
    tree_.write("proc/77/schedstat", "12345678 90 12\n");
    for (const std::string number : {"0", "1"}) {
      const std::string target = kContext + "targets/" + number + "/";
      for (const char* file : {"pid_target", "regions/nr_regions", "regions/0/start", "regions/0/end"})
        tree_.write(target + file, "0\n");
      const std::string scheme = kContext + "schemes/" + number + "/";
      for (const char* file :
           {"action", "access_pattern/sz/max", "access_pattern/nr_accesses/max", "access_pattern/age/max",
            "filters/nr_filters", "filters/0/type", "filters/0/damon_target_idx", "filters/0/matching"})
        tree_.write(scheme + file, "0\n");
      tree_.write(scheme + "tried_regions/total_bytes", "0\n");
    }
    settings_.intervals = {std::chrono::milliseconds(100), std::chrono::seconds(2)};
    settings_.targets = {{4711, {{0x200000, 0x600000}}}, {4712, {{0x800000, 0xa00000}}}};
  }
  std::string value(const std::string& file) { return read_value(tree_.path_of(file)).value_or("(absent)"); }
  void add_region(const std::string& name, const std::string& start, const std::string& end,
                  const std::string& accesses, const std::string& age) {
    const std::string region = kContext + "schemes/0/tried_regions/" + name + "/";
    tree_.write(region + "start", start);
    tree_.write(region + "end", end);
    tree_.write(region + "nr_accesses", accesses);
    tree_.write(region + "age", age);
  }

  KernelTree tree_;
  DamonSettings settings_;
};

TEST_F(DamonFiles, AreSetUpForEveryTargetAndTakenAwayAgain) {
  {
    auto session = DamonSession::start(tree_.roots(), settings_);
    ASSERT_TRUE(session) << session.error().message();
    EXPECT_EQ(value(kFolder + "nr_kdamonds"), "1");
    EXPECT_EQ(value(kContext + "operations"), "fvaddr");
    EXPECT_EQ(value(kContext + "monitoring_attrs/intervals/sample_us"), "100000");
    EXPECT_EQ(value(kContext + "targets/1/pid_target"), "4712");
    EXPECT_EQ(value(kContext + "targets/0/regions/0/end"), std::to_string(0x600000));
    EXPECT_EQ(value(kContext + "schemes/1/action"), "stat");
    EXPECT_EQ(value(kContext + "schemes/1/filters/0/damon_target_idx"), "1");
    EXPECT_EQ(value(kContext + "schemes/1/filters/0/matching"), "N");
    EXPECT_EQ(value(kFolder + "0/state"), "on");
    EXPECT_TRUE(session->running());
    EXPECT_EQ(session->cpu(), Nanoseconds{12345678});
  }
  EXPECT_EQ(value(kFolder + "0/state"), "off");
  EXPECT_EQ(value(kFolder + "nr_kdamonds"), "0");
}

// Changing the number would destroy the other's.
TEST_F(DamonFiles, OfAnotherUserAreNeverWritten) {
  tree_.write(kFolder + "nr_kdamonds", "1\n");
  tree_.write(kFolder + "0/state", "on\n");
  const auto session = DamonSession::start(tree_.roots(), settings_);
  ASSERT_FALSE(session);
  EXPECT_EQ(session.error().code.value(), EBUSY);
  EXPECT_NE(session.error().message().find("taken"), std::string::npos) << session.error().message();
  EXPECT_EQ(value(kFolder + "nr_kdamonds"), "1");
  EXPECT_EQ(value(kFolder + "0/state"), "on");
  EXPECT_EQ(value(kContext + "operations"), "0");
}

TEST_F(DamonFiles, OfAnotherUserWhoCameLaterAreLeftAlone) {
  auto session = DamonSession::start(tree_.roots(), settings_);
  ASSERT_TRUE(session) << session.error().message();
  tree_.write(kFolder + "0/pid", "99\n");
  EXPECT_FALSE(session->running());
  EXPECT_FALSE(session->update());
  session->stop();
  EXPECT_EQ(value(kFolder + "nr_kdamonds"), "1");
  EXPECT_EQ(value(kFolder + "0/state"), "on");
}

TEST_F(DamonFiles, ThatAreAbsentAreSaidToBe) {
  std::filesystem::remove_all(tree_.path_of("sys/kernel/mm/damon"));
  EXPECT_NE(damon_unavailable(tree_.roots())->find("CONFIG_DAMON"), std::string::npos);
  const auto session = DamonSession::start(tree_.roots(), settings_);
  ASSERT_FALSE(session);
  EXPECT_EQ(session.error().code.value(), ENOENT);
}

TEST_F(DamonFiles, ThatMakeNoSenseCountAsTaken) {
  tree_.write(kFolder + "nr_kdamonds", "many\n");
  EXPECT_TRUE(damon_unavailable(tree_.roots()).has_value());
  tree_.write(kFolder + "nr_kdamonds", "");
  EXPECT_TRUE(damon_unavailable(tree_.roots()).has_value());
}

TEST_F(DamonFiles, ThatVanishWhileBeingSetUpLeaveNothingBehind) {
  std::filesystem::remove(tree_.path_of(kContext + "schemes/1/filters/0/matching"));
  EXPECT_FALSE(DamonSession::start(tree_.roots(), settings_));
  EXPECT_EQ(value(kFolder + "nr_kdamonds"), "0");
  EXPECT_EQ(value(kFolder + "0/state"), "off");
}

TEST_F(DamonFiles, GiveRegionsInOrderAndLeaveNonsenseOut) {
  add_region("10", "2097152\n", "4194304\n", "3\n", "7\n");
  add_region("2", "4194304\n", "6291456\n", "20\n", "0\n");
  add_region("3", "6291456\n", "6291456\n", "1\n", "0\n");                  // empty
  add_region("4", "2097153\n", "4194304\n", "1\n", "0\n");                  // between pages
  add_region("5", "2097152\n", "4194304\n", "21\n", "0\n");                 // more than it looked
  add_region("6", "2097152\n", "18446744073709551616000\n", "1\n", "0\n");  // no number that fits
  add_region("7", "20971", "", "1\n", "0\n");                               // cut short
  add_region("9", "3145728\n", "8388608\n", "1\n", "0\n");                  // overlaps two others
  tree_.make_directory(kContext + "schemes/0/tried_regions/8");             // vanished
  auto session = DamonSession::start(tree_.roots(), settings_);
  ASSERT_TRUE(session) << session.error().message();
  ASSERT_TRUE(session->update());
  EXPECT_EQ(value(kFolder + "0/state"), "update_schemes_tried_regions");
  const auto regions = session->regions(0);
  ASSERT_TRUE(regions);
  ASSERT_EQ(regions->size(), 2u);
  EXPECT_EQ((*regions)[0].range.start, 2097152u);
  EXPECT_EQ((*regions)[0].accesses, 3u);
  EXPECT_EQ((*regions)[0].age, 7u);
  EXPECT_EQ((*regions)[1].accesses, 20u);
  EXPECT_EQ(session->malformed(), 7u);
}

TEST_F(DamonFiles, RefuseMoreTargetsThanAreRead) {
  settings_.targets.resize(kMaxDamonTargets + 1);
  EXPECT_FALSE(DamonSession::start(tree_.roots(), settings_));
  EXPECT_EQ(value(kFolder + "nr_kdamonds"), "0");
}

}  // namespace
}  // namespace tidepool::kernel
