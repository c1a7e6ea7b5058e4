#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <random>
#include <set>
#include <sstream>

#include "policy/plan.h"

namespace tidepool::policy {
namespace {

using namespace literals;
using namespace std::chrono_literals;

constexpr std::uint16_t kFull = 512;

Snapshot host_with(std::vector<VmView> vms) {
  Snapshot snapshot;
  snapshot.now = MonoTime{1h};
  snapshot.host = {.total = 64_GiB,
                   .available = 32_GiB,
                   .reserve = 2_GiB,
                   .max_far = 16_GiB,
                   .pool_capacity = 8_GiB,
                   .pool_used = Bytes{}};
  snapshot.vms = std::move(vms);
  return snapshot;
}

VmView vm_with(std::uint32_t id, std::size_t regions) {
  VmView vm;
  vm.id = VmId{id};
  vm.name = "vm-" + std::to_string(id);
  vm.mode = Mode::kActive;
  vm.promised = vm.resident = Bytes{regions << 21};
  vm.objects.push_back({0, std::vector<RegionObservation>(regions, RegionObservation{.resident = kFull})});
  return vm;
}

// Lets time pass with some regions touched.
Plan tick(Snapshot& snapshot, PolicyState& state, const PolicyConfig& config, Nanoseconds passed,
          const std::set<std::size_t>& touched = {}) {
  snapshot.now = snapshot.now + passed;
  for (VmView& vm : snapshot.vms) {
    for (std::size_t r = 0; r < vm.objects[0].regions.size(); ++r) {
      RegionObservation& region = vm.objects[0].regions[r];
      region.armed = 4;
      region.touches = touched.contains(r) ? 4 : 0;
    }
  }
  return plan_tick(snapshot, state, config);
}

Bytes demoted(const Plan& plan) {
  return Bytes{plan.demotions.size() << 21};
}

TEST(PlanTick, DemotesNothingThatHasNotProvedCold) {
  Snapshot snapshot = host_with({vm_with(1, 100)});
  PolicyState state;
  EXPECT_TRUE(tick(snapshot, state, {}, 1s).demotions.empty());
  EXPECT_TRUE(tick(snapshot, state, {}, 60s).demotions.empty());
}

TEST(PlanTick, DemotesWhatStaysUntouchedAndSparesWhatIsTouched) {
  Snapshot snapshot = host_with({vm_with(1, 100)});
  PolicyState state;
  tick(snapshot, state, {}, 1s);
  std::set<std::size_t> hot;
  for (std::size_t r = 0; r < 10; ++r) hot.insert(r);
  tick(snapshot, state, {}, 60s, hot);
  const Plan plan = tick(snapshot, state, {}, 100s, hot);
  ASSERT_FALSE(plan.demotions.empty());
  for (const Move& move : plan.demotions) EXPECT_GE(move.region.region, 10u);
  EXPECT_EQ(plan.decisions.front().reason, Reason::kCold);
}

TEST(PlanTick, OnlySaysWhatItWouldDoInObserveMode) {
  VmView vm = vm_with(1, 100);
  vm.mode = Mode::kObserve;
  vm.limit = 100_MiB;
  Snapshot snapshot = host_with({vm});
  PolicyState state;
  const Plan plan = tick(snapshot, state, {}, 1s);
  EXPECT_TRUE(plan.demotions.empty());
  ASSERT_EQ(plan.decisions.size(), 1u);
  EXPECT_TRUE(plan.decisions[0].would);
  EXPECT_EQ(plan.decisions[0].action, Action::kDemote);
  EXPECT_GE(plan.decisions[0].bytes, 100_MiB);
}

TEST(PlanTick, ReachesAnOperatorsLimitEvenWhenEverythingIsWarm) {
  VmView vm = vm_with(1, 100);
  vm.limit = 150_MiB;
  Snapshot snapshot = host_with({vm});
  PolicyState state;
  std::set<std::size_t> all;
  for (std::size_t r = 0; r < 100; ++r) all.insert(r);
  const Plan plan = tick(snapshot, state, {}, 1s, all);
  EXPECT_EQ(demoted(plan), 50_MiB);
  EXPECT_EQ(plan.demotions.front().reason, Reason::kOverLimit);
}

TEST(PlanTick, NeverBreaksAGuaranteeForALimit) {
  VmView vm = vm_with(1, 100);
  vm.limit = 50_MiB;
  vm.guarantee = 180_MiB;
  Snapshot snapshot = host_with({vm});
  PolicyState state;
  EXPECT_EQ(demoted(tick(snapshot, state, {}, 1s)), 20_MiB);
}

TEST(PlanTick, RestoresABrokenGuaranteeHottestFirst) {
  VmView vm = vm_with(1, 10);
  vm.resident = 10_MiB;
  vm.far = 10_MiB;
  vm.guarantee = 14_MiB;
  for (std::size_t r = 0; r < 5; ++r) vm.objects[0].regions[r] = {.resident = 0, .far = kFull};
  Snapshot snapshot = host_with({vm});
  PolicyState state;
  const Plan plan = tick(snapshot, state, {}, 1s, {3});
  ASSERT_EQ(plan.restores.size(), 2u);
  EXPECT_EQ(plan.restores[0].region.region, 3u);
  EXPECT_TRUE(plan.demotions.empty());
}

TEST(PlanTick, StopsWhileTheStallBudgetIsExceeded) {
  VmView vm = vm_with(1, 100);
  vm.limit = 50_MiB;
  vm.stall = 0.02;
  Snapshot snapshot = host_with({vm});
  PolicyState state;
  Plan plan = tick(snapshot, state, {}, 1s);
  EXPECT_TRUE(plan.demotions.empty());
  EXPECT_EQ(plan.decisions.at(0).reason, Reason::kStallBudget);
  snapshot.vms[0].stall = 0.001;
  EXPECT_TRUE(tick(snapshot, state, {}, 5s).demotions.empty()) << "the pause outlasts the peak";
  EXPECT_FALSE(tick(snapshot, state, {}, 10s).demotions.empty());
}

TEST(PlanTick, NamesTheBoundThatHoldsItBack) {
  struct Case {
    Reason reason;
    void (*change)(Snapshot&);
  };
  const Case cases[] = {
      {Reason::kFrozen, [](Snapshot& s) { s.host.frozen = true; }},
      {Reason::kHeld, [](Snapshot& s) { s.vms[0].held = true; }},
      {Reason::kFarCeiling, [](Snapshot& s) { s.host.max_far = Bytes{}; }},
      {Reason::kPoolFull, [](Snapshot& s) { s.host.pool_used = s.host.pool_capacity; }},
      {Reason::kNotEvacuable, [](Snapshot& s) { s.vms[0].far = 1_GiB, s.host.available = s.host.reserve; }},
      {Reason::kGuarantee, [](Snapshot& s) { s.vms[0].guarantee = s.vms[0].resident; }},
  };
  for (const Case& c : cases) {
    VmView vm = vm_with(1, 100);
    vm.limit = 50_MiB;
    Snapshot snapshot = host_with({vm});
    c.change(snapshot);
    PolicyState state;
    const Plan plan = tick(snapshot, state, {}, 1s);
    EXPECT_TRUE(plan.demotions.empty()) << word(c.reason);
    ASSERT_EQ(plan.decisions.size(), 1u) << word(c.reason);
    EXPECT_EQ(plan.decisions[0].reason, c.reason) << word(plan.decisions[0].reason);
    EXPECT_FALSE(plan.decisions[0].detail.empty());
  }
}

TEST(PlanTick, SharesAHostsShortageInProportionToTheSurplus) {
  Snapshot snapshot = host_with({vm_with(1, 300), vm_with(2, 100)});
  snapshot.host.reserve = snapshot.host.available + 80_MiB;
  snapshot.host.require_evacuable = false;
  PolicyState state;
  const Plan plan = tick(snapshot, state, {}, 1s);
  std::map<std::uint32_t, Bytes> by_vm;
  for (const Move& move : plan.demotions) by_vm[move.vm.value] += 2_MiB;
  EXPECT_EQ(by_vm[1], 60_MiB);
  EXPECT_EQ(by_vm[2], 20_MiB);
}

TEST(PlanTick, PausesColdDemotionWhenItKeepsComingBackButNotAnOperatorsLimit) {
  Snapshot snapshot = host_with({vm_with(1, 100)});
  PolicyState state;
  tick(snapshot, state, {}, 1s);
  const Plan first = tick(snapshot, state, {}, 200s);
  ASSERT_GE(first.demotions.size(), 64u);
  for (const Move& move : first.demotions) snapshot.vms[0].objects[0].regions[move.region.region].refaults = 20;
  const Plan second = tick(snapshot, state, {}, 1s);
  EXPECT_TRUE(second.demotions.empty());
  EXPECT_EQ(second.decisions.at(0).reason, Reason::kPingpong);
  EXPECT_NE(second.decisions.at(0).detail.find("100 of 100"), std::string::npos) << second.decisions.at(0).detail;
  snapshot.vms[0].limit = 100_MiB;
  EXPECT_FALSE(tick(snapshot, state, {}, 1s).demotions.empty());
}

TEST(PlanTick, RespectsItsRateLimit) {
  VmView vm = vm_with(1, 1000);
  vm.limit = Bytes{};
  Snapshot snapshot = host_with({vm});
  PolicyConfig config;
  config.demote_per_second = 10_MiB;
  PolicyState state;
  Bytes moved;
  for (int i = 0; i < 10; ++i) moved += demoted(tick(snapshot, state, config, 1s));
  EXPECT_LE(moved, 110_MiB);
  EXPECT_GE(moved, 80_MiB);
}

TEST(PlanTick, NeverExceedsABoundWhateverItIsGiven) {
  const auto seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (int round = 0; round < 2000; ++round) {
    const auto below = [&](std::uint64_t n) { return n == 0 ? 0 : random() % n; };
    std::vector<VmView> vms;
    for (std::uint32_t id = 1; id <= 1 + below(4); ++id) {
      VmView vm = vm_with(id, 1 + below(60));
      vm.mode = below(3) == 0 ? Mode::kObserve : Mode::kActive;
      vm.held = below(8) == 0;
      vm.resident = vm.far = Bytes{};
      for (auto& region : vm.objects[0].regions) {
        region.resident = static_cast<std::uint16_t>(below(513));
        region.far = static_cast<std::uint16_t>(below(513 - region.resident));
        region.touches = static_cast<std::uint16_t>(below(5));
        region.armed = 4;
        region.refaults = static_cast<std::uint16_t>(below(3));
        vm.resident += to_bytes(PageCount{region.resident});
        vm.far += to_bytes(PageCount{region.far});
      }
      vm.guarantee = Bytes{below(vm.promised.value)};
      if (below(2) == 0) vm.limit = Bytes{below(vm.promised.value)};
      vm.stall = static_cast<double>(below(20)) / 1000;
      vms.push_back(std::move(vm));
    }
    Snapshot snapshot = host_with(std::move(vms));
    snapshot.host.max_far = Bytes{below(1ull << 30)};
    snapshot.host.pool_capacity = Bytes{below(1ull << 28)};
    snapshot.host.frozen = below(10) == 0;
    PolicyState state;
    PolicyConfig config;
    config.demote_per_second = Bytes{below(64ull << 20)};
    PolicyState again = state;
    const Plan plan = plan_tick(snapshot, state, config);
    const Plan repeated = plan_tick(snapshot, again, config);
    ASSERT_EQ(plan.demotions.size(), repeated.demotions.size());
    std::map<std::uint32_t, Bytes> taken;
    std::set<std::pair<std::uint32_t, std::uint64_t>> once;
    Bytes total;
    Bytes far;
    for (const VmView& vm : snapshot.vms) far += vm.far;
    for (std::size_t i = 0; i < plan.demotions.size(); ++i) {
      const Move& move = plan.demotions[i];
      ASSERT_EQ(move.region, repeated.demotions[i].region);
      ASSERT_TRUE(once.insert({move.vm.value, move.region.region}).second);
      const Bytes bytes =
          to_bytes(PageCount{snapshot.vms[move.vm.value - 1].objects[0].regions[move.region.region].resident});
      taken[move.vm.value] += bytes;
      total += bytes;
    }
    ASSERT_FALSE(snapshot.host.frozen && total != Bytes{});
    for (const auto& [id, bytes] : taken) {
      const VmView& vm = snapshot.vms[id - 1];
      ASSERT_EQ(vm.mode, Mode::kActive);
      ASSERT_FALSE(vm.held);
      ASSERT_GE(vm.resident, vm.guarantee + bytes);
      ASSERT_LE(vm.stall, vm.stall_budget);
    }
    if (total != Bytes{}) {
      ASSERT_LE(far + total, snapshot.host.max_far);
      ASSERT_LE(total, snapshot.host.pool_capacity);
      ASSERT_LE(total, std::max(config.demote_per_second, 2_MiB));
    }
  }
}

TEST(PlanTick, SettlesOnTheColdPartOfASkewedLoad) {
  std::mt19937 random(42);
  constexpr std::size_t kRegions = 400;
  VmView vm = vm_with(1, kRegions);
  vm.limit = 400_MiB;
  vm.stall_budget = 1;
  Snapshot snapshot = host_with({vm});
  PolicyState state;
  PolicyConfig config;
  config.pingpong_min_regions = 100000;
  std::uint64_t late_refaults = 0;
  for (int second = 0; second < 600; ++second) {
    VmView& view = snapshot.vms[0];
    view.resident = view.far = Bytes{};
    for (std::size_t r = 0; r < kRegions; ++r) {
      // The first quarter is touched all the time, the rest almost never.
      auto& region = view.objects[0].regions[r];
      const bool touched = r < kRegions / 4 ? true : random() % 2000 == 0;
      const bool is_far = region.far != 0;
      region.armed = is_far ? 0 : 4;
      region.touches = touched && !is_far ? 4 : 0;
      region.refaults = 0;
      if (touched && is_far) {
        region = {.resident = kFull, .far = 0, .armed = 0, .touches = 0, .refaults = kFull};
        if (second > 300) ++late_refaults;
      }
      view.resident += to_bytes(PageCount{region.resident});
      view.far += to_bytes(PageCount{region.far});
    }
    snapshot.now = snapshot.now + 1s;
    for (const Move& move : plan_tick(snapshot, state, config).demotions) {
      snapshot.vms[0].objects[0].regions[move.region.region] = {.resident = 0, .far = kFull};
    }
  }
  EXPECT_LE(snapshot.vms[0].resident, 420_MiB);
  for (std::size_t r = 0; r < kRegions / 4; ++r) EXPECT_EQ(snapshot.vms[0].objects[0].regions[r].far, 0) << r;
  EXPECT_LT(late_refaults, 100u);
}

TEST(Reasons, AreAllDocumented) {
  std::ifstream file(std::string(TIDEPOOL_SOURCE_DIR) + "/docs/policy.md");
  std::stringstream page;
  page << file.rdbuf();
  for (unsigned reason = 0; reason < kReasonCount; ++reason) {
    const std::string row = "| `" + std::string(word(static_cast<Reason>(reason))) + "` |";
    EXPECT_NE(page.str().find(row), std::string::npos) << row;
  }
}

TEST(Evacuation, CountsWhatAPoolInDramGivesBack) {
  HostView host;
  host.available = 4_GiB;
  host.reserve = 2_GiB;
  host.pool_used = 1_GiB;
  EXPECT_EQ(evacuation(host, 3_GiB, 1_GiB).shortfall, Bytes{});
  EXPECT_EQ(evacuation(host, 4_GiB, 1_GiB).shortfall, 1_GiB);
  host.pool_is_dram = false;
  EXPECT_EQ(evacuation(host, 3_GiB, 1_GiB).shortfall, 1_GiB);
  EXPECT_EQ(evacuation(host, 3_GiB, 1_GiB).estimate, 3s);
}

}  // namespace
}  // namespace tidepool::policy
