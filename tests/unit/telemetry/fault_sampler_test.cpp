#include "telemetry/hotness/fault_sampler.h"

#include <gtest/gtest.h>

#include <map>

#include "base/units.h"

namespace tidepool::telemetry {
namespace {

using namespace std::chrono_literals;

class Memory final : public SampleTarget {
 public:
  explicit Memory(std::uint64_t regions) : regions_(regions) {}
  std::uint64_t regions() const override { return regions_; }
  std::uint16_t resident(std::uint64_t region) const override { return region % 2 == 0 ? 512 : 0; }
  std::uint16_t waiting(std::uint64_t region) const override { return region == 4 ? 100 : 0; }
  std::size_t arm(std::span<const PageIndex> pages) override {
    for (const PageIndex page : pages) ++armed[page.value / kPagesPerHugePage];
    return pages.size();
  }
  std::map<std::uint64_t, int> armed;

 private:
  std::uint64_t regions_;
};

TEST(FaultSampler, StaysWithinItsBudget) {
  ManualClock clock;
  FaultSampler sampler({.cpu_share = 0.01, .cost_per_sample = 20us, .per_region = 2, .seed = 1}, clock);
  auto memory = std::make_shared<Memory>(100000);
  sampler.set_targets({memory});
  for (int second = 0; second < 10; ++second) {
    sampler.scan();
    clock.advance(1s);
  }
  int total = 0;
  for (const auto& [region, count] : memory->armed) total += count;
  EXPECT_LE(total, 5000);  // 1% of ten seconds at 20 us each
  EXPECT_GE(total, 4000);
}

TEST(FaultSampler, GoesRoundAllResidentRegions) {
  ManualClock clock;
  FaultSampler sampler({}, clock);
  auto memory = std::make_shared<Memory>(64);
  sampler.set_targets({memory});
  for (int second = 0; second < 5; ++second) {
    sampler.scan();
    clock.advance(1s);
  }
  for (std::uint64_t region = 0; region < 64; ++region) {
    const bool expected = region % 2 == 0 && region != 4;
    EXPECT_EQ(memory->armed.contains(region), expected) << region;
  }
}

TEST(FaultSampler, RepeatsItselfWithTheSameSeed) {
  ManualClock clock;
  auto first = std::make_shared<Memory>(64);
  auto second = std::make_shared<Memory>(64);
  for (const auto& memory : {first, second}) {
    FaultSampler sampler({}, clock);
    sampler.set_targets({memory});
    sampler.scan();
  }
  EXPECT_EQ(first->armed, second->armed);
}

}  // namespace
}  // namespace tidepool::telemetry
