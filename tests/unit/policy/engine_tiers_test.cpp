// Which tier the engine sends pages to, and how much of it.
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "policy/engine.h"
#include "tests/unit/policy/policy_fixture.h"

namespace tidepool::policy {
namespace {

using namespace literals;
using namespace std::chrono_literals;

// Whatever is beyond it would be frozen and copied only to be turned away.
TEST(EngineTiers, SendsNoMoreToLeasedRoomThanIsLeftOfIt) {
  TestHost host;
  host.add(1, 100).view.limit = 50_MiB;
  host.add(2, 100).view.limit = 50_MiB;
  host.vm(1).view.leased = {kAllTiers, 7_MiB};
  const Plan plan = host.tick();
  std::map<std::uint32_t, std::uint64_t> regions;
  for (const Move& move : plan.demotions) ++regions[move.vm.value];
  EXPECT_EQ(regions[1], 3u) << "whole regions of 2 MiB";
  EXPECT_GT(regions[2], 3u) << "one VM's lease is no other's bound";
}

TEST(EngineTiers, PutsWhatALeaseDoesNotHoldIntoAnotherTier) {
  TestHost host;
  TierView other;
  other.name = "other";
  other.capacity = Bytes{8ull << 30};
  other.fault_cost = std::chrono::milliseconds(1);  // nobody's first choice
  host.snapshot.host.tiers.push_back(other);
  host.snapshot.host.tiers[0].host_dram = other.host_dram;
  host.add(1, 100).view.limit = 50_MiB;
  host.vm(1).view.leased = {1, 6_MiB};
  const Plan plan = host.tick();
  const auto there = [&](int tier) {
    return std::ranges::count_if(plan.demotions, [&](const Move& move) { return move.tier == tier; });
  };
  EXPECT_EQ(there(0), 3);
  EXPECT_GT(there(1), 3);
}

TEST(EngineTiers, SendsWhatIsUsedSeldomToTheTierThatCostsNoDram) {
  TestHost host;
  host.snapshot.host.tiers = {{.name = "kernel", .capacity = 8_GiB, .ratio = 0.35, .fault_cost = 5us},
                              {.name = "pool", .capacity = 8_GiB, .host_dram = false, .fault_cost = 20us}};
  host.add(1, 100);
  std::set<std::uint32_t> warm;
  for (std::uint32_t r = 0; r < 50; ++r) warm.insert(r);
  host.snapshot.host.available = host.snapshot.host.reserve + 1_GiB;
  let_cool(host, 120, warm);
  host.vm(1).view.limit = 40_MiB;
  host.vm(1).view.stall_budget = 1;
  // DRAM becomes dear: the host is short.
  host.snapshot.host.available = host.snapshot.host.reserve - 100_MiB;
  std::map<std::uint8_t, std::set<std::uint32_t>> by_tier;
  for (int i = 0; i < 4; ++i) {
    host.look_at_all(warm);
    const Plan plan = host.tick();
    for (const Move& move : plan.demotions) by_tier[move.tier].insert(move.region.region);
    host.carry_out(plan);
  }
  ASSERT_FALSE(by_tier[1].empty());
  for (const std::uint32_t region : by_tier[1]) EXPECT_GE(region, 50u) << "warm memory belongs into the faster tier";
}

TEST(EngineTiers, SendsEachVmOnlyWhereItsPagesCanGo) {
  TestHost host;
  host.snapshot.host.tiers = {{.name = "pool", .capacity = 8_GiB},
                              {.name = "kernel", .capacity = 8_GiB, .ratio = 0.35}};
  for (const std::uint32_t id : {1u, 2u, 3u}) {
    host.add(id, 50).view.limit = 40_MiB;
    host.vm(id).view.tiers = id == 3 ? TierMask{0} : TierMask{1} << (id - 1);
  }
  std::map<std::uint32_t, std::set<std::uint8_t>> went;
  for (int i = 0; i < 5; ++i) {
    const Plan plan = host.tick();
    for (const Move& move : plan.demotions) went[move.vm.value].insert(move.tier);
    for (const Decision& decision : plan.decisions) {
      if (decision.vm != VmId{3}) continue;
      EXPECT_EQ(decision.reason, Reason::kPoolFull) << "no tier is left for it";
    }
    host.carry_out(plan);
  }
  EXPECT_EQ(went[1], std::set<std::uint8_t>{0});
  EXPECT_EQ(went[2], std::set<std::uint8_t>{1});
  EXPECT_TRUE(went[3].empty());
  // One that is full does not hold up the others.
  host.snapshot.host.tiers[1].used = 8_GiB;
  host.vm(1).view.limit = host.vm(2).view.limit = Bytes{2u << 20};
  went.clear();
  for (int i = 0; i < 5; ++i) {
    const Plan plan = host.tick();
    for (const Move& move : plan.demotions) went[move.vm.value].insert(move.tier);
    host.carry_out(plan);
  }
  EXPECT_EQ(went[1], std::set<std::uint8_t>{0});
  EXPECT_TRUE(went[2].empty());
}

}  // namespace
}  // namespace tidepool::policy
