// What a change would do, and when it is refused.
#include "daemon/agent/change_plan.h"

#include <gtest/gtest.h>

namespace tidepool::daemon {
namespace {

constexpr Bytes gib(std::uint64_t n) {
  return Bytes{n << 30};
}

VmPolicy observed() {
  VmPolicy policy;
  policy.guarantee = gib(2);
  policy.limit = gib(4);
  policy.stall_budget = 0.01;
  policy.min_cold_age = std::chrono::minutes(2);
  return policy;
}

std::string text(const ChangeReport& report) {
  std::string text;
  for (const auto& line : report.lines) text += line.what + " " + line.before + " " + line.after + "\n";
  return text;
}

TEST(PlanSettings, NamesWhatDiffersAndNothingElse) {
  VmSettings changes;
  changes.mode = Mode::kActive;
  changes.guarantee = Amount::part(0.125);
  changes.no_limit = true;
  changes.min_cold_age = std::chrono::minutes(2);  // as it is
  const SettingsPlan plan = plan_settings({}, observed(), changes, gib(8), std::nullopt);
  EXPECT_TRUE(plan.report.allowed);
  EXPECT_FALSE(plan.report.applied);
  EXPECT_EQ(text(plan.report), "mode observe active\nguarantee 2.0G 1.0G\nlimit 4.0G none\n");
  EXPECT_EQ(plan.after.mode, Mode::kActive);
  EXPECT_EQ(plan.after.guarantee, gib(1));
  EXPECT_FALSE(plan.after.limit);
}

TEST(PlanSettings, NeverGuaranteesMoreThanWasPromised) {
  VmSettings changes;
  changes.guarantee = Amount::of(gib(9));
  changes.no_limit = true;
  const SettingsPlan plan = plan_settings({}, observed(), changes, gib(8), std::nullopt);
  EXPECT_FALSE(plan.report.allowed);
  EXPECT_EQ(plan.report.arithmetic, "guarantee 9.0G > promised 8.0G");
  changes.guarantee = Amount::of(gib(8));
  EXPECT_TRUE(plan_settings({}, observed(), changes, gib(8), std::nullopt).report.allowed);
}

TEST(PlanSettings, KeepsTheLimitAboveTheGuarantee) {
  VmSettings changes;
  changes.limit = Amount::of(gib(1));
  const SettingsPlan plan = plan_settings({}, observed(), changes, gib(8), std::nullopt);
  EXPECT_FALSE(plan.report.allowed);
  EXPECT_EQ(plan.report.arithmetic, "limit 1.0G < guarantee 2.0G");
  changes.guarantee = Amount::of(gib(1));
  EXPECT_TRUE(plan_settings({}, observed(), changes, gib(8), std::nullopt).report.allowed);
}

TEST(PlanSettings, NeverMakesActiveWhatMustNotMove) {
  Finding pinned;
  pinned.message = "VFIO pins this memory";
  pinned.remedy = "detach the device";
  VmSettings changes;
  changes.mode = Mode::kActive;
  const SettingsPlan plan = plan_settings({}, observed(), changes, gib(8), pinned);
  EXPECT_FALSE(plan.report.allowed);
  EXPECT_EQ(plan.report.arithmetic, pinned.message);
  EXPECT_EQ(plan.report.remedy, pinned.remedy);
  changes.mode = Mode::kObserve;
  changes.stall_budget = 0.02;
  EXPECT_TRUE(plan_settings({}, observed(), changes, gib(8), pinned).report.allowed);
}

policy::HostView host() {
  policy::HostView host;
  host.total = gib(16);
  host.available = gib(6);
  host.reserve = gib(2);
  return host;
}

TEST(PlanCapacity, IsRefusedWhereThePoolWouldHoldNothing) {
  EXPECT_FALSE(plan_capacity(Bytes{}, gib(4), Bytes{}, true, host()).allowed);
}

TEST(PlanCapacity, LeavesTheHostItsReserveInDram) {
  const ChangeReport report = plan_capacity(gib(15), gib(4), gib(1), true, host());
  EXPECT_FALSE(report.allowed);
  EXPECT_EQ(report.arithmetic, "capacity 15.0G + reserve 2.0G > DRAM 16.0G");
  EXPECT_EQ(report.remedy, "try --size 14.0G");
  EXPECT_TRUE(plan_capacity(gib(14), gib(4), gib(1), true, host()).allowed);
  // What is on another medium takes nothing from the host.
  EXPECT_TRUE(plan_capacity(gib(15), gib(4), gib(1), false, host()).allowed);
}

TEST(PlanCapacity, ThrowsNothingOut) {
  const ChangeReport report = plan_capacity(gib(2), gib(4), gib(3), true, host());
  EXPECT_FALSE(report.allowed);
  EXPECT_EQ(text(report), "capacity 4.0G 2.0G\n");
  EXPECT_EQ(report.arithmetic, "used 3.0G, so 1.0G would have to come home first; available 6.0G, reserve 2.0G");
  EXPECT_TRUE(plan_capacity(gib(3), gib(4), gib(3), true, host()).allowed);
}

TEST(PlanCapacity, SaysForHowLongItHolds) {
  const ChangeReport report = plan_capacity(gib(6), gib(4), gib(3), true, host());
  EXPECT_TRUE(report.allowed);
  EXPECT_EQ(report.arithmetic, "until the agent starts again");
  EXPECT_EQ(report.remedy, "to keep it, set pool.embedded.capacity to \"6GiB\" in the configuration");
}

TEST(PlanCapacity, SaysNothingDiffersWhenNothingDoes) {
  const ChangeReport report = plan_capacity(gib(4), gib(4), gib(3), true, host());
  EXPECT_TRUE(report.allowed);
  EXPECT_TRUE(report.lines.empty());
  EXPECT_EQ(report.arithmetic + report.remedy, "");
}

}  // namespace
}  // namespace tidepool::daemon
