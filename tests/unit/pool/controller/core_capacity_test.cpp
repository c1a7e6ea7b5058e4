// Servers, shares, bounds, copies: what there is and who may have it.
#include <algorithm>
#include <set>

#include "tests/unit/pool/controller/core_rig.h"

namespace tidepool::pool::controller {
namespace {

using Code = Refusal::Code;
using std::chrono::seconds;

class CoreCapacity : public ::testing::Test, public CoreRig {
 protected:
  static constexpr Bytes slices(std::uint64_t count) { return Bytes{count * kSlice}; }
  SetVm set(const std::string& vm, Bounds bounds, bool plan = false) const { return {"host", vm, bounds, plan}; }
  // The tasks of the host are done, and reported, until there are none.
  void do_tasks() {
    for (int round = 0, idle = 0; round < 200; ++round) {
      heartbeats();
      const SyncAnswer answer = sync();
      for (const Task& task : answer.tasks)
        if (report().tasks.size() < kMostReports)
          report().tasks.push_back({task.kind, task.slice, task.server, task.epoch, true, {}});
      pass(seconds(1));
      idle = answer.tasks.empty() ? idle + 1 : 0;
      if (idle == 4) return;
    }
    ADD_FAILURE() << "there are always more tasks";
  }
  std::uint64_t slices_at(const std::string& server) {
    for (const ServerView& each : ask<ServersAnswer>(ListServers{}).servers)
      if (each.name == server) return each.slices;
    return 0;
  }
};

TEST_F(CoreCapacity, TwoServersOfOneNameAreNotTakenForOne) {
  add_server("a", "rack-1", 10);
  const Refusal refusal = refused(registration("a", "rack-1", 10, 2));
  EXPECT_EQ(refusal.code, Code::kConflict);
  EXPECT_NE(refusal.message.find("alive"), std::string::npos);
  EXPECT_GT(refusal.retry_after_ms, 0u);
  pass(seconds(8));
  add_server("a", "rack-1", 10, 2);
  ServerHeartbeat former;
  former.name = "a";
  former.boot = {1};
  EXPECT_EQ(refused(former).code, Code::kStale);
  // One that said that it ends is replaced at once.
  former.boot = {2};
  former.leaving = true;
  ask<ServerAnswer>(former);
  add_server("a", "rack-1", 10, 3);
}

TEST_F(CoreCapacity, ASilentServerIsSuspectThenLostButNotWhenTheControllerWasAway) {
  add_server("a", "rack-1", 10);
  pass(seconds(8));
  EXPECT_EQ(status().servers_suspect, 1u);
  pass(seconds(60));
  EXPECT_EQ(status().servers_lost, 1u);
  heartbeat("a");
  EXPECT_EQ(status().servers_up, 1u);
  reload();
  EXPECT_EQ(status().servers_suspect, 1u) << "not heard yet";
  EXPECT_TRUE(heartbeat("a").register_again);
}

TEST_F(CoreCapacity, NothingIsGrantedInOneDomainAlone) {
  add_server("a", "rack-1", 10);
  add_server("b", "rack-1", 10);
  add_vm(1, "web", 4);
  const Refusal refusal = refused(grant(1, 1, "r"));
  EXPECT_EQ(refusal.code, Code::kNoCapacity);
  EXPECT_NE(refusal.remedy.find("failure domain"), std::string::npos);
  EXPECT_EQ(status().stranded, slices(20));
  EXPECT_EQ(ask<GrantAnswer>(grant(1, 1, "r", "host", 1)).leases.size(), 1u);
}

TEST_F(CoreCapacity, LimitsOfVmTenantAndHostAreKept) {
  add_server("a", "rack-1", 20);
  add_server("b", "rack-2", 20);
  add_vm(1, "web", 10);
  live(seconds(1));
  ask<PlanAnswer>(set("web", {.reservation = {}, .limit = slices(6), .weight = {}}));
  EXPECT_EQ(refused(grant(1, 7, "r")).code, Code::kOverLimit);
  ask<PlanAnswer>(SetTenant{"default", {.reservation = {}, .limit = slices(5), .weight = {}}, false});
  EXPECT_NE(refused(grant(1, 6, "r")).message.find("tenant"), std::string::npos);
  ask<PlanAnswer>(SetHost{"host", {.reservation = {}, .limit = slices(4), .weight = {}}, false});
  const Refusal refusal = refused(grant(1, 5, "r"));
  EXPECT_NE(refusal.message.find("host host"), std::string::npos);
  EXPECT_NE(refusal.arithmetic.find("10 MiB"), std::string::npos) << refusal.arithmetic;
  lease(1, 4);
}

TEST_F(CoreCapacity, QuotasThatContradictEachOtherAreRefused) {
  add_server("a", "rack-1", 10);
  add_server("b", "rack-2", 10);
  add_vm(1, "web", 4);
  EXPECT_EQ(refused(set("web", {.reservation = slices(5), .limit = slices(4), .weight = {}})).code, Code::kInvalid);
  EXPECT_EQ(refused(set("web", {.reservation = {}, .limit = {}, .weight = 0.0})).code, Code::kInvalid);
  const Refusal large = refused(set("web", {.reservation = slices(11), .limit = {}, .weight = {}}));
  EXPECT_EQ(large.code, Code::kNoCapacity);
  EXPECT_NE(large.arithmetic.find(">"), std::string::npos);
  ask<PlanAnswer>(set("web", {.reservation = slices(6), .limit = {}, .weight = {}}));
  const Refusal tenant = refused(SetTenant{"default", {.reservation = {}, .limit = slices(5), .weight = {}}, false});
  EXPECT_EQ(tenant.code, Code::kOverLimit);
  EXPECT_EQ(refused(SetHost{"host", {.reservation = slices(1), .limit = {}, .weight = {}}, false}).code,
            Code::kInvalid);
  EXPECT_EQ(refused(set("db", {})).code, Code::kNotFound);
}

TEST_F(CoreCapacity, AReservationIsThereWhateverOthersTook) {
  add_server("a", "rack-1", 10);
  add_server("b", "rack-2", 10);
  add_vm(1, "web", 4);
  add_vm(2, "greedy", 100);
  ask<PlanAnswer>(set("web", {.reservation = slices(4), .limit = {}, .weight = {}}));
  live(seconds(1));
  lease(2, 6);
  refused(grant(2, 1, "r"));
  lease(1, 4);
}

TEST_F(CoreCapacity, WhoIsAboveHisShareGivesBackWhenAnotherWaits) {
  add_server("a", "rack-1", 12);
  add_server("b", "rack-2", 12);
  add_vm(1, "first", 12);
  live(seconds(1));
  const auto ids = lease(1, 12);
  EXPECT_EQ(vm("first").give_back, slices(0)) << "nobody waits";
  add_vm(2, "second", 12);
  live(seconds(2));
  EXPECT_EQ(vm("second").share, slices(6));
  EXPECT_EQ(vm("first").give_back, slices(6));
  const Refusal waits = refused(grant(2, 2, "r"));
  EXPECT_EQ(waits.code, Code::kUnavailable);
  EXPECT_GT(waits.retry_after_ms, 0u);
  live(seconds(310));
  EXPECT_TRUE(vm("first").give_back_overdue) << "and nothing was taken by force";
  EXPECT_EQ(vm("first").held, slices(12));
  EXPECT_EQ(status().reclaims_overdue, 1u);
  const auto told = ask<HistoryAnswer>(ListHistory{{{}, 1}, "vm host/first"});
  EXPECT_EQ(told.entries.at(0).event, "give-back-overdue");
  ask<ReleaseAnswer>(release(1, {ids.begin(), ids.begin() + 6}));
  live(seconds(2));
  EXPECT_EQ(vm("first").give_back, slices(0));
  lease(2, 6);
}

TEST_F(CoreCapacity, ShrinkingIsPlannedRefusedAndSeen) {
  add_server("a", "rack-1", 20);
  add_server("b", "rack-2", 20);
  add_vm(1, "web", 10);
  live(seconds(1));
  const auto ids = lease(1, 10);
  report().vms[0].used = slices(9);
  report().spare = slices(3);
  sync();
  const Bounds to4{.reservation = {}, .limit = slices(4), .weight = {}};
  const Refusal refusal = refused(set("web", to4, true));
  EXPECT_EQ(refusal.code, Code::kNoCapacity);
  EXPECT_NE(refusal.arithmetic.find("need 10 MiB home"), std::string::npos) << refusal.arithmetic;
  EXPECT_NE(refusal.remedy.find("--size 12MiB"), std::string::npos) << refusal.remedy;
  refused(set("web", to4));
  EXPECT_EQ(vm("web").limit, Bytes{UINT64_MAX});
  const Bounds to6{.reservation = {}, .limit = slices(6), .weight = {}};
  const auto plan = ask<PlanAnswer>(set("web", to6, true));
  EXPECT_FALSE(plan.done);
  EXPECT_EQ(plan.to_give_back, slices(4));
  EXPECT_EQ(vm("web").limit, Bytes{UINT64_MAX});
  EXPECT_TRUE(ask<PlanAnswer>(set("web", to6)).done);
  live(seconds(1));
  EXPECT_EQ(vm("web").give_back, slices(4));
  ask<ReleaseAnswer>(release(1, {ids[0]}));
  live(seconds(1));
  EXPECT_EQ(vm("web").give_back, slices(3));
  EXPECT_FALSE(ask<PlanAnswer>(set("web", to6)).done) << "it is so already";
  pass(seconds(40));
  EXPECT_EQ(refused(set("web", to4)).code, Code::kUnavailable) << "its host is silent";
}

TEST_F(CoreCapacity, ALostServersSlicesAreCopiedAFewAtATimeAndComeBackWhole) {
  for (const char* name : {"a", "b", "c"}) add_server(name, std::string("rack-") + name, 20);
  add_vm(1, "web", 12);
  live(seconds(1));
  lease(1, 12);
  const std::uint64_t affected = slices_at("a");
  ASSERT_GT(affected, 4u);
  pass(seconds(8));
  add_server("a", "rack-a", 20, 2);  // began anew, empty
  live(seconds(2));
  EXPECT_EQ(status().under_replicated, affected);
  EXPECT_LE(status().rebuild_running, CoreConfig{}.copies_per_host);
  EXPECT_GT(status().rebuild_running, 0u);
  EXPECT_EQ(status().rebuild_remaining, slices(affected));
  do_tasks();
  EXPECT_EQ(status().under_replicated, 0u);
  EXPECT_EQ(status().leased, slices(24));
}

TEST_F(CoreCapacity, DrainEmptiesAServerAndOkToStopSaysWhen) {
  for (const char* name : {"a", "b", "c"}) add_server(name, std::string("rack-") + name, 20);
  add_vm(1, "web", 9);
  live(seconds(1));
  lease(1, 9);
  const auto plan = ask<PlanAnswer>(DrainServer{"a", true, true});
  EXPECT_EQ(plan.slices_to_copy, slices_at("a"));
  EXPECT_EQ(status().servers_draining, 0u);
  ask<PlanAnswer>(DrainServer{"a", true, false});
  do_tasks();
  EXPECT_EQ(slices_at("a"), 0u);
  EXPECT_EQ(status().under_replicated, 0u);
  EXPECT_TRUE(ask<PlanAnswer>(OkToStop{"a"}).possible);
  EXPECT_TRUE(ask<PlanAnswer>(OkToStop{"b"}).possible) << "each slice has another replica";
  ask<PlanAnswer>(DrainServer{"a", false, false});
  EXPECT_EQ(refused(DrainServer{"x", true, false}).code, Code::kNotFound);
}

TEST_F(CoreCapacity, AServerThatWantsToEndIsEmptiedUntilItIsAnotherOne) {
  for (const char* name : {"a", "b", "c"}) add_server(name, std::string("rack-") + name, 20);
  add_vm(1, "web", 9);
  live(seconds(1));
  lease(1, 9);
  ASSERT_GT(slices_at("a"), 0u);
  ending.insert("a");
  EXPECT_TRUE(heartbeat("a").drain);
  EXPECT_EQ(status().servers_draining, 1u);
  // A controller that takes over hears of it as the first one did.
  reload();
  do_tasks();
  EXPECT_EQ(slices_at("a"), 0u);
  EXPECT_EQ(status().under_replicated, 0u);
  lease(1, 2);
  EXPECT_EQ(slices_at("a"), 0u) << "it gets nothing new";
  // It was no operator's wish: whoever comes back under that name may have slices again.
  ServerHeartbeat last;
  last.name = "a";
  last.boot = {1};
  last.draining = last.leaving = true;
  ask<ServerAnswer>(last);
  ending.clear();
  add_server("a", "rack-a", 20, 2);
  EXPECT_FALSE(heartbeat("a", {}, 2).drain);
  EXPECT_EQ(status().servers_draining, 0u);
}

TEST_F(CoreCapacity, WhatCannotBeDrainedOrStoppedIsSaidWithTheSum) {
  add_server("a", "rack-a", 10);
  add_server("b", "rack-b", 10);
  add_vm(1, "web", 9, "host", 1);
  live(seconds(1));
  const auto granted = ask<GrantAnswer>(grant(1, 9, "r", "host", 1));
  const auto request = grant(1, 1, "");
  ConfirmSlices confirm{"host", request.epoch, request.holder, {}};
  for (const SliceLease& lease : granted.leases) confirm.slices.push_back(lease.slice);
  ask<ConfirmAnswer>(confirm);
  const auto stop = ask<PlanAnswer>(OkToStop{"a"});
  EXPECT_FALSE(stop.possible);
  EXPECT_FALSE(stop.reasons.empty());
  add_vm(2, "db", 11, "host", 1);
  live(seconds(1));
  const auto more = ask<GrantAnswer>(grant(2, 11, "r2", "host", 1));
  confirm.holder = holder_id(2);
  confirm.slices.clear();
  for (const SliceLease& lease : more.leases) confirm.slices.push_back(lease.slice);
  ask<ConfirmAnswer>(confirm);
  for (VmReport& vm : report().vms) vm.used = vm.wanted;
  sync();
  const Refusal refusal = refused(DrainServer{"a", true, false});
  EXPECT_EQ(refusal.code, Code::kNoCapacity);
  EXPECT_NE(refusal.arithmetic.find("free elsewhere 0"), std::string::npos) << refusal.arithmetic;
}

TEST_F(CoreCapacity, ForADrainVmsGiveBackWhatTheyDoNotUse) {
  for (const char* name : {"a", "b", "c"}) add_server(name, std::string("rack-") + name, 10);
  add_vm(1, "web", 14);
  live(seconds(1));
  const std::vector<SliceId> held = lease(1, 14);
  report().vms.front().used = slices(11);
  sync();
  EXPECT_EQ(refused(DrainServer{"a", true, true}).code, Code::kNoCapacity) << "22 replicas in use, room for 20";
  report().vms.front().used = slices(3);
  sync();
  const auto plan = ask<PlanAnswer>(DrainServer{"a", true, true});
  EXPECT_EQ(plan.to_give_back, slices(4)) << "28 replicas, room for 20";
  ask<PlanAnswer>(DrainServer{"a", true, false});
  live(seconds(1));
  ASSERT_EQ(vm("web").give_back, slices(4));
  ask<ReleaseAnswer>(release(1, {held.begin(), held.begin() + 4}));
  do_tasks();
  EXPECT_EQ(slices_at("a"), 0u);
  EXPECT_EQ(status().under_replicated, 0u);
  EXPECT_EQ(vm("web").held, slices(10));
  EXPECT_EQ(vm("web").give_back, slices(0));
}

TEST_F(CoreCapacity, CapacityThatFindsNoPartnerIsMadeUsableByMoves) {
  add_server("b", "rack-b", 6);
  add_server("c", "rack-c", 6);
  add_vm(1, "web", 6);
  live(seconds(1));
  lease(1, 6);
  add_server("a", "rack-a", 12);
  live(seconds(1));
  EXPECT_EQ(status().grantable, slices(0));
  EXPECT_EQ(status().stranded, slices(12));
  live(seconds(5));
  EXPECT_EQ(status().rebuild_running, 0u) << "nobody needs it";
  add_vm(2, "db", 4);
  do_tasks();
  EXPECT_GE(status().grantable, slices(4));
  EXPECT_EQ(status().under_replicated, 0u);
  lease(2, 4);
}

TEST_F(CoreCapacity, ListsGoOnWhereTheyStoppedAndHistoryIsBounded) {
  CoreConfig config = small();
  config.history = 5;
  CoreRig rig(config);
  for (int i = 0; i < 9; ++i) rig.add_server("s" + std::to_string(i), "d" + std::to_string(i), 9);
  std::set<std::string> names;
  ListServers request;
  request.page.limit = 4;
  do {
    const auto answer = rig.ask<ServersAnswer>(request);
    for (const ServerView& each : answer.servers) EXPECT_TRUE(names.insert(each.name).second);
    request.page.after = answer.next;
  } while (!request.page.after.empty());
  EXPECT_EQ(names.size(), 9u);
  auto history = rig.ask<HistoryAnswer>(ListHistory{{{}, 3}, {}});
  ASSERT_EQ(history.entries.size(), 3u);
  EXPECT_EQ(history.entries[0].subject, "server s8");
  EXPECT_EQ(history.entries[0].actor, "tester");
  history = rig.ask<HistoryAnswer>(ListHistory{{history.next, 0}, {}});
  EXPECT_EQ(history.entries.size(), 2u);
  rig.add_vm(1, "web", 9);
  rig.live(seconds(1));
  rig.lease(1, 9);
  ListLeases leases;
  leases.page.limit = 4;
  std::size_t count = 0;
  do {
    const auto answer = rig.ask<LeasesAnswer>(leases);
    count += answer.leases.size();
    leases.page.after = answer.next;
  } while (!leases.page.after.empty());
  EXPECT_EQ(count, 9u);
}

}  // namespace
}  // namespace tidepool::pool::controller
