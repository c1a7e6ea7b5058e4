// A VM whose pages can go to two tiers: a fast one that takes DRAM, and a slower one that takes none.
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "policy/tiers.h"
#include "tests/unit/policy/policy_fixture.h"

namespace tidepool::policy {
namespace {

using namespace literals;
using namespace std::chrono_literals;

constexpr unsigned kPool = 0;
constexpr unsigned kKernel = 1;

std::vector<TierView> two_tiers() {
  return {{.name = "pool", .capacity = 8_GiB, .host_dram = false, .fault_cost = 25us, .store_cost = 5us},
          {.name = "kernel", .capacity = 8_GiB, .ratio = 0.4, .fault_cost = 5us, .store_cost = 5us}};
}

// What goes to the fast tier is compressed there, what goes on leaves it.
class TwoTiers : public testing::Test {
 protected:
  void SetUp() override {
    host_.snapshot.host.tiers = two_tiers();
    vm().view.shallow_tier = kKernel;
    vm().view.stall_budget = 1;
    vm().view.fault_cost = 5us;
  }
  TestVm& vm() { return host_.vms.empty() ? host_.add(1, 100) : host_.vm(1); }

  Plan tick(const std::set<std::uint32_t>& hot = {}) {
    Bytes shallow;
    for (const RegionNews& region : vm().regions) shallow += to_bytes(PageCount{region.shallow});
    vm().view.shallow = shallow;
    host_.look_at_all(hot);
    Plan plan = host_.tick();
    for (const Move& move : plan.demotions) {
      RegionNews& region = vm().regions[move.region.region];
      if (move.reason == Reason::kDeeper) {
        EXPECT_EQ(move.tier, kPool);
        EXPECT_LE(move.pages, region.shallow) << "what is not there goes nowhere";
        region.shallow = static_cast<std::uint16_t>(region.shallow - move.pages);
        deeper_ += move.pages;
        continue;
      }
      region.resident = static_cast<std::uint16_t>(region.resident - move.pages);
      region.far = static_cast<std::uint16_t>(region.far + move.pages);
      if (move.tier == kKernel) region.shallow = static_cast<std::uint16_t>(region.shallow + move.pages);
      (move.tier == kKernel ? to_kernel_ : to_pool_) += move.pages;
    }
    return plan;
  }
  Bytes held() {
    Bytes bytes;
    for (const RegionNews& region : vm().regions)
      bytes += to_bytes(PageCount{region.resident}) +
               Bytes{static_cast<std::uint64_t>(0.4 * static_cast<double>(region.shallow)) * kPageSize};
    return bytes;
  }

