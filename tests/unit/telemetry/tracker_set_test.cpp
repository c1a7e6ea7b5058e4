// What all trackers share: the budget, the self-check, the choice among them, and the tally of what they see.
#include "telemetry/hotness/tracker_set.h"

#include <gtest/gtest.h>

#include "telemetry/hotness/cpu_budget.h"
#include "telemetry/hotness/region_tally.h"
#include "telemetry/hotness/self_check.h"
#include "tests/unit/telemetry/tracked_fakes.h"

namespace tidepool::telemetry {
namespace {

using namespace std::chrono_literals;
using namespace tidepool::literals;

TEST(CpuBudget, GivesItsShareAndNoMore) {
  ManualClock clock;
  CpuBudget budget(clock);
  budget.set_share(0.01);
  Nanoseconds spent{0};
  for (int i = 0; i < 100; ++i) {
    clock.advance(1s);
    const Nanoseconds now = budget.available();
    budget.spend(now);
    spent += now;
  }
  EXPECT_GE(spent, 990ms);
  EXPECT_LE(spent, 1020ms);
  EXPECT_EQ(budget.spent(), spent);
}

TEST(CpuBudget, PaysDebtsBackBeforeItGivesMore) {
  ManualClock clock;
  CpuBudget budget(clock);
  budget.set_share(0.01);
  clock.advance(1s);
  budget.spend(100ms);
  clock.advance(5s);
  EXPECT_EQ(budget.available(), 0ns);
  clock.advance(5s);
  EXPECT_GT(budget.available(), 0ns);
}

TEST(CpuBudget, SavesForALimitedTime) {
  ManualClock clock;
  CpuBudget budget(clock, 10s);
  budget.set_share(0.01);
  clock.advance(1h);
  EXPECT_LE(budget.available(), budget.most());
  EXPECT_EQ(budget.most(), 100ms);
}

TEST(CpuBudget, EarnsNothingFromAClockThatGoesBack) {
  ManualClock clock;
  CpuBudget budget(clock);
  budget.set_share(0.01);
  clock.advance(1s);
  budget.spend(budget.available());
  clock.advance(-1h);
  EXPECT_EQ(budget.available(), 0ns);
  clock.advance(1h + 1s);
  EXPECT_LE(budget.available(), 10ms);
}

TEST(CpuBudget, CountsEveryHundredGibibytesBegun) {
  EXPECT_DOUBLE_EQ(tracker_share(0.01, 1_GiB), 0.01);
  EXPECT_DOUBLE_EQ(tracker_share(0.01, 100_GiB), 0.01);
  EXPECT_DOUBLE_EQ(tracker_share(0.01, 1_TiB), 0.11);
}

TEST(Spending, TakesWhatItsScopeCostFromTheBudget) {
  ManualClock clock;
  ManualClock cpu;
  CpuBudget budget(clock);
  budget.set_share(0.01);
  clock.advance(1s);
  {
    const Spending spending(budget, cpu);
    EXPECT_FALSE(spending.used_up());
    cpu.advance(30ms);
    EXPECT_TRUE(spending.used_up());
  }
  EXPECT_EQ(budget.spent(), 30ms);
  EXPECT_EQ(budget.available(), 0ns);
}

TEST(SelfCheck, DoubtsATrackerOnlyAfterSeveralWrongAnswersInARow) {
  auto check = SelfCheck::create();
  ASSERT_TRUE(check) << check.error().message();
  EXPECT_FALSE(check->used().overlaps(check->idle()));
  check->touch();
  for (int round = 0; round < 10; ++round) {
    check->judge(false, false);
    check->judge(true, true);
    EXPECT_TRUE(check->trusted());
    check->judge(true, false);
  }
  for (unsigned i = 0; i < SelfCheck::kTolerated; ++i) check->judge(false, false);
  EXPECT_FALSE(check->trusted());
  EXPECT_NE(check->verdict().find("touched was not seen"), std::string::npos) << check->verdict();
  EXPECT_EQ(check->failures(), 20u + SelfCheck::kTolerated);
}

class FakeTracker final : public Tracker {
 public:
  FakeTracker(std::string name, Coverage covers, bool usable = true,
              policy::Evidence evidence = policy::Evidence::kLooks) {
    info_.evidence = evidence;
    info_.name = std::move(name);
    info_.covers = covers;
    info_.usable = usable;
    if (!usable) info_.why_not = "not in this kernel";
  }
  TrackerInfo info() const override { return info_; }
  void set_cpu_share(double share) override { share_of_core = share; }
  void set_memory(const MemoryList& memory) override { watched = memory; }
  void round(SampleSink&) override {
    ++rounds;
    if (fails) info_.usable = false, info_.why_not = "failed its self-check";
  }

