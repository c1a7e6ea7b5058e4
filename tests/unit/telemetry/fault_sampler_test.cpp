// Trackers over memory that the pager manages: fault sampling and the refault stream.
#include "telemetry/hotness/fault_sampler.h"

#include <gtest/gtest.h>

#include "telemetry/hotness/refault_tracker.h"
#include "tests/unit/telemetry/tracked_fakes.h"

namespace tidepool::telemetry {
namespace {

using namespace std::chrono_literals;

TEST(FaultSampler, StaysWithinItsBudget) {
  ManualClock clock;
  FaultSampler sampler({.cost_per_sample = 20us, .per_region = 2, .seed = 1}, clock);
  sampler.set_cpu_share(0.01);
  const auto object = std::make_shared<FakePagedObject>(100000);
  sampler.set_memory(managed_memory(object));
  SampleList seen;
  for (int second = 0; second < 10; ++second) {
    sampler.round(seen);
    clock.advance(1s);
  }
  int total = 0;
  for (const auto& [region, count] : object->times_armed) total += count;
  EXPECT_LE(total, 5000);  // 1% of ten seconds at 20 us each
  EXPECT_GE(total, 4000);
  EXPECT_LE(sampler.info().cpu, 100ms);
}

TEST(FaultSampler, ArmsNothingWithoutABudget) {
  ManualClock clock;
  FaultSampler sampler({}, clock);
  const auto object = std::make_shared<FakePagedObject>(64);
  sampler.set_memory(managed_memory(object));
  SampleList seen;
  sampler.round(seen);
  EXPECT_TRUE(object->times_armed.empty());
}

TEST(FaultSampler, GoesRoundAllResidentRegionsThatAreNotSampledYet) {
  ManualClock clock;
  FaultSampler sampler({}, clock);
  sampler.set_cpu_share(0.01);
  const auto object = std::make_shared<FakePagedObject>(64);
  for (std::uint64_t r = 1; r < 64; r += 2) object->states[r].resident = 0;
  object->states[4].armed = 100;
  sampler.set_memory(managed_memory(object));
  SampleList seen;
  for (int second = 0; second < 5; ++second) {
    sampler.round(seen);
    clock.advance(1s);
  }
  for (std::uint64_t region = 0; region < 64; ++region) {
    EXPECT_EQ(object->times_armed.contains(region), region % 2 == 0 && region != 4) << region;
  }
}

TEST(FaultSampler, RepeatsItselfWithTheSameSeed) {
  ManualClock clock;
  const auto first = std::make_shared<FakePagedObject>(64);
  const auto second = std::make_shared<FakePagedObject>(64);
  for (const auto& object : {first, second}) {
    FaultSampler sampler({}, clock);
    sampler.set_cpu_share(0.01);
    sampler.set_memory(managed_memory(object));
    SampleList seen;
    sampler.round(seen);
  }
  EXPECT_EQ(first->times_armed, second->times_armed);
}

TEST(FaultSampler, CountsArmedPagesAsWatchedUntilTheyAreTouched) {
  ManualClock clock;
  FaultSampler sampler({.per_region = 4}, clock);
  sampler.set_cpu_share(0.01);
  const auto object = std::make_shared<FakePagedObject>(1);
  object->what_it_sees = policy::Sees::kWrites;
  sampler.set_memory(managed_memory(object, /*shared=*/false));
  SampleList seen;
  sampler.round(seen);
  EXPECT_TRUE(seen.samples.empty());
  object->touches[0] = 1;
  clock.advance(1s);
  sampler.round(seen);
  ASSERT_EQ(seen.samples.size(), 1u);
  const policy::AccessSample& sample = seen.samples.front();
  EXPECT_TRUE(policy::well_formed(sample));
  EXPECT_EQ(sample.watched, 4u);
  EXPECT_EQ(sample.used, 1u);
  EXPECT_EQ(sample.window, 1s);
  EXPECT_EQ(sample.sees, policy::Sees::kWrites);
  EXPECT_FALSE(sample.far);
}

// Pages that left took their arming along: when they come back, nobody watches them, and they must not look cold.
TEST(FaultSampler, ForgetsWhatWasArmedWhenARegionLeaves) {
  ManualClock clock;
  FaultSampler sampler({.per_region = 4}, clock);
  sampler.set_cpu_share(0.01);
  const auto object = std::make_shared<FakePagedObject>(1);
  sampler.set_memory(managed_memory(object));
  SampleList seen;
  sampler.round(seen);
  object->states[0].resident = 0;
  object->states[0].far = 512;
  clock.advance(1s);
  sampler.round(seen);
  EXPECT_TRUE(seen.samples.empty());
  EXPECT_EQ(object->states[0].armed, 0);
}

TEST(RefaultTracker, TellsOfFarPagesThatCameHome) {
  ManualClock clock;
  RefaultTracker tracker(clock);
  const auto object = std::make_shared<FakePagedObject>(3);
  object->states[1].far = 100;
  object->refaults[1] = 7;
  tracker.set_memory(managed_memory(object));
  SampleList seen;
  tracker.round(seen);
  clock.advance(1s);
  tracker.round(seen);
  ASSERT_EQ(seen.samples.size(), 1u);
  const policy::AccessSample& sample = seen.samples.front();
  EXPECT_TRUE(policy::well_formed(sample));
  EXPECT_TRUE(sample.far);
  EXPECT_EQ(sample.pages.first.value, 512u);
  EXPECT_EQ(sample.used, 7u);
  EXPECT_EQ(sample.watched, 107u);
}

TEST(RefaultTracker, SurvivesAClockThatGoesBack) {
  ManualClock clock;
  RefaultTracker tracker(clock);
  const auto object = std::make_shared<FakePagedObject>(1);
  tracker.set_memory(managed_memory(object));
  SampleList seen;
  tracker.round(seen);
  clock.advance(-30min);
  object->states[0] = {.resident = 12, .far = 500, .armed = 0};
  object->refaults[0] = 12;
  tracker.round(seen);
  ASSERT_EQ(seen.samples.size(), 1u);
  EXPECT_TRUE(policy::well_formed(seen.samples[0]));
  EXPECT_EQ(seen.samples[0].used, 12u);
}

}  // namespace
}  // namespace tidepool::telemetry
