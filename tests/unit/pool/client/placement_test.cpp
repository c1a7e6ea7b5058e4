#include "pool/client/placement.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

namespace tidepool::pool {
namespace {

std::vector<PlacementCandidate> candidates(std::initializer_list<PlacementCandidate> all) {
  return all;
}

TEST(Placement, ReplicasLieInDifferentDomainsWhileThereAreSome) {
  std::mt19937_64 random(1);
  const auto all = candidates({{0, 1, 0, 1}, {1, 1, 0, 1}, {2, 1, 0, 1}, {3, 1, 50, 2}});
  for (int i = 0; i < 200; ++i) {
    const PlacementChoice choice = choose_servers(all, 2, {}, random);
    ASSERT_EQ(choice.servers.size(), 2u);
    EXPECT_TRUE(choice.apart);
    EXPECT_TRUE(choice.servers[0] == 3 || choice.servers[1] == 3);
  }
}

TEST(Placement, SaysWhenDomainsDoNotSuffice) {
  std::mt19937_64 random(1);
  const auto all = candidates({{0, 1, 0, 1}, {1, 1, 0, 1}});
  const PlacementChoice choice = choose_servers(all, 2, {}, random);
  EXPECT_EQ(choice.servers.size(), 2u);
  EXPECT_FALSE(choice.apart);
  const std::vector<int> taken{1};
  EXPECT_FALSE(choose_servers(all, 1, taken, random).apart);
}

TEST(Placement, NeverNamesAServerTwiceNorMoreThanThereAre) {
  std::mt19937_64 random(1);
  const auto all = candidates({{4, 1, 0, 1}, {9, 2, 3, 2}});
  for (int i = 0; i < 100; ++i) {
    const PlacementChoice choice = choose_servers(all, 3, {}, random);
    EXPECT_EQ(std::set(choice.servers.begin(), choice.servers.end()), (std::set<std::size_t>{4, 9}));
  }
  EXPECT_TRUE(choose_servers({}, 2, {}, random).servers.empty());
}

TEST(Placement, FillsServersByTheirWeight) {
  std::mt19937_64 random(7);
  auto all = candidates({{0, 1, 0, 0}, {1, 1, 0, 1}, {2, 2, 0, 2}, {3, 4, 0, 3}});
  for (int i = 0; i < 4000; ++i) ++all[choose_servers(all, 1, {}, random).servers.at(0)].slices;
  EXPECT_NEAR(static_cast<double>(all[0].slices), 500, 50);
  EXPECT_NEAR(static_cast<double>(all[2].slices), 1000, 100);
  EXPECT_NEAR(static_cast<double>(all[3].slices), 2000, 200);
}

}  // namespace
}  // namespace tidepool::pool