  TestHost host_;
  std::uint64_t to_kernel_ = 0;
  std::uint64_t to_pool_ = 0;
  std::uint64_t deeper_ = 0;
};

TEST(TierChooser, SaysBelowWhichRateAPageDoesBetterFurtherOn) {
  const TierChooser tiers(two_tiers(), 0);
  // Nothing is saved while DRAM is worth nothing, or not what the move costs: 10 us within 300 s.
  EXPECT_EQ(tiers.further(kKernel, kAllTiers, 0).tier, -1);
  EXPECT_EQ(tiers.further(kKernel, kAllTiers, 80e-9).tier, -1);
  // 0.4 x 1 us - 10 us / 300 s = 0.367 us per second saved, for 20 us more per use.
  const TierChooser::Further further = tiers.further(kKernel, kAllTiers, 1e-6);
  EXPECT_EQ(further.tier, static_cast<int>(kPool));
  EXPECT_NEAR(further.below, (0.4e-6 - 10e-6 / 300) / 20e-6, 1e-5);
  // Not where its pages cannot go, nor where no room is, nor back.
  EXPECT_EQ(tiers.further(kKernel, TierMask{1} << kKernel, 1e-6).tier, -1);
  EXPECT_EQ(tiers.further(kPool, kAllTiers, 1e-6).tier, -1);
  std::vector<TierView> full = two_tiers();
  full[kPool].used = full[kPool].capacity;
  EXPECT_EQ(TierChooser(full, 0).further(kKernel, kAllTiers, 1e-6).tier, -1);
  // A tier that takes none and is no slower is better for whatever there is.
  std::vector<TierView> fast = two_tiers();
  fast[kPool].fault_cost = 4us;
  EXPECT_GT(TierChooser(fast, 0).further(kKernel, kAllTiers, 1e-6).below, 1e5f);
  EXPECT_EQ(tiers.further(7, kAllTiers, 1e-6).tier, -1) << "there is no such tier";
}

TEST_F(TwoTiers, AreBothUsedUnderALimitWhichCountsWhatIsCompressed) {
  std::set<std::uint32_t> warm;
  for (std::uint32_t r = 0; r < 30; ++r) warm.insert(r);
  for (int i = 0; i < 120; ++i) tick(warm);
  const std::uint64_t before = to_kernel_ + to_pool_;
  vm().view.limit = 80_MiB;
  for (int i = 0; i < 10; ++i) tick(warm);
  EXPECT_GT(to_kernel_ + to_pool_, before);
  for (int i = 0; i < 240; ++i) {
    const Plan plan = tick(warm);
    EXPECT_LE(held().value, (80_MiB).value + (6_MiB).value) << i;
  }
  // What proved to be cold there is there no longer, and nothing of it came home for that.
  EXPECT_GT(deeper_ + to_pool_, 0u);
  std::uint64_t cold_shallow = 0;
  for (std::uint32_t r = 30; r < 100; ++r) cold_shallow += vm().regions[r].shallow;
  EXPECT_LT(cold_shallow, 10u * kRegionPages) << "of 70 regions that nobody uses";
}

TEST_F(TwoTiers, LeaveWhatIsThereWhileDramIsWorthNothing) {
  for (std::uint32_t r = 0; r < 20; ++r) {
    vm().make_far(r);
    vm().regions[r].shallow = kFull;
  }
  for (int i = 0; i < 60; ++i) tick();
  EXPECT_EQ(deeper_, 0u);
  // Nor does anything go deeper that must not move. What is at home is in use, so that DRAM is worth something.
  std::set<std::uint32_t> hot;
  for (std::uint32_t r = 20; r < 100; ++r) hot.insert(r);
  vm().view.limit = 100_MiB;
  vm().view.held = true;
  for (int i = 0; i < 10; ++i) tick(hot);
  EXPECT_EQ(deeper_, 0u);
  vm().view.held = false;
  host_.snapshot.host.frozen = true;
  for (int i = 0; i < 10; ++i) tick(hot);
  EXPECT_EQ(deeper_, 0u);
  host_.snapshot.host.frozen = false;
  bool said = false;
  for (int i = 0; i < 30; ++i) {
    const Plan plan = tick(hot);
    for (const Decision& decision : plan.decisions) {
      if (decision.reason != Reason::kDeeper) continue;
      said = true;
      EXPECT_EQ(decision.action, Action::kDemote);
      EXPECT_NE(decision.detail.find("DRAM is worth"), std::string::npos) << decision.detail;
    }
  }
  EXPECT_GT(deeper_, 0u) << "under a limit it is worth something";
  EXPECT_TRUE(said);
}

TEST_F(TwoTiers, DoNotAskForTheSamePagesAgainAtOnce) {
  for (std::uint32_t r = 0; r < 4; ++r) {
    vm().make_far(r);
    vm().regions[r].shallow = kFull;
  }
  std::set<std::uint32_t> hot;
  for (std::uint32_t r = 4; r < 100; ++r) hot.insert(r);
  for (int i = 0; i < 30; ++i) tick(hot);
  vm().view.limit = 60_MiB;
  std::map<std::uint32_t, int> asked;
  for (int i = 0; i < 20; ++i) {
    vm().view.shallow = 8_MiB;
    host_.look_at_all(hot);
    // Nobody does what was asked.
    for (const Move& move : host_.tick().demotions) {
      if (move.reason == Reason::kDeeper) ++asked[move.region.region];
    }
  }
  EXPECT_EQ(asked.size(), 4u);
  for (const auto& [region, times] : asked) EXPECT_EQ(times, 1) << region;
}

TEST_F(TwoTiers, TakeNoMoreForShallowThanIsFar) {
  RegionNews& region = vm().regions[3];
  region.shallow = 5;
  EXPECT_GT(host_.tick().intake.news_absurd, 0u) << "nothing of it is far";
}

}  // namespace
}  // namespace tidepool::policy
