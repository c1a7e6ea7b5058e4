#include "pool/controller/core/spread.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <set>

namespace tidepool::pool::controller {
namespace {

// One group after the other from the largest domains: that is as many as there can be.
std::uint64_t slow_groups(std::vector<std::uint64_t> free, unsigned replicas) {
  std::uint64_t groups = 0;
  for (;; ++groups) {
    std::ranges::sort(free, std::greater<>{});
    if (free.size() < replicas || free[replicas - 1] == 0) return groups;
    for (unsigned i = 0; i < replicas; ++i) --free[i];
  }
}

TEST(MostGroups, IsWhatTakingFromTheLargestGives) {
  Random random(3);
  for (int round = 0; round < 2000; ++round) {
    std::vector<std::uint64_t> free(1 + random.below(7));
    for (std::uint64_t& each : free) each = random.below(random.below(2) == 0 ? 5 : 40);
    const auto replicas = static_cast<unsigned>(1 + random.below(3));
    ASSERT_EQ(most_groups(free, replicas), slow_groups(free, replicas)) << "round " << round;
  }
  EXPECT_EQ(most_groups({}, 2), 0u);
}

TEST(Spread, StrandsNothingThatNeedNotBe) {
  Random random(5);
  for (std::uint64_t round = 0; round < 500; ++round) {
    const auto domains = static_cast<std::uint32_t>(1 + random.below(6));
    std::vector<SpreadServer> servers;
    for (std::uint32_t i = 0; i < domains + random.below(6); ++i) {
      const std::uint64_t capacity = 1 + random.below(12);
      servers.push_back({i, i % domains, random.below(capacity + 1), capacity});
    }
    const auto replicas = static_cast<unsigned>(1 + random.below(3));
    Spread spread(servers, domains, round);
    const std::uint64_t possible = spread.groups(replicas);
    std::uint64_t placed = 0;
    while (const auto group = spread.place(replicas)) {
      std::set<std::uint32_t> in;
      for (unsigned i = 0; i < replicas; ++i) in.insert(spread.server((*group)[i]).domain);
      ASSERT_EQ(in.size(), replicas) << "two replicas in one domain, round " << round;
      ++placed;
      ASSERT_EQ(spread.groups(replicas), possible - placed) << "round " << round;
    }
    ASSERT_EQ(placed, possible) << "round " << round;
  }
}

TEST(Spread, FillsServersOfAllSizesEvenly) {
  std::vector<SpreadServer> servers;
  for (std::uint32_t i = 0; i < 40; ++i)
    servers.push_back({i, i % 8, i % 2 == 0 ? 100u : 400u, i % 2 == 0 ? 100u : 400u});
  Spread spread(servers, 8, 1);
  for (int i = 0; i < 2500; ++i) ASSERT_TRUE(spread.place(2));  // half of all
  for (std::uint32_t i = 0; i < 40; ++i) {
    const double full = 1 - static_cast<double>(spread.server(i).free) / static_cast<double>(spread.server(i).capacity);
    EXPECT_NEAR(full, 0.5, 0.15) << "server " << i;
  }
}

TEST(Spread, PutsACopyBesideTheOthers) {
  const std::vector<SpreadServer> servers{{1, 0, 5, 5}, {2, 1, 5, 5}, {3, 2, 1, 5}};
  Spread spread(servers, 3, 1);
  const std::vector<std::uint32_t> taken{0, 1};
  const auto place = spread.place_beside(taken);
  ASSERT_TRUE(place);
  EXPECT_EQ(spread.server(*place).number, 3u);
  EXPECT_FALSE(spread.place_beside(taken));
}

}  // namespace
}  // namespace tidepool::pool::controller
