// Goal: whatever a server does, every request ends once, nothing writes to memory that was given back, and no server is
// taken for another.
#include "tests/unit/pool/client/link_rig.h"

namespace tidepool::pool {
namespace {

using namespace std::chrono_literals;
using protocol::SliceId;

struct Misdeed {
  const char* name;
  Deed deed;
  bool counts_as_bad;
};
void PrintTo(const Misdeed& misdeed, std::ostream* out) {
  *out << misdeed.name;
}

class EveryMisdeed : public testing::TestWithParam<std::tuple<Misdeed, Priority, bool>> {};
INSTANTIATE_TEST_SUITE_P(
    HostileServer, EveryMisdeed,
    testing::Combine(testing::Values(Misdeed{"unasked", Deed::kUnasked, true}, Misdeed{"garbage", Deed::kGarbage, true},
                                     Misdeed{"wrong_tag", Deed::kWrongTag, true}, Misdeed{"no_tag", Deed::kNoTag, true},
                                     Misdeed{"other_slot", Deed::kOtherSlot, true},
                                     Misdeed{"other_type", Deed::kOtherType, true},
                                     Misdeed{"too_long", Deed::kTooLong, true},
                                     Misdeed{"cut_frame", Deed::kCutFrame, false}),
                     testing::Values(Priority::kDemand, Priority::kPrefetch), testing::Bool()));

TEST_P(EveryMisdeed, CutsTheConnectionAndNothingElse) {
  const auto& [misdeed, priority, tcp] = GetParam();
  LinkRig rig({.tcp = tcp});
  ASSERT_EQ(rig.attach(1).outcome, AttachOutcome::kCreated);
  ASSERT_TRUE(rig.write(1, 3, 1));
  rig.server().deed(misdeed.deed);
  Asked read(LinkOp::kRead, SliceId{1}, {1}, priority);
  EXPECT_EQ(rig.ask(read), LinkOutcome::kLost);
  EXPECT_TRUE(eventually([&] { return rig.downs().size() == 1; }));
  EXPECT_EQ(rig.link().figures().bad_frames, misdeed.counts_as_bad ? 1u : 0u);
  rig.server().deed(Deed::kAnswer);
  // It comes back by itself, with its slices, and the pages are still there.
  ASSERT_TRUE(rig.up_times(2));
  EXPECT_EQ(rig.ups(), (std::vector{true, true}));
  EXPECT_TRUE(rig.reads(1, 3));
  EXPECT_EQ(read.times(), 1);
  EXPECT_TRUE(read.untouched_since_end());
}

TEST(HostileServer, ASecondAnswerReachesNobody) {
  LinkRig rig;
  ASSERT_EQ(rig.attach(1).outcome, AttachOutcome::kCreated);
  ASSERT_TRUE(rig.write(1, 3, 1));
  rig.server().deed(Deed::kTwice);
  Asked read(LinkOp::kRead, SliceId{1}, {1});
  EXPECT_EQ(rig.ask(read), LinkOutcome::kAnswered);
  EXPECT_TRUE(eventually([&] { return rig.link().figures().bad_frames == 1; }));
  EXPECT_EQ(read.times(), 1);
  EXPECT_TRUE(read.holds(0, 3));
  EXPECT_TRUE(read.untouched_since_end());
}

TEST(HostileServer, ALateAnswerReachesNobodyAndIsForgiven) {
  LinkRig rig({.credit = 1}, [](ServerLinkOptions& options) { options.demand_patience = 30ms; });
  ASSERT_EQ(rig.attach(1).outcome, AttachOutcome::kCreated);
  ASSERT_TRUE(rig.write(1, 3, 1));
  rig.server().deed(Deed::kHold);
  Asked read(LinkOp::kRead, SliceId{1}, {1});
  EXPECT_EQ(rig.ask(read), LinkOutcome::kLate);
  // Its answer is still due, and with it the credit.
  EXPECT_EQ(rig.link().figures().pages_under_way, 1u);
  rig.server().deed(Deed::kAnswer);
  rig.server().release_held();
  EXPECT_TRUE(eventually([&] { return rig.link().figures().pages_under_way == 0; }));
  EXPECT_EQ(read.times(), 1);
  EXPECT_TRUE(read.untouched_since_end());
  EXPECT_EQ(rig.link().figures().late, 1u);
  EXPECT_EQ(rig.link().figures().bad_frames, 0u);
  EXPECT_EQ(rig.ups().size(), 1u);
}

TEST(HostileServer, WhatNeverGetsCreditIsLate) {
  LinkRig rig({.credit = 0}, [](ServerLinkOptions& options) { options.demand_patience = 30ms; });
  ASSERT_EQ(rig.attach(1).outcome, AttachOutcome::kCreated);
  Asked read(LinkOp::kRead, SliceId{1}, {1});
  EXPECT_EQ(rig.ask(read), LinkOutcome::kLate);
  EXPECT_TRUE(rig.is_up());
}

TEST(HostileServer, OneThatFallsSilentIsCut) {
  LinkRig rig({}, [](ServerLinkOptions& options) { options.silence = 50ms; });
  ASSERT_EQ(rig.attach(1).outcome, AttachOutcome::kCreated);
  rig.server().deed(Deed::kSilence);
  Asked read(LinkOp::kRead, SliceId{1}, {1});
  EXPECT_EQ(rig.ask(read), LinkOutcome::kLost);
  EXPECT_TRUE(eventually([&] { return !rig.downs().empty(); }));
  EXPECT_NE(rig.downs().front().find("has not said a word"), std::string::npos) << rig.downs().front();
}

TEST(HostileServer, OneThatFallsSilentWhenIdleIsCut) {
  LinkRig rig({}, [](ServerLinkOptions& options) {
    options.silence = 50ms;
    options.ping_after = 10ms;
  });
  ASSERT_EQ(rig.attach(1).outcome, AttachOutcome::kCreated);
  rig.server().deed(Deed::kSilence);
  EXPECT_TRUE(eventually([&] { return !rig.downs().empty(); }));
}

TEST(HostileServer, OneThatBeganAnewIsNotTheSame) {
  LinkRig rig;
  ASSERT_EQ(rig.attach(1).outcome, AttachOutcome::kCreated);
  ASSERT_EQ(rig.attach(2).outcome, AttachOutcome::kCreated);
  ASSERT_TRUE(rig.write(1, 3, 1));
  ServerSettings anew = rig.settings();
  anew.boot = {2};
  rig.server().restart(anew);
  ASSERT_TRUE(rig.up_times(2));
  EXPECT_EQ(rig.ups(), (std::vector{true, false}));
  Asked read(LinkOp::kRead, SliceId{1}, {1});
  EXPECT_EQ(rig.ask(read), LinkOutcome::kRefused);
  // Empty, and said to be so, although the link may have had to show a lease to know whom it speaks to.
  EXPECT_EQ(rig.attach(1).outcome, AttachOutcome::kCreated);
  EXPECT_EQ(rig.attach(2).outcome, AttachOutcome::kCreated);
  EXPECT_EQ(rig.attach(1).outcome, AttachOutcome::kAttached);
}

TEST(HostileServer, OneWithAnotherNameIsNotTheSame) {
  LinkRig rig;
  ASSERT_EQ(rig.attach(1).outcome, AttachOutcome::kCreated);
  ServerSettings other = rig.settings();
  other.name = "shelf-2";
  rig.server().restart(other);
  ASSERT_TRUE(rig.up_times(2));
  EXPECT_EQ(rig.ups(), (std::vector{true, false}));
}

// The pages of a slice must not be given up because somebody on the way said so.
TEST(HostileServer, AnImpostorCannotSayThatAllIsGone) {
  LinkRig rig;
  ASSERT_EQ(rig.attach(1).outcome, AttachOutcome::kCreated);
  ServerSettings impostor = rig.settings();
  impostor.boot = {9};
  impostor.key.fill(0x66);
  const std::size_t before = rig.server().accepted();
  rig.server().restart(impostor);
  ASSERT_TRUE(eventually([&] { return rig.server().accepted() >= before + 6; }));
  EXPECT_EQ(rig.ups(), (std::vector{true}));
  EXPECT_FALSE(rig.is_up());
  EXPECT_NE(rig.link().figures().why.find("refuses the leases"), std::string::npos) << rig.link().figures().why;
  // The right one comes back, without its pages this time.
  rig.server().restart(rig.settings());
  ASSERT_TRUE(rig.up_times(2));
  Asked read(LinkOp::kRead, SliceId{1}, {1});
  EXPECT_EQ(rig.ask(read), LinkOutcome::kRefused) << "an empty slice under the old name was taken for the old one";
}

TEST(HostileServer, OneThatTurnsAuthenticationOffIsRefused) {
  LinkRig rig({.tcp = true, .authenticate = false});
  ASSERT_TRUE(eventually([&] { return !rig.downs().empty(); }));
  EXPECT_NE(rig.downs().front().find("does not authenticate"), std::string::npos) << rig.downs().front();
  EXPECT_TRUE(rig.ups().empty());
}

TEST(HostileServer, CutsUnderLoadEndEveryRequestOnce) {
  LinkRig rig;
  ASSERT_EQ(rig.attach(1).outcome, AttachOutcome::kCreated);
  ASSERT_TRUE(rig.write(1, 3, 1));
  std::atomic<bool> enough{false};
  std::atomic<int> answered{0};
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (const Priority priority : {Priority::kDemand, Priority::kDemand, Priority::kPrefetch}) {
    threads.emplace_back([&, priority] {
      while (!enough) {
        Asked read(LinkOp::kRead, SliceId{1}, {1}, priority);
        const auto outcome = rig.ask(read);
        if (outcome == LinkOutcome::kAnswered && read.holds(0, 3))
          ++answered;
        else if (outcome != LinkOutcome::kLost)
          ++wrong;
        if (read.times() != 1 || !read.untouched_since_end()) ++wrong;
      }
    });
  }
  for (std::size_t cut = 1; cut <= 10; ++cut) {
    const int before = answered;
    ASSERT_TRUE(eventually([&] { return answered > before; }));
    rig.server().cut();
    ASSERT_TRUE(rig.up_times(cut + 1));
  }
  enough = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(answered, 10);
}

}  // namespace
}  // namespace tidepool::pool
