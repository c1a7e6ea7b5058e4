// Grants, confirmations, renewals, releases, and who may ask.
#include <algorithm>
#include <set>

#include "pool/protocol/handshake.h"
#include "tests/unit/pool/controller/core_rig.h"

namespace tidepool::pool::controller {
namespace {

using Code = Refusal::Code;
using std::chrono::seconds;

class CoreLeases : public ::testing::Test, public CoreRig {
 protected:
  void SetUp() override {
    add_server("a", "rack-1", 10);
    add_server("b", "rack-2", 10);
    add_server("c", "rack-2", 10);
    add_vm(1, "web", 8);
    live(seconds(1));
  }
};

TEST_F(CoreLeases, GrantEveryReplicaInAnotherDomainWithATokenThatTheServerBelieves) {
  const auto answer = ask<GrantAnswer>(grant(1, 3, "r"));
  ASSERT_EQ(answer.leases.size(), 3u);
  for (const SliceLease& lease : answer.leases) {
    ASSERT_EQ(lease.replicas.size(), 2u);
    std::set<std::string> servers;
    for (const ReplicaLease& replica : lease.replicas) {
      servers.insert(replica.server);
      EXPECT_EQ(replica.claims.slice, lease.slice);
      EXPECT_EQ(replica.claims.holder, holder_id(1));
      EXPECT_EQ(replica.claims.slots, kSlice / 4096);
      EXPECT_NE(replica.claims.rights & protocol::kRightCreate, 0u);
      EXPECT_EQ(replica.secret, protocol::lease_secret({1, 7}, replica.claims));
    }
    EXPECT_TRUE(servers.contains("a")) << "the other two are in one rack";
  }
}

TEST_F(CoreLeases, TheSameRequestHasTheSameAnswerAlsoFromTheNextController) {
  const auto first = ask<GrantAnswer>(grant(1, 2, "r"));
  const auto again = ask<GrantAnswer>(grant(1, 2, "r"));
  reload();
  const auto later = ask<GrantAnswer>(grant(1, 2, "r"));
  ASSERT_EQ(first.leases.size(), 2u);
  for (const auto* other : {&again, &later}) {
    ASSERT_EQ(other->leases.size(), 2u);
    for (std::size_t i = 0; i < 2; ++i) {
      EXPECT_EQ(other->leases[i].slice, first.leases[i].slice);
      EXPECT_EQ(other->leases[i].replicas[0].secret, first.leases[i].replicas[0].secret);
    }
  }
  EXPECT_EQ(status().slices, 2u);
}

TEST_F(CoreLeases, AllOfAGrantOrNothing) {
  lease(1, 8);
  const Refusal refusal = refused(grant(1, 3, "r"));
  EXPECT_FALSE(refusal.arithmetic.empty());
  EXPECT_EQ(status().slices, 8u);
  lease(1, 2);
}

TEST_F(CoreLeases, WhatIsNotConfirmedIsFencedAndFreedAndNeverHeld) {
  const auto answer = ask<GrantAnswer>(grant(1, 1, "r"));
  const SliceId id = answer.leases[0].slice;
  live(seconds(70));
  EXPECT_EQ(status().slices, 0u);
  const auto request = grant(1, 1, "r");
  const auto late = ask<ConfirmAnswer>(ConfirmSlices{"host", request.epoch, request.holder, {id}});
  EXPECT_EQ(late.slices.at(0).status, LeaseStatus::kUnknown);
}

TEST_F(CoreLeases, AReleasedSliceGoesWhenItsServersHaveFreedItBelowAHigherEpoch) {
  const auto granted = ask<GrantAnswer>(grant(1, 1, "r"));
  const SliceId id = granted.leases[0].slice;
  ask<ReleaseAnswer>(release(1, {id}));
  EXPECT_EQ(status().releasing, 1u);
  pass(seconds(1000));  // time frees nothing
  EXPECT_EQ(status().releasing, 1u);
  for (const ReplicaLease& replica : granted.leases[0].replicas) {
    const ServerAnswer told = heartbeat(replica.server);
    ASSERT_EQ(told.free.size(), 1u);
    EXPECT_EQ(told.free[0].slice, id);
    EXPECT_GT(told.free[0].below, replica.claims.epoch);
    EXPECT_EQ(status().slices, 1u);
    heartbeat(replica.server, told.free);
  }
  EXPECT_EQ(status().slices, 0u);
  const auto next = ask<GrantAnswer>(grant(1, 1, "r2"));
  EXPECT_GT(next.leases[0].slice, id) << "ids are used once";
}

TEST_F(CoreLeases, AnOlderWordOfAServerFreesNothing) {
  const auto ids = lease(1, 1);
  heartbeat("a", {{ids[0], LeaseEpoch{1}}, {ids[0], LeaseEpoch{99}}});
  EXPECT_EQ(status().slices, 1u);
  ask<ReleaseAnswer>(release(1, ids));
  heartbeat("a", {{ids[0], LeaseEpoch{1}}});
  EXPECT_EQ(status().releasing, 1u);
}

TEST_F(CoreLeases, RenewalsAreOfTheSameEpochWithoutTheRightToCreate) {
  const auto ids = lease(1, 2);
  const auto request = grant(1, 1, "");
  const auto some = ask<RenewAnswer>(RenewLeases{"host", request.epoch, request.holder, {ids[0], SliceId{999}}, {}});
  ASSERT_EQ(some.leases.size(), 1u);
  EXPECT_EQ(some.leases[0].replicas[0].claims.epoch, LeaseEpoch{1});
  EXPECT_EQ(some.leases[0].replicas[0].claims.rights & protocol::kRightCreate, 0u);
  ASSERT_EQ(some.not_renewed.size(), 1u);
  EXPECT_EQ(some.not_renewed[0].status, LeaseStatus::kUnknown);
  const auto all = ask<RenewAnswer>(RenewLeases{"host", request.epoch, request.holder, {}, {}});
  EXPECT_EQ(all.leases.size(), 2u);
  EXPECT_FALSE(all.more);
}

TEST_F(CoreLeases, AnAgentThatWasReplacedIsRefused) {
  const auto before = grant(1, 1, "r");
  SyncHost& agent = report();
  const SyncHost former = agent;
  agent.instance = "2";
  agent.epoch = 0;
  const auto candidate = ask<SyncAnswer>(agent);
  EXPECT_GT(candidate.epoch, former.epoch);
  ask<GrantAnswer>(before);  // until the new one has used its epoch
  agent.epoch = candidate.epoch;
  ask<SyncAnswer>(agent);
  GrantSlices stale = before;
  stale.request = "r3";
  EXPECT_EQ(refused(stale).code, Code::kStale);
  EXPECT_EQ(refused(former).code, Code::kStale);
}

TEST_F(CoreLeases, AnotherMachineMustNotTakeTheNameOfOneWithSlices) {
  lease(1, 1);
  SyncHost other = report();
  other.machine = "2";
  other.epoch = 0;
  const Refusal refusal = refused(other);
  EXPECT_EQ(refusal.code, Code::kConflict);
  EXPECT_NE(refusal.remedy.find("forget"), std::string::npos);
  EXPECT_EQ(refused(ForgetHost{"host", false}).code, Code::kConflict) << "its agent is there";
  pass(seconds(40));
  EXPECT_TRUE(ask<PlanAnswer>(ForgetHost{"host", false}).done);
  pass(seconds(1));
  heartbeats();
  pass(seconds(1));
  EXPECT_EQ(status().slices, 0u);
  EXPECT_EQ(status().hosts, 0u);
  ask<SyncAnswer>(other);
}

TEST_F(CoreLeases, AMachineThatBootedHasNoVmOfBefore) {
  lease(1, 2);
  SyncHost& agent = report();
  const SyncHost before = agent;
  agent.boot = agent.instance = "2";
  agent.epoch = 0;
  agent.vms.clear();
  sync();
  live(seconds(2));
  EXPECT_EQ(status().slices, 0u);
  // A word of the former agent that was long under way changes nothing.
  add_vm(9, "new", 1);
  live(seconds(1));
  lease(9, 1);
  SyncHost late = before;
  late.epoch = 0;
  ask<SyncAnswer>(late);
  live(seconds(2));
  EXPECT_EQ(status().slices, 1u);
}

TEST_F(CoreLeases, AHolderThatNobodyKnowsAnyMoreIsAskedFor) {
  lease(1, 1);
  report().vms.clear();
  const SyncAnswer answer = sync();
  ASSERT_EQ(answer.strays.size(), 1u);
  live(seconds(200));
  EXPECT_EQ(status().slices, 1u) << "silence frees nothing";
  report().gone.push_back(answer.strays[0]);
  live(seconds(2));
  EXPECT_EQ(status().slices, 0u);
}

TEST_F(CoreLeases, BadRequestsAreRefusedWithoutHarm) {
  EXPECT_EQ(refused(grant(1, 0, "r")).code, Code::kInvalid);
  EXPECT_EQ(refused(grant(1, 65, "r")).code, Code::kInvalid);
  EXPECT_EQ(refused(grant(1, 1, "")).code, Code::kInvalid);
  EXPECT_EQ(refused(grant(1, 1, "r", "host", 4)).code, Code::kInvalid);
  EXPECT_EQ(refused(grant(7, 1, "r")).code, Code::kNotFound);
  EXPECT_EQ(refused(grant(1, 1, "r", "elsewhere")).code, Code::kStale);
  SyncHost twice = report();
  twice.vms.push_back(twice.vms[0]);
  EXPECT_EQ(refused(twice).code, Code::kInvalid);
  SyncHost strange = report();
  strange.vms[0].name = "a\x1b[2J";
  EXPECT_EQ(refused(strange).code, Code::kInvalid);
  EXPECT_EQ(refused(registration("no name", "x", 1)).code, Code::kInvalid);
  EXPECT_EQ(refused(ListLeases{{"x", 0}, {}, {}, {}}).code, Code::kInvalid);
}

}  // namespace
}  // namespace tidepool::pool::controller
