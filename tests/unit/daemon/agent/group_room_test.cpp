// Who may still be given a page when the VM's control group is nearly full.
#include "daemon/pager/group_room.h"

#include <gtest/gtest.h>

namespace tidepool::daemon {
namespace {

TEST(GroupRoom, TakesAnythingWhileNobodyKnowsALimit) {
  GroupRoom room;
  room.let_demand_wait(true);
  for (int i = 0; i < 1000; ++i) EXPECT_TRUE(room.take(1u << 30, false));
}

TEST(GroupRoom, CountsDownAndGivesNothingBeyond) {
  GroupRoom room;
  room.let_demand_wait(true);
  room.set(room.taken(), PageCount{10});
  EXPECT_TRUE(room.take(8, true));
  EXPECT_FALSE(room.take(3, true));
  EXPECT_TRUE(room.take(2, true));
  EXPECT_FALSE(room.take(1, true));
  room.set(room.taken(), PageCount{1});
  EXPECT_TRUE(room.take(1, false));
  room.set_unbounded();
  EXPECT_TRUE(room.take(1u << 20, true));
}

// The figures may have been read before these pages were there.
TEST(GroupRoom, CountsWhatWasInstalledWhileTheFiguresWereRead) {
  GroupRoom room;
  room.let_demand_wait(true);
  room.set(room.taken(), PageCount{100});
  const std::uint64_t before = room.taken();
  EXPECT_TRUE(room.take(70, true));
  room.set(before, PageCount{100});
  EXPECT_FALSE(room.take(31, true));
  EXPECT_TRUE(room.take(30, true));
}

TEST(GroupRoom, LetsDemandThroughWhereNobodyCouldMakeRoom) {
  GroupRoom room;
  room.set(room.taken(), PageCount{1});
  EXPECT_TRUE(room.take(4, true));
  EXPECT_FALSE(room.take(1, false));
  EXPECT_TRUE(room.take(1, true));
}

}  // namespace
}  // namespace tidepool::daemon
