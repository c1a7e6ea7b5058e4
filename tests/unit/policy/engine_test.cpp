#include "policy/engine.h"

#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <sstream>

#include "tests/unit/policy/policy_fixture.h"

namespace tidepool::policy {
namespace {

using namespace literals;
using namespace std::chrono_literals;

TEST(Engine, DemotesNothingThatHasNotProvedCold) {
  TestHost host;
  host.add(1, 100);
  EXPECT_TRUE(host.tick().demotions.empty());
  for (int i = 0; i < 10; ++i) {
    host.look_at_all({});
    EXPECT_TRUE(host.tick(5s).demotions.empty());
  }
}

TEST(Engine, DemotesWhatStaysUnusedAndSparesWhatIsUsed) {
  TestHost host;
  host.add(1, 100);
  const auto hot = up_to(10);
  let_cool(host, 200, hot);
  host.look_at_all(hot);
  const Plan plan = host.tick();
  ASSERT_FALSE(plan.demotions.empty());
  for (const Move& move : plan.demotions) EXPECT_GE(move.region.region, 10u);
  EXPECT_EQ(decision_of(plan, 1).reason, Reason::kCold) << decision_of(plan, 1).detail;
}

TEST(Engine, TrimsNoMoreThanTheStallBudgetPaysFor) {
  TestHost host;
  host.add(1, 400);
  host.vm(1).view.stall_budget = 0.0005;  // fifty faults a second for two threads
  let_cool(host, 300);
  std::set<std::uint32_t> gone;
  for (int i = 0; i < 5; ++i) {
    host.look_at_all({});
    const Plan plan = host.tick();
    for (const Move& move : plan.demotions) gone.insert(move.region.region);
    host.carry_out(plan);
  }
  EXPECT_GT(gone.size(), 0u);
  EXPECT_LT(gone.size(), 100u) << "what little is known of the rest does not rule out that it is used";
  // Far memory shows its uses. That there are none pays for more.
  for (int i = 0; i < 300; ++i) {
    if (i % 5 == 0) host.look_at_all({});
    const Plan plan = host.tick();
    for (const Move& move : plan.demotions) gone.insert(move.region.region);
    host.carry_out(plan);
  }
  EXPECT_EQ(gone.size(), 400u);
}

TEST(Engine, OnlySaysWhatItWouldDoInObserveMode) {
  TestHost host;
  TestVm& vm = host.add(1, 100);
  vm.view.mode = Mode::kObserve;
  vm.view.limit = 100_MiB;
  const Plan plan = host.tick();
  EXPECT_TRUE(plan.demotions.empty());
  ASSERT_EQ(plan.decisions.size(), 1u);
  EXPECT_TRUE(plan.decisions[0].would);
  EXPECT_EQ(plan.decisions[0].action, Action::kDemote);
  EXPECT_GE(plan.decisions[0].bytes, 100_MiB);
  EXPECT_TRUE(host.tick().decisions.empty()) << "the same again is no news";
}

TEST(Engine, PlaysTheWholeGameOnPaperInDryRunMode) {
  TestHost host;
  TestVm& vm = host.add(1, 100);
  vm.view.mode = Mode::kDryRun;
  vm.view.limit = 100_MiB;
  vm.view.stall_budget = 1;
  Plan plan;
  for (int i = 0; i < 10; ++i) {
    plan = host.tick();
    EXPECT_TRUE(plan.demotions.empty());
  }
  ASSERT_EQ(plan.dry_runs.size(), 1u);
  EXPECT_EQ(plan.dry_runs[0].far, 100_MiB);
  EXPECT_EQ(plan.dry_runs[0].faults, 0);
  // What is used of it comes home, on paper, and costs, on paper.
  for (std::uint32_t r = 0; r < 100; ++r) host.look(1, r, 8);
  host.tick();
  plan = host.tick();
  EXPECT_GT(plan.dry_runs[0].faults, 1000);
  EXPECT_GT(plan.dry_runs[0].stall, 0.01);
  EXPECT_TRUE(host.engine.heat_of(VmId{1})->consistent());
  vm.view.mode = Mode::kActive;
  vm.view.limit.reset();
  host.tick();
  EXPECT_EQ(host.engine.heat_of(VmId{1})->far_pages(), 0u) << "paper does not outlive the dry run";
}

TEST(Engine, ReachesAnOperatorsLimitEvenWhenEverythingIsWarm) {
  TestHost host;
  host.add(1, 100).view.limit = 150_MiB;
  host.look_at_all(up_to(100));
  const Plan plan = host.tick();
  EXPECT_EQ(demoted(plan), 50_MiB);
  EXPECT_EQ(plan.demotions.front().reason, Reason::kOverLimit);
}

TEST(Engine, NeverBreaksAGuaranteeForALimit) {
  TestHost host;
  TestVm& vm = host.add(1, 100);
  vm.view.limit = 50_MiB;
  vm.view.guarantee = 180_MiB;
  EXPECT_EQ(demoted(host.tick()), 20_MiB);
  EXPECT_EQ(demoted(host.tick()), Bytes{}) << "what is on its way counts as gone";
}

TEST(Engine, RestoresABrokenGuaranteeMostMissedFirst) {
  TestHost host;
  TestVm& vm = host.add(1, 10);
  for (std::size_t r = 0; r < 5; ++r) vm.make_far(r);
  host.tick();
  vm.view.guarantee = 14_MiB;
  host.refault(1, 3, 12);
  const Plan plan = host.tick();
  ASSERT_EQ(plan.restores.size(), 2u);
  EXPECT_EQ(plan.restores[0].region.region, 3u);
  EXPECT_TRUE(plan.demotions.empty());
  EXPECT_EQ(decision_of(plan, 1).reason, Reason::kBelowGuarantee);
}

TEST(Engine, DoesNotFillAHostThatIsFullForAGuarantee) {
  TestHost host;
  TestVm& vm = host.add(1, 10);
  vm.make_far(0);
  vm.view.guarantee = 20_MiB;
  host.snapshot.host.available = 1_MiB;
  const Plan plan = host.tick();
  EXPECT_TRUE(plan.restores.empty());
  EXPECT_EQ(decision_of(plan, 1).reason, Reason::kNoMemory);
}

TEST(Engine, StopsForALimitWhileTheStallBudgetIsExceededUnlessThereIsNone) {
  TestHost host;
  TestVm& vm = host.add(1, 100);
  vm.view.limit = 120_MiB;
  vm.view.stall = 0.02;
  Plan plan = host.tick();
  EXPECT_TRUE(plan.demotions.empty());
  EXPECT_EQ(decision_of(plan, 1).reason, Reason::kStallBudget);
  vm.view.stall = 0.001;
  EXPECT_TRUE(host.tick(5s).demotions.empty()) << "the pause outlasts the peak";
  EXPECT_FALSE(host.tick(10s).demotions.empty());
  vm.view.stall = 1.7;
  vm.view.stall_budget = 1;
  vm.view.limit = 100_MiB;
  EXPECT_FALSE(host.tick().demotions.empty()) << "a budget of all the time is none";
}

TEST(Engine, BringsHomeWhatIsMissedMostWhenTheStallBudgetIsExceeded) {
  TestHost host;
  TestVm& vm = host.add(1, 100);
  for (std::size_t r = 0; r < 50; ++r) vm.make_far(r);
  host.tick();
  for (int i = 0; i < 3; ++i) {
    for (std::uint32_t r = 10; r < 20; ++r) host.refault(1, r, 20);
    vm.view.stall = 0.2;
    const Plan plan = host.tick();
    ASSERT_FALSE(plan.restores.empty());
    for (std::size_t n = 0; n < 10 && i > 0 && n < plan.restores.size(); ++n)
      EXPECT_TRUE(plan.restores[n].region.region >= 10 && plan.restores[n].region.region < 20);
    EXPECT_EQ(decision_of(plan, 1).reason, Reason::kPromoteBack);
  }
}

TEST(Engine, BringsHomeWithinTheBandwidthForThat) {
  TestHost host;
  TestVm& vm = host.add(1, 100);
  for (std::size_t r = 0; r < 100; ++r) vm.make_far(r);
  host.tick();
  vm.view.guarantee = 200_MiB;
  host.config.restore_per_second = 10_MiB;
  Bytes home;
  for (int i = 0; i < 10; ++i) {
    const Plan plan = host.tick();
    for (const Move& move : plan.restores) home += to_bytes(PageCount{move.pages});
    host.carry_out(plan);
  }
  EXPECT_GE(home, 90_MiB);
  EXPECT_LE(home, 120_MiB) << "two seconds' worth at once, at most";
}

TEST(Engine, NamesTheBoundThatHoldsItBack) {
  struct Case {
    Reason reason;
    void (*change)(TestHost&);
  };
  const Case cases[] = {
      {Reason::kFrozen, [](TestHost& h) { h.snapshot.host.frozen = true; }},
      {Reason::kKeeperAway, [](TestHost& h) { h.snapshot.host.keeper_away = true; }},
      {Reason::kHeld, [](TestHost& h) { h.vm(1).view.held = true; }},
      {Reason::kFarCeiling, [](TestHost& h) { h.snapshot.host.max_far = Bytes{}; }},
      {Reason::kPoolFull, [](TestHost& h) { h.snapshot.host.tiers[0].used = h.snapshot.host.tiers[0].capacity; }},
      {Reason::kPoolFull, [](TestHost& h) { h.snapshot.host.tiers.clear(); }},
      {Reason::kPoolFull,
       [](TestHost& h) {
         h.vm(1).view.leased = {kAllTiers, 1_MiB};
       }},
      {Reason::kNotEvacuable,
       [](TestHost& h) { h.vm(1).make_far(0), h.snapshot.host.available = h.snapshot.host.reserve; }},
      {Reason::kGuarantee, [](TestHost& h) { h.vm(1).view.guarantee = 200_MiB; }},
  };
  for (const Case& c : cases) {
    TestHost host;
    host.add(1, 100).view.limit = 50_MiB;
    c.change(host);
    const Plan plan = host.tick();
    EXPECT_TRUE(plan.demotions.empty()) << word(c.reason);
    ASSERT_EQ(plan.decisions.size(), 1u) << word(c.reason);
    EXPECT_EQ(plan.decisions[0].reason, c.reason) << word(plan.decisions[0].reason);
    EXPECT_FALSE(plan.decisions[0].detail.empty()) << word(c.reason);
  }
}

// Pages stay far when their VM is set back: somebody will want them home.
TEST(Engine, CountsWhatIsFarWhateverTheModeOfItsVm) {
  struct Case {
    Bytes ceiling;
    Bytes available;  // above the reserve
    Reason reason;
  };
  // A GiB is far.
  const Case cases[] = {{1_GiB + 6_MiB, 16_GiB, Reason::kOverLimit},
                        {1_GiB, 16_GiB, Reason::kFarCeiling},
                        {16_GiB, 1_GiB - 1_MiB, Reason::kNotEvacuable},
                        {16_GiB, 1_GiB, Reason::kOverLimit}};
  for (const Mode mode : {Mode::kActive, Mode::kDryRun, Mode::kObserve}) {
    for (const Case& c : cases) {
      SCOPED_TRACE(std::string(word(c.reason)) + " in mode " + std::to_string(static_cast<int>(mode)));
      TestHost host;
      host.add(1, 100).view.limit = 50_MiB;
      TestVm& set_back = host.add(2, 512);
      for (std::size_t r = 0; r < 512; ++r) set_back.make_far(r);
      set_back.view.mode = mode;
      host.snapshot.host.max_far = c.ceiling;
      host.snapshot.host.available = host.snapshot.host.reserve + c.available;
      const Plan plan = host.tick();
      EXPECT_EQ(decision_of(plan, 1).reason, c.reason);
      EXPECT_LE(demoted(plan) + 1_GiB, c.ceiling);
    }
  }
}

TEST(Engine, CountsWhatIsOrderedAgainstTheCeilingOnFarBytes) {
  TestHost host;
  host.add(1, 100).view.limit = 50_MiB;
  host.snapshot.host.max_far = 20_MiB;
  EXPECT_EQ(demoted(host.tick()), 20_MiB);
  // Nothing of it has begun.
  const Plan plan = host.tick();
  EXPECT_TRUE(plan.demotions.empty());
  EXPECT_EQ(decision_of(plan, 1).reason, Reason::kFarCeiling);
}

TEST(Engine, TakesAHostsShortageFromWhatIsWorthLeast) {
  TestHost host;
  host.add(1, 100);
  host.add(2, 100);
  host.vm(1).view.weight = 4;
  host.vm(2).view.weight = 0.25;
  host.snapshot.host.tiers[0].host_dram = false;
  host.snapshot.host.available = host.snapshot.host.reserve + 10_MiB;
  for (int i = 0; i < 12; ++i) {
    host.look_at_all(up_to(100));
    host.tick(5s);
  }
  host.snapshot.host.available = host.snapshot.host.reserve - 60_MiB;
  host.look_at_all(up_to(100));
  const Plan plan = host.tick();
  ASSERT_FALSE(plan.demotions.empty());
  for (const Move& move : plan.demotions) EXPECT_EQ(move.vm.value, 2u);
  EXPECT_EQ(plan.demotions[0].reason, Reason::kHostPressure);
  EXPECT_GE(plan.pressure.level, PressureLevel::kExtendPool);
}

TEST(Engine, SharesAShortageInProportionAmongEquals) {
  TestHost host;
  host.add(1, 300);
  host.add(2, 100);
  host.snapshot.host.tiers[0].host_dram = false;
  host.snapshot.host.available = host.snapshot.host.reserve - 80_MiB;
  const Plan plan = host.tick();
  std::map<std::uint32_t, std::uint64_t> regions;
  for (const Move& move : plan.demotions) ++regions[move.vm.value];
  EXPECT_NEAR(static_cast<double>(regions[1]), 30, 1);
  EXPECT_NEAR(static_cast<double>(regions[2]), 10, 1);
}

TEST(Engine, PausesTrimmingWhenItKeepsComingBackButNotAnOperatorsLimit) {
  TestHost host;
  host.add(1, 200);
  host.config.pingpong_min_pages = 64 * kRegionPages;
  host.vm(1).view.stall_budget = 0.9;
  let_cool(host, 300);
  Plan plan;
  for (int i = 0; i < 10; ++i) host.look_at_all({}), plan = host.tick(), host.carry_out(plan);
  ASSERT_GT(host.engine.heat_of(VmId{1})->regrets().moved, host.config.pingpong_min_pages);
  for (const RegionNews& region : host.vm(1).regions) {
    if (region.far > 0) host.refault(1, region.region, 100);
  }
  plan = host.tick();
  EXPECT_TRUE(plan.demotions.empty());
  EXPECT_EQ(decision_of(plan, 1).reason, Reason::kPingpong);
  EXPECT_NE(decision_of(plan, 1).detail.find("trimmed pages came back"), std::string::npos);
  host.vm(1).view.limit = 10_MiB;
  EXPECT_FALSE(host.tick().demotions.empty());
}

TEST(Engine, RespectsItsRateLimit) {
  TestHost host;
  TestVm& vm = host.add(1, 1000);
  vm.view.limit = Bytes{};
  host.config.demote_per_second = 10_MiB;
  Bytes moved;
  for (int i = 0; i < 10; ++i) {
    const Plan plan = host.tick();
    moved += demoted(plan);
    host.carry_out(plan);
  }
  EXPECT_LE(moved, 110_MiB);
  EXPECT_GE(moved, 80_MiB);
}

TEST(Engine, HasNoMoreMovesUnderWayThanThePagerWorksOn) {
  TestHost host;
  host.config.moves_under_way = 128;
  host.config.moves_under_way_per_vm = 64;
  for (std::uint32_t id = 1; id <= 4; ++id) host.add(id, 200).view.limit = Bytes{};
  std::size_t begun = 0;
  for (int i = 0; i < 5; ++i) begun += host.tick().demotions.size();
  EXPECT_EQ(begun, host.config.moves_under_way) << "nothing was carried out";
  for (std::uint32_t id = 1; id <= 4; ++id) {
    EXPECT_LE(host.engine.heat_of(VmId{id})->pending_moves(), host.config.moves_under_way_per_vm);
  }
}

TEST(Engine, GivesUpForAWhileOnMovesThatDoNothing) {
  TestHost host;
  TestVm& vm = host.add(1, 20);
  vm.view.limit = 20_MiB;
  const Plan first = host.tick();
  EXPECT_EQ(demoted(first), 20_MiB);
  for (const Move& move : first.demotions) host.engine.ended(VmId{1}, move.region, 0);
  const Plan second = host.tick();
  EXPECT_EQ(demoted(second), 20_MiB) << "nothing went, so as much has to go as before";
  for (const Move& move : second.demotions) {
    for (const Move& before : first.demotions) EXPECT_NE(move.region, before.region) << "others are tried first";
    host.engine.ended(VmId{1}, move.region, 0);
  }
  std::size_t attempts = 0;
  for (int i = 0; i < 600; ++i) {
    for (const Move& move : host.tick().demotions) {
      ++attempts;
      host.engine.ended(VmId{1}, move.region, 0);
    }
  }
  // 20 regions, 600 seconds.
  EXPECT_GE(attempts, 20u * 600 / 30) << "an order is not forgotten, however often it was in vain";
  EXPECT_LE(attempts, 20u * 600 / 8) << "and yet not every second";
}

TEST(Engine, TakesBackAMoveThatNobodyCouldBegin) {
  TestHost host;
  host.add(1, 20).view.limit = 20_MiB;
  const Plan plan = host.tick();
  ASSERT_FALSE(plan.demotions.empty());
  for (const Move& move : plan.demotions) host.engine.not_taken(move);
  EXPECT_EQ(host.engine.heat_of(VmId{1})->pending_pages(), 0u);
  EXPECT_EQ(demoted(host.tick()), 20_MiB);
}

TEST(Engine, ProbesMemoryOfWhichOnlyWritesAreSeenWithPartsOfIt) {
  TestHost host;
  TestVm& vm = host.add(1, 200);
  vm.view.partial = true;
  host.config.canary_share = 0.05;
  std::size_t canaries = 0;
  std::size_t whole = 0;
  for (int i = 0; i < 400; ++i) {
    for (const RegionNews& region : vm.regions) {
      if (region.resident > 0) host.look(1, region.region, 0, 8, Sees::kWrites);
    }
    const Plan plan = host.tick();
    for (const Move& move : plan.demotions) {
      if (move.reason == Reason::kCanary) {
        ++canaries;
        EXPECT_EQ(std::popcount(move.units), 4);
        EXPECT_EQ(move.pages, 64);
      } else {
        ++whole;
        EXPECT_GT(canaries, 0u) << "silence of writes proved nothing";
      }
    }
    host.carry_out(plan);
  }
  EXPECT_GT(canaries, 0u);
  EXPECT_GT(whole, 100u) << "canaries that were not missed prove their regions cold";
}

TEST(Engine, ForgetsVmsThatVanishAndStartsAnewWithThoseThatReturn) {
  TestHost host;
  host.add(1, 100);
  host.add(2, 100);
  host.tick();
  const Bytes both = host.engine.footprint();
  host.vms.pop_back();
  host.tick();
  EXPECT_LT(host.engine.footprint(), both);
  EXPECT_EQ(host.engine.heat_of(VmId{2}), nullptr);
  host.add(2, 50);
  host.tick();
  EXPECT_EQ(host.engine.heat_of(VmId{2})->regions(), 50u);
}

TEST(Engine, KeepsAVmsHistoryForOneThatComesLater) {
  TestHost host;
  host.add(1, 10);
  host.tick();
  for (int i = 0; i < 130; ++i) host.tick();
  const std::string history = host.engine.history_of(VmId{1});
  Engine next;
  EXPECT_TRUE(next.give_history(VmId{1}, history));
  EXPECT_FALSE(next.give_history(VmId{1}, "v0 nonsense"));
  next.tick(host.snapshot, host.config);
  EXPECT_EQ(next.history_of(VmId{1}), history);
}

TEST(Engine, SaysWhetherAnotherVmFits) {
  TestHost host;
  host.add(1, 5000).view.guarantee = 5_GiB;
  host.snapshot.host.available = 50_GiB;
  host.tick();
  const Fit small = host.engine.fits(4_GiB, 4_GiB);
  EXPECT_TRUE(small.fits) << small.arithmetic;
  const Fit large = host.engine.fits(40_GiB, 20_GiB);
  EXPECT_FALSE(large.fits) << large.arithmetic;
  EXPECT_GT(large.shortfall, Bytes{});
  EXPECT_NE(large.arithmetic.find("short"), std::string::npos);
}

TEST(Reasons, AreAllDocumented) {
  std::ifstream file(std::string(TIDEPOOL_SOURCE_DIR) + "/docs/policy.md");
  std::stringstream page;
  page << file.rdbuf();
  for (unsigned reason = 0; reason < kReasonCount; ++reason) {
    const std::string row = "| `" + std::string(word(static_cast<Reason>(reason))) + "` |";
    EXPECT_NE(page.str().find(row), std::string::npos) << row;
  }
  for (int level = 0; level <= static_cast<int>(PressureLevel::kRefuseVms); ++level) {
    const std::string row = "| `" + std::string(word(static_cast<PressureLevel>(level))) + "` |";
    EXPECT_NE(page.str().find(row), std::string::npos) << row;
  }
}

}  // namespace
}  // namespace tidepool::policy
