// 10,000 VMs of 1,000 hosts, 1,000 servers in 50 failure domains: what must hold, at that size.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "bench/controller/large_pool.h"
#include "pool/controller/core/state.h"
#include "tests/unit/pool/controller/audit.h"
#include "tests/unit/pool/controller/slow_shares.h"

namespace tidepool::pool::controller {
namespace {

// What the core distributes, as the slow solver is told it.
ShareProblem problem_of(const State& state) {
  ShareProblem problem;
  std::map<std::string, std::uint32_t> tenants;
  for (const auto& [name, tenant] : state.tenants) {
    tenants[name] = static_cast<std::uint32_t>(problem.tenants.size());
    problem.tenants.push_back({0, kUnbounded, tenant.record.bounds.weight});
  }
  problem.capacity = static_cast<double>(state.capacity_units() - state.buffer);
  problem.host_limits = {kUnbounded};
  for (const auto& [name, host] : state.hosts) {
    for (const auto& [vm_name, vm] : host.vms) {
      ShareMember member;
      member.unit = vm.record.replicas;
      member.demand = static_cast<double>(state.slices_for(vm.wanted)) * member.unit;
      member.weight = vm.record.bounds.weight;
      member.tenant = tenants.at(vm.record.tenant);
      problem.members.push_back(member);
    }
  }
  return problem;
}

TEST(LargePoolCore, SharesAreWithinAPerCentOfTheExactOnes) {
  LargePool pool{LargePoolShape{}};
  pool.distribute();
  const State& state = pool.core().state();
  const ShareProblem problem = problem_of(state);
  const std::vector<double> exact = slow_tree(problem);
  double wanted = 0;
  double sum = 0;
  double off = 0;
  std::size_t i = 0;
  for (const auto& [name, host] : state.hosts) {
    for (const auto& [vm_name, vm] : host.vms) {
      const double share = static_cast<double>(vm.share * vm.record.replicas);
      off += std::abs(share - exact[i]);
      sum += exact[i];
      wanted += problem.members[i].demand;
      // To the next whole slice.
      ASSERT_NEAR(share, exact[i], vm.record.replicas + 0.001 * exact[i]) << name << "/" << vm_name;
      ++i;
    }
  }
  ASSERT_EQ(i, 10'000u);
  EXPECT_GT(wanted, 1.2 * sum) << "there is not enough for all, else nothing is shown";
  EXPECT_LT(off, 0.01 * sum);
}

TEST(LargePoolCore, LosesServersAndDrainsOthersWithEveryIndexRight) {
  LargePool pool{LargePoolShape{}};
  pool.fill(5);
  const State& state = pool.core().state();
  ASSERT_EQ(state.slices.size(), 50'000u);
  ASSERT_EQ(audit(state), "");
  // The first 10 are heard no more, the next 10 are to be emptied.
  for (int second = 0; second < 70; ++second) {
    pool.advance(std::chrono::seconds(1));
    if (second % 4 == 0)
      for (unsigned server = 10; server < 1000; ++server) pool.heartbeat(server);
    pool.tick();
  }
  for (unsigned server = 10; server < 20; ++server)
    pool.ask(DrainServer{"server-" + std::to_string(server), true, false});
  ASSERT_EQ(audit(state), "");
  const std::uint64_t lost = state.totals.under_replicated;
  ASSERT_GT(lost, 500u);
  for (int round = 0; round < 60; ++round) {
    for (unsigned host = 0; host < 1000; ++host)
      for (const Task& task : pool.sync(host)) pool.finish(host, task);
    for (unsigned server = 10; server < 1000; ++server) pool.heartbeat(server);
    pool.advance(std::chrono::seconds(1));
    while (pool.tick()) {
    }
    if (state.totals.copying + state.totals.to_copy == 0 && round > 5) break;
  }
  // What is left has no replica that could be read: it waits for its servers.
  EXPECT_LT(state.totals.under_replicated, lost / 20);
  for (const auto& [id, slice] : state.slices)
    for (const ReplicaRecord& replica : slice.record.replicas)
      ASSERT_TRUE(!slice.under_replicated || !state.server_of(replica)->trusted()) << "slice " << id;
  EXPECT_EQ(audit(state), "");
  for (const auto& [id, slice] : state.slices) {
    std::set<std::uint32_t> domains;
    for (const ReplicaRecord& replica : slice.record.replicas)
      if (replica.phase == ReplicaPhase::kInForce) domains.insert(state.server_of(replica)->domain);
    ASSERT_EQ(domains.size(), 2u) << "slice " << id;
  }
  const auto again = load(pool.records(), pool.config(), pool.context());
  ASSERT_NE(again, nullptr);
  EXPECT_EQ(audit(again->state()), "");
  const std::vector<StateChange> records = again->records();
  ASSERT_EQ(records.size(), pool.records().size());
  for (const StateChange& record : records) ASSERT_EQ(pool.records().at(record.key), *record.value) << record.key;
}

}  // namespace
}  // namespace tidepool::pool::controller
