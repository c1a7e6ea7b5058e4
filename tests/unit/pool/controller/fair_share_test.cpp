// Shares against a slow solver that knows nothing of sorting: it raises a level until the sum is right.
#include "pool/controller/core/fair_share.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "pool/controller/core/spread.h"
#include "tests/unit/pool/controller/slow_shares.h"

namespace tidepool::pool::controller {
namespace {

double sum(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

// Every VM rises by its weight, a little at a time, until a bound stops it: its own, its host's, or the pool's. For one
// tenant.
std::vector<double> slow_rise(const ShareProblem& problem, double step) {
  std::vector<double> amounts;
  std::vector<double> of_host(problem.host_limits.size());
  double total = 0;
  for (const ShareMember& member : problem.members) {
    amounts.push_back(std::min({member.reservation, member.limit, member.demand}));
    of_host[member.host] += amounts.back();
    total += amounts.back();
  }
  double level = 0;
  for (bool moved = true; moved;) {
    moved = false;
    level += step;
    double weights = 0;
    for (const ShareMember& member : problem.members) weights += member.weight;
    if (level > 1e5 || total + weights * step * 0.5 > problem.capacity) break;
    for (std::size_t i = 0; i < amounts.size(); ++i) {
      const ShareMember& member = problem.members[i];
      const double more = std::min({level * member.weight, member.limit, member.demand}) - amounts[i];
      if (more <= 0) {
        moved = moved || level * member.weight < std::min(member.limit, member.demand);
        continue;
      }
      if (of_host[member.host] + more > problem.host_limits[member.host] || total + more > problem.capacity) continue;
      amounts[i] += more;
      of_host[member.host] += more;
      total += more;
      moved = true;
    }
  }
  return amounts;
}

TEST(WaterFill, MatchesTheSlowSolver) {
  Random random(7);
  for (int round = 0; round < 2000; ++round) {
    std::vector<ShareBounds> members(1 + random.below(20));
    double lowers = 0;
    double uppers = 0;
    for (ShareBounds& each : members) {
      each.lower = static_cast<double>(random.below(4) == 0 ? random.below(50) : 0);
      each.upper = each.lower + static_cast<double>(random.below(200));
      each.weight = 0.1 + static_cast<double>(random.below(100)) / 10;
      lowers += each.lower;
      uppers += each.upper;
    }
    const double amount = lowers + (uppers - lowers) * static_cast<double>(random.below(1001)) / 1000;
    const Fill fill = water_fill(amount, members);
    const std::vector<double> exact = slow_fill(amount, members);
    for (std::size_t i = 0; i < members.size(); ++i)
      ASSERT_NEAR(fill.amounts[i], exact[i], 1e-6 * std::max(1.0, exact[i])) << "round " << round;
    ASSERT_NEAR(sum(fill.amounts), amount, 1e-6 * std::max(1.0, amount));
  }
}

TEST(WaterFill, CutsReservationsThatDoNotFitTogether) {
  const std::vector<ShareBounds> members{{30, 100, 1}, {60, 100, 1}};
  const Fill fill = water_fill(60, members);
  EXPECT_DOUBLE_EQ(fill.amounts[0], 30);
  EXPECT_DOUBLE_EQ(fill.amounts[1], 30);
  EXPECT_TRUE(water_fill(10, {}).amounts.empty());
}

ShareMember wants(double demand, double weight = 1) {
  ShareMember member;
  member.demand = demand;
  member.weight = weight;
  return member;
}

TEST(FairShares, GiveWhatOneDoesNotWantToTheOthers) {
  ShareProblem problem{100, {wants(10), wants(200), wants(200, 2)}, {ShareTenant{}}, {kUnbounded}};
  const std::vector<double> shares = fair_shares(problem);
  EXPECT_DOUBLE_EQ(shares[0], 10);
  EXPECT_DOUBLE_EQ(shares[1], 30);
  EXPECT_DOUBLE_EQ(shares[2], 60);
}

TEST(FairShares, KeepReservationAndLimit) {
  ShareProblem problem{100, {wants(200), wants(200), wants(200)}, {ShareTenant{}}, {kUnbounded}};
  problem.members[0].reservation = 60;
  problem.members[1].limit = 5;
  const std::vector<double> shares = fair_shares(problem);
  EXPECT_DOUBLE_EQ(shares[0], 60);
  EXPECT_DOUBLE_EQ(shares[1], 5);
  EXPECT_DOUBLE_EQ(shares[2], 35);
}

TEST(FairShares, AreDividedByTenantsFirst) {
  ShareProblem problem{90, {wants(100), wants(100), wants(100)}, {ShareTenant{}, ShareTenant{}}, {kUnbounded}};
  problem.members[2].tenant = 1;
  std::vector<double> shares = fair_shares(problem);
  EXPECT_DOUBLE_EQ(shares[0], 22.5);
  EXPECT_DOUBLE_EQ(shares[2], 45);
  problem.tenants[1].limit = 10;
  shares = fair_shares(problem);
  EXPECT_DOUBLE_EQ(shares[0], 40);
  EXPECT_DOUBLE_EQ(shares[2], 10);
  problem.tenants[1] = {80, kUnbounded, 1};
  shares = fair_shares(problem);
  EXPECT_DOUBLE_EQ(shares[0], 5);
  EXPECT_DOUBLE_EQ(shares[2], 80);
}

ShareProblem random_problem(Random& random, unsigned tenants, bool bounded_hosts) {
  ShareProblem problem;
  problem.tenants.resize(tenants);
  problem.host_limits.resize(1 + random.below(5));
  for (double& limit : problem.host_limits)
    limit = bounded_hosts && random.below(2) == 0 ? static_cast<double>(20 + random.below(200)) : kUnbounded;
  for (ShareTenant& tenant : problem.tenants) {
    tenant.weight = 0.5 + static_cast<double>(random.below(10));
    if (random.below(3) == 0) tenant.limit = static_cast<double>(50 + random.below(300));
    if (random.below(3) == 0) tenant.reservation = static_cast<double>(random.below(50));
  }
  const std::uint64_t count = 1 + random.below(30);
  for (std::uint64_t i = 0; i < count; ++i) {
    ShareMember member = wants(static_cast<double>(random.below(100)), 0.5 + static_cast<double>(random.below(8)));
    member.tenant = static_cast<std::uint32_t>(random.below(tenants));
    member.host = static_cast<std::uint32_t>(random.below(problem.host_limits.size()));
    member.unit = 1 + static_cast<unsigned>(random.below(3));
    if (random.below(4) == 0) member.limit = static_cast<double>(random.below(20) * member.unit);
    problem.members.push_back(member);
  }
  problem.capacity = static_cast<double>(random.below(1500));
  return problem;
}

TEST(FairShares, OfTenantsMatchTheSlowSolver) {
  Random random(11);
  for (int round = 0; round < 1000; ++round) {
    const ShareProblem problem = random_problem(random, 1 + static_cast<unsigned>(random.below(5)), false);
    const std::vector<double> shares = fair_shares(problem);
    const std::vector<double> exact = slow_tree(problem);
    for (std::size_t i = 0; i < shares.size(); ++i)
      ASSERT_NEAR(shares[i], exact[i], 1e-5 * std::max(1.0, exact[i])) << "round " << round << ", VM " << i;
  }
}

TEST(FairShares, WithBoundedHostsAreWithinAPerCentOfSlowRising) {
  Random random(13);
  for (int round = 0; round < 200; ++round) {
    ShareProblem problem = random_problem(random, 1, true);
    problem.tenants[0] = {};
    const std::vector<double> shares = fair_shares(problem);
    const std::vector<double> exact = slow_rise(problem, 0.002);
    double off = 0;
    for (std::size_t i = 0; i < shares.size(); ++i) off += std::abs(shares[i] - exact[i]);
    ASSERT_LE(off, 0.01 * sum(exact) + 0.5) << "round " << round;
  }
}

TEST(FairShares, NeverExceedABound) {
  Random random(17);
  for (int round = 0; round < 1000; ++round) {
    const ShareProblem problem = random_problem(random, 1 + static_cast<unsigned>(random.below(4)), true);
    const std::vector<double> shares = fair_shares(problem);
    const std::vector<std::uint64_t> units = whole_shares(problem, shares);
    std::vector<double> of_tenant(problem.tenants.size());
    std::vector<double> of_host(problem.host_limits.size());
    double total = 0;
    for (std::size_t i = 0; i < shares.size(); ++i) {
      const ShareMember& member = problem.members[i];
      const double whole = static_cast<double>(units[i] * member.unit);
      ASSERT_LE(whole, std::min(member.limit, std::ceil(member.demand / member.unit) * member.unit) + 1e-6);
      ASSERT_NEAR(whole, shares[i], member.unit);
      of_tenant[member.tenant] += whole;
      of_host[member.host] += whole;
      total += whole;
    }
    ASSERT_LE(total, problem.capacity + 1e-6);
    for (std::size_t t = 0; t < of_tenant.size(); ++t) ASSERT_LE(of_tenant[t], problem.tenants[t].limit + 1e-6);
    for (std::size_t h = 0; h < of_host.size(); ++h) ASSERT_LE(of_host[h], problem.host_limits[h] + 1e-6);
  }
}

TEST(WholeShares, GiveTheRestToWhoLostMost) {
  ShareProblem problem{10, {wants(100, 1), wants(100, 1), wants(100, 1)}, {ShareTenant{}}, {kUnbounded}};
  EXPECT_EQ(whole_shares(problem, fair_shares(problem)), (std::vector<std::uint64_t>{4, 3, 3}));
  for (ShareMember& member : problem.members) member.unit = 2;
  EXPECT_EQ(whole_shares(problem, fair_shares(problem)), (std::vector<std::uint64_t>{2, 2, 1}));
}

}  // namespace
}  // namespace tidepool::pool::controller
