// A VM whose memory control group is full: what goes of it between two ticks, and what not even that moves.
#include <gtest/gtest.h>

#include "tests/unit/policy/policy_fixture.h"

namespace tidepool::policy {
namespace {

using namespace literals;
using namespace std::chrono_literals;

// A host that has ticked once, with a VM of 200 MiB whose first half is in use.
struct FullGroup : TestHost {
  FullGroup() {
    add(1, 100);
    for (int i = 0; i < 10; ++i) {
      look_at_all(up_to(50));
      tick();
    }
  }
};

TEST(Relief, TakesWhatIsColdestWhateverWasPromised) {
  FullGroup host;
  TestVm& vm = host.vm(1);
  vm.view.guarantee = 200_MiB;
  vm.view.stall = 0.5;
  host.config.demote_per_second = Bytes{1};
  host.snapshot.host.available = Bytes{};
  host.look_at_all(up_to(50));
  EXPECT_TRUE(host.tick().demotions.empty());
  const Plan plan = host.relieve(1);
  EXPECT_EQ(demoted(plan), 8_MiB);
  for (const Move& move : plan.demotions) {
    EXPECT_GE(move.region.region, 50u) << "it is in use";
    EXPECT_EQ(move.reason, Reason::kGroupLimit);
    EXPECT_FALSE(move.spares) << "there is no time to be choosy";
  }
  const Decision decision = decision_of(plan, 1);
  EXPECT_EQ(decision.action, Action::kDemote);
  EXPECT_EQ(decision.reason, Reason::kGroupLimit);
  EXPECT_EQ(decision.bytes, 8_MiB);
  EXPECT_NE(decision.detail.find("guarantee of 200M, which gives way"), std::string::npos) << decision.detail;
}

TEST(Relief, SaysNothingOfAGuaranteeThatIsKept) {
  FullGroup host;
  const Decision decision = decision_of(host.relieve(1), 1);
  EXPECT_EQ(decision.reason, Reason::kGroupLimit);
  EXPECT_EQ(decision.detail.find("guarantee"), std::string::npos) << decision.detail;
}

// The next one comes before a tick has told what became of the last one.
TEST(Relief, AsksForNothingTwice) {
  FullGroup host;
  std::set<std::uint32_t> asked;
  for (int i = 0; i < 5; ++i) {
    const Plan plan = host.relieve(1);
    EXPECT_EQ(demoted(plan), 8_MiB);
    for (const Move& move : plan.demotions) EXPECT_TRUE(asked.insert(move.region.region).second);
    if (i % 2 == 0) host.carry_out(plan);
  }
  for (const Move& move : host.tick().demotions) EXPECT_TRUE(asked.insert(move.region.region).second);
}

// Of all VMs, and as things are now, not as they were at the last tick.
TEST(Relief, StopsAtTheCeilingOnFarBytes) {
  FullGroup host;
  TestVm& other = host.add(2, 20);
  other.view.mode = Mode::kObserve;
  host.snapshot.host.max_far = 24_MiB;
  host.tick();
  for (std::size_t r = 0; r < 6; ++r) other.make_far(r);
  const Plan first = host.relieve(1);
  EXPECT_EQ(demoted(first), 8_MiB);
  host.carry_out(first);
  for (const Move& move : first.demotions) host.engine.ended(move.vm, move.region, move.pages);
  EXPECT_EQ(demoted(host.relieve(1)), 4_MiB) << "so much is left";
  const Plan none = host.relieve(1);
  EXPECT_TRUE(none.demotions.empty());
  EXPECT_EQ(decision_of(none, 1).reason, Reason::kFarCeiling);
  EXPECT_NE(decision_of(none, 1).detail.find("safety.max_far"), std::string::npos) << decision_of(none, 1).detail;
  EXPECT_TRUE(host.relieve(1).decisions.empty()) << "it is said once";
}

TEST(Relief, MovesNothingThatMayNotMove) {
  struct Obstacle {
    Reason reason;
    void (*change)(TestHost&);
  };
  const Obstacle cases[] = {
      {Reason::kFrozen, [](TestHost& h) { h.snapshot.host.frozen = true; }},
      {Reason::kKeeperAway, [](TestHost& h) { h.snapshot.host.keeper_away = true; }},
      {Reason::kHeld, [](TestHost& h) { h.vm(1).view.held = true; }},
      {Reason::kPoolFull, [](TestHost& h) { h.snapshot.host.tiers[0].usable = false; }},
  };
  for (const Obstacle& c : cases) {
    FullGroup host;
    c.change(host);
    host.vm(1).view.limit = 50_MiB;
    const Plan tick = host.tick();
    EXPECT_EQ(decision_of(tick, 1).reason, c.reason) << word(c.reason);
    EXPECT_TRUE(host.relieve(1).demotions.empty()) << word(c.reason);
  }
  for (const Mode mode : {Mode::kObserve, Mode::kDryRun}) {
    FullGroup host;
    host.vm(1).view.mode = mode;
    host.tick();
    EXPECT_TRUE(host.relieve(1).demotions.empty());
  }
  FullGroup host;
  EXPECT_TRUE(host.relieve(7).demotions.empty()) << "it is not there";
}

}  // namespace
}  // namespace tidepool::policy