  MemoryList watched;
  double share_of_core = -1;
  int rounds = 0;
  bool fails = false;

 private:
  TrackerInfo info_;
};

struct Set {
  explicit Set(std::vector<std::unique_ptr<FakeTracker>> trackers) : trackers_(make(std::move(trackers))) {}
  std::unique_ptr<TrackerSet> make(std::vector<std::unique_ptr<FakeTracker>> list) {
    std::vector<std::unique_ptr<Tracker>> all;
    for (auto& tracker : list) {
      fakes.push_back(tracker.get());
      all.push_back(std::move(tracker));
    }
    return std::make_unique<TrackerSet>(std::move(all), 0.01);
  }
  TrackerSet& operator*() { return *trackers_; }
  std::vector<std::string> used() const {
    std::vector<std::string> names;
    for (const TrackerStatus& status : trackers_->status()) {
      if (status.used) names.push_back(status.info.name);
    }
    return names;
  }
  std::vector<FakeTracker*> fakes;

 private:
  std::unique_ptr<TrackerSet> trackers_;
};

Set usual_set(bool best_is_usable) {
  std::vector<std::unique_ptr<FakeTracker>> list;
  list.push_back(std::make_unique<FakeTracker>("refaults", Coverage::kFar));
  list.push_back(std::make_unique<FakeTracker>("best", Coverage::kResident, best_is_usable));
  list.push_back(std::make_unique<FakeTracker>("faults", Coverage::kShared | Coverage::kWritesPrivate));
  list.push_back(std::make_unique<FakeTracker>("writes", Coverage::kWritesUnmanaged));
  return Set(std::move(list));
}

TEST(TrackerSet, UsesTheFirstThatSeesItAndNamesWhyNotTheOthers) {
  Set set = usual_set(true);
  const auto memory = managed_memory(std::make_shared<FakePagedObject>(4));
  (*set).set_memory(memory);
  EXPECT_EQ(set.used(), (std::vector<std::string>{"refaults", "best"}));
  const auto status = (*set).status();
  EXPECT_NE(status[2].why_not_used.find("best"), std::string::npos) << status[2].why_not_used;
  EXPECT_FALSE(status[3].why_not_used.empty());
  EXPECT_EQ(set.fakes[1]->watched, memory);
  EXPECT_TRUE(set.fakes[2]->watched.empty());
  SampleList sink;
  (*set).round(sink);
  EXPECT_EQ(set.fakes[1]->rounds, 1);
  EXPECT_EQ(set.fakes[2]->rounds, 0);
}

TEST(TrackerSet, TakesTheNextWhenTheKernelLacksTheFirst) {
  Set set = usual_set(false);
  (*set).set_memory(managed_memory(std::make_shared<FakePagedObject>(4)));
  EXPECT_EQ(set.used(), (std::vector<std::string>{"refaults", "faults"}));
  EXPECT_EQ((*set).status()[1].why_not_used, "not in this kernel");
}

TEST(TrackerSet, ReplacesATrackerThatTurnsOutToBeWrong) {
  Set set = usual_set(true);
  (*set).set_memory(managed_memory(std::make_shared<FakePagedObject>(4)));
  set.fakes[1]->fails = true;
  SampleList sink;
  (*set).round(sink);
  EXPECT_EQ(set.used(), (std::vector<std::string>{"refaults", "faults"}));
  EXPECT_EQ((*set).status()[1].why_not_used, "failed its self-check");
  EXPECT_TRUE(set.fakes[1]->watched.empty());
}

TEST(TrackerSet, SharesTheBudgetAmongThoseThatCost) {
  std::vector<std::unique_ptr<FakeTracker>> list;
  list.push_back(std::make_unique<FakeTracker>("refaults", Coverage::kFar));
  list.push_back(std::make_unique<FakeTracker>("reads", Coverage::kReadsShared));
  list.push_back(std::make_unique<FakeTracker>("writes", Coverage::kWritesShared));
  Set set(std::move(list));
  (*set).set_memory(managed_memory(std::make_shared<FakePagedObject>(4)));
  EXPECT_EQ(set.fakes[0]->share_of_core, 0);
  EXPECT_DOUBLE_EQ(set.fakes[1]->share_of_core, 0.005);
  (*set).set_cpu_per_100_gib(0.02);
  EXPECT_DOUBLE_EQ(set.fakes[2]->share_of_core, 0.01);
}

TEST(TrackerSet, GivesMostOfTheBudgetToWhoLooks) {
  const auto shares = [](bool scanner_is_usable) {
    std::vector<std::unique_ptr<FakeTracker>> list;
    list.push_back(std::make_unique<FakeTracker>("scanner", Coverage::kResident, scanner_is_usable));
    list.push_back(std::make_unique<FakeTracker>("sampler", Coverage::kResident | Coverage::kFrequency, true,
                                                 policy::Evidence::kEvents));
    Set set(std::move(list));
    (*set).set_memory(managed_memory(std::make_shared<FakePagedObject>(4)));
    return std::pair(set.fakes[0]->share_of_core, set.fakes[1]->share_of_core);
  };
  EXPECT_DOUBLE_EQ(shares(true).first, 0.008);
  EXPECT_DOUBLE_EQ(shares(true).second, 0.002);
  EXPECT_DOUBLE_EQ(shares(false).first, 0);
  EXPECT_DOUBLE_EQ(shares(false).second, 0.01) << "alone it has all of it";
}

TEST(TrackerSet, RestsWithoutMemory) {
  Set set = usual_set(true);
  EXPECT_TRUE(set.used().empty());
  (*set).set_memory(managed_memory(std::make_shared<FakePagedObject>(4)));
  (*set).set_memory({});
  EXPECT_TRUE(set.used().empty());
  EXPECT_TRUE(set.fakes[1]->watched.empty());
}

policy::AccessSample sample_of(PageRun pages, std::uint32_t watched, std::uint32_t used) {
  policy::AccessSample sample;
  sample.object = {VmId{1}, 0};
  sample.pages = pages;
  sample.watched = watched;
  sample.used = used;
  return sample;
}

TEST(RegionTally, SharesARunOutAmongItsRegions) {
  RegionTally tally;
  tally.set_memory(managed_memory(std::make_shared<FakePagedObject>(4)));
  tally.add(sample_of({PageIndex{256}, 512}, 100, 10));
  tally.add(sample_of({PageIndex{0}, 512}, 2, 1));
  policy::AccessSample far = sample_of({PageIndex{1536}, 512}, 9, 3);
  far.far = true;
  tally.add(far);
  const auto regions = tally.take({VmId{1}, 0});
  ASSERT_EQ(regions.size(), 4u);
  EXPECT_EQ(regions[0].watched, 52u);
  EXPECT_EQ(regions[0].used, 6u);
  EXPECT_EQ(regions[1].watched, 50u);
  EXPECT_EQ(regions[3].refaults, 3u);
  EXPECT_EQ(regions[3].watched, 0u);
  EXPECT_EQ(tally.take({VmId{1}, 0})[0].watched, 0u);
}

TEST(RegionTally, DropsAndCountsWhatMakesNoSense) {
  RegionTally tally;
  tally.set_memory(managed_memory(std::make_shared<FakePagedObject>(4)));
  tally.add(sample_of({PageIndex{0}, 0}, 1, 0));
  tally.add(sample_of({PageIndex{~0ull - 5}, 10}, 1, 0));
  tally.add(sample_of({PageIndex{0}, 512}, 1, 2));
  policy::AccessSample backwards = sample_of({PageIndex{0}, 512}, 1, 1);
  backwards.since = MonoTime{2s};
  backwards.until = MonoTime{1s};
  tally.add(backwards);
  EXPECT_EQ(tally.malformed(), 4u);
  tally.add(sample_of({PageIndex{2040}, 512}, 1, 1));  // beyond the object
  policy::AccessSample stranger = sample_of({PageIndex{0}, 512}, 1, 1);
  stranger.object.vm = VmId{9};
  tally.add(stranger);
  EXPECT_EQ(tally.unknown(), 2u);
  for (const auto& region : tally.take({VmId{1}, 0})) EXPECT_EQ(region.watched, 0u);
  EXPECT_TRUE(tally.take({VmId{9}, 0}).empty());
}

TEST(TrackedSpace, FindsTheSegmentAroundAnAddress) {
  TrackedSpace space;
  space.segments = {{{0x10000, 0x20000}, 0, PageIndex{0}}, {{0x40000, 0x50000}, 1, PageIndex{100}}};
  EXPECT_EQ(space.at(0xffff), nullptr);
  ASSERT_NE(space.at(0x10000), nullptr);
  EXPECT_EQ(space.at(0x20000), nullptr);
  ASSERT_NE(space.at(0x42000), nullptr);
  EXPECT_EQ(space.at(0x42000)->page_at(0x42fff).value, 102u);
  EXPECT_EQ(space.at(0x42000)->address_of(PageIndex{102}), 0x42000u);
}

}  // namespace
}  // namespace tidepool::telemetry
