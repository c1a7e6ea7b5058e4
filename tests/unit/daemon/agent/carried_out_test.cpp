// Goal: the record says what was ordered, not what was wished for.
#include "daemon/agent/carried_out.h"

#include <gtest/gtest.h>

namespace tidepool::daemon {
namespace {

using namespace literals;
using policy::Action;
using policy::Reason;

policy::Move move(std::uint32_t vm, Reason reason, std::uint16_t pages) {
  policy::Move move;
  move.vm = VmId{vm};
  move.reason = reason;
  move.pages = pages;
  return move;
}

policy::Decision decision(std::uint32_t vm, Action action, Reason reason, Bytes bytes) {
  return {VmId{vm}, action, reason, 1, bytes, false, "why"};
}

TEST(CarriedOut, IsWhatSomebodyTookOn) {
  CarriedOut moves;
  moves.count(Action::kDemote, move(1, Reason::kCold, 512), true);
  moves.count(Action::kDemote, move(1, Reason::kCold, 256), true);
  const Decision line = moves.line_of(decision(1, Action::kDemote, Reason::kCold, 3_MiB), "web-3");
  EXPECT_TRUE(line.carried_out);
  EXPECT_EQ(line.bytes, 3_MiB);
  EXPECT_EQ(line.detail, "why");
  EXPECT_EQ(line.vm, "web-3");
  EXPECT_EQ(line.action, "demote");
  EXPECT_EQ(line.reason, "cold");
}

TEST(CarriedOut, LeavesOutWhatWasRefused) {
  CarriedOut moves;
  moves.count(Action::kDemote, move(1, Reason::kCold, 512), true);
  moves.count(Action::kDemote, move(1, Reason::kCold, 512), false);
  const Decision line = moves.line_of(decision(1, Action::kDemote, Reason::kCold, 4_MiB), "web-3");
  EXPECT_TRUE(line.carried_out);
  EXPECT_EQ(line.bytes, 2_MiB);
  EXPECT_EQ(line.detail, "why; 2.0M more were not taken on");
}

TEST(CarriedOut, IsNothingThatWasRefusedAsAWhole) {
  CarriedOut moves;
  moves.count(Action::kDemote, move(1, Reason::kCold, 512), false);
  const Decision line = moves.line_of(decision(1, Action::kDemote, Reason::kCold, 2_MiB), "web-3");
  EXPECT_FALSE(line.carried_out);
  EXPECT_EQ(line.bytes, 2_MiB) << "so much should have gone";
  EXPECT_EQ(line.detail, "why; nothing of it was taken on");
}

TEST(CarriedOut, KeepsVmsActionsAndReasonsApart) {
  CarriedOut moves;
  moves.count(Action::kDemote, move(1, Reason::kCold, 512), true);
  EXPECT_FALSE(moves.line_of(decision(2, Action::kDemote, Reason::kCold, 2_MiB), "b").carried_out);
  EXPECT_FALSE(moves.line_of(decision(1, Action::kRestore, Reason::kCold, 2_MiB), "a").carried_out);
  EXPECT_FALSE(moves.line_of(decision(1, Action::kDemote, Reason::kDeeper, 2_MiB), "a").carried_out);
}

TEST(CarriedOut, IsNothingOfAVmThatObserves) {
  policy::Decision wish = decision(1, Action::kDemote, Reason::kCold, 2_MiB);
  wish.would = true;
  const Decision line = CarriedOut{}.line_of(wish, "web-3");
  EXPECT_FALSE(line.carried_out);
  EXPECT_EQ(line.bytes, 2_MiB);
  EXPECT_EQ(line.detail, "why");
  EXPECT_EQ(CarriedOut{}.line_of(decision(1, Action::kNone, Reason::kHeld, Bytes{}), "web-3").detail, "why");
}

}  // namespace
}  // namespace tidepool::daemon
