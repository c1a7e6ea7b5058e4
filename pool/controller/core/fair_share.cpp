#include "pool/controller/core/fair_share.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace tidepool::pool::controller {
namespace {

constexpr double kSlack = 1e-9;  // relative; of sums of doubles
// Hosts that are over their limit come to light a few at a time; each round settles at least one.
constexpr int kMostRounds = 64;

double sum_of(std::span<const double> amounts) {
  return std::accumulate(amounts.begin(), amounts.end(), 0.0);
}

bool exceeds(double sum, double limit) {
  return sum > limit + kSlack * std::max(1.0, limit);
}

// The level at which the amounts have the sum `amount`, which lies between the sums of the bounds.
double level_of(double amount, std::span<const ShareBounds> members) {
  // Where an amount begins to grow with the level, and where it ends.
  struct Bend {
    double level;
    double slope;
  };
  std::vector<Bend> bends;
  bends.reserve(2 * members.size());
  double sum = 0;
  for (const ShareBounds& member : members) {
    sum += member.lower;
    if (member.upper <= member.lower) continue;
    bends.push_back({member.lower / member.weight, member.weight});
    if (std::isfinite(member.upper)) bends.push_back({member.upper / member.weight, -member.weight});
  }
  std::sort(bends.begin(), bends.end(), [](const Bend& a, const Bend& b) { return a.level < b.level; });
  double level = 0;
  double slope = 0;
  for (const Bend& bend : bends) {
    const double next = sum + slope * (bend.level - level);
    if (next >= amount) break;
    sum = next;
    level = bend.level;
    slope = std::max(0.0, slope + bend.slope);
  }
  return slope > 0 ? level + (amount - sum) / slope : level;
}

struct Tree {
  std::vector<double> amounts;
  std::vector<double> levels;  // by tenant
};

Tree fill_tree(const ShareProblem& problem, std::span<const ShareBounds> bounds,
               std::span<const std::vector<std::uint32_t>> of_tenant) {
  std::vector<std::vector<ShareBounds>> members(problem.tenants.size());
  std::vector<ShareBounds> tenants(problem.tenants.size());
  for (std::size_t t = 0; t < tenants.size(); ++t) {
    double lower = 0;
    double upper = 0;
    for (const std::uint32_t member : of_tenant[t]) {
      members[t].push_back(bounds[member]);
      lower += bounds[member].lower;
      upper += bounds[member].upper;
    }
    upper = std::min(upper, problem.tenants[t].limit);
    lower = std::min(upper, std::max(lower, problem.tenants[t].reservation));
    tenants[t] = {lower, upper, problem.tenants[t].weight};
  }
  const Fill over_tenants = water_fill(problem.capacity, tenants);
  Tree tree{std::vector<double>(bounds.size()), std::vector<double>(tenants.size())};
  for (std::size_t t = 0; t < tenants.size(); ++t) {
    const Fill fill = water_fill(over_tenants.amounts[t], members[t]);
    tree.levels[t] = fill.level;
    for (std::size_t i = 0; i < of_tenant[t].size(); ++i) tree.amounts[of_tenant[t][i]] = fill.amounts[i];
  }
  return tree;
}

// What a host's VMs have of its limit: each one's claim is what it would have without the limit and its own bound.
void cut_to(double limit, const ShareProblem& problem, std::span<const std::uint32_t> members, const Tree& tree,
            std::span<ShareBounds> bounds) {
  std::vector<ShareBounds> claims;
  claims.reserve(members.size());
  for (const std::uint32_t member : members) {
    const double claim = problem.members[member].weight * tree.levels[problem.members[member].tenant];
    const double upper = tree.amounts[member];
    claims.push_back({std::min(bounds[member].lower, upper), upper, std::max(claim, 1e-12)});
  }
  const Fill fill = water_fill(limit, claims);
  for (std::size_t i = 0; i < members.size(); ++i) {
    bounds[members[i]].upper = fill.amounts[i];
    bounds[members[i]].lower = std::min(bounds[members[i]].lower, fill.amounts[i]);
  }
}

}  // namespace

Fill water_fill(double amount, std::span<const ShareBounds> members) {
  Fill fill;
  fill.amounts.reserve(members.size());
  double lowers = 0;
  double uppers = 0;
  for (const ShareBounds& member : members) {
    lowers += member.lower;
    uppers += member.upper;
  }
  if (uppers <= amount) {
    for (const ShareBounds& member : members) {
      fill.amounts.push_back(member.upper);
      fill.level = std::max(fill.level, member.upper / member.weight);
    }
    return fill;
  }
  if (lowers > amount) {
    std::vector<ShareBounds> cut(members.begin(), members.end());
    for (ShareBounds& member : cut) member = {0, member.lower, member.weight};
    return water_fill(std::max(0.0, amount), cut);
  }
  fill.level = level_of(amount, members);
  for (const ShareBounds& member : members)
    fill.amounts.push_back(std::clamp(fill.level * member.weight, member.lower, member.upper));
  return fill;
}

std::vector<double> fair_shares(const ShareProblem& problem) {
  std::vector<ShareBounds> bounds;
  std::vector<std::vector<std::uint32_t>> of_tenant(problem.tenants.size());
  std::vector<std::vector<std::uint32_t>> of_host(problem.host_limits.size());
  for (const ShareMember& member : problem.members) {
    const auto index = static_cast<std::uint32_t>(bounds.size());
    const double upper = std::max(0.0, std::min(member.limit, member.demand));
    bounds.push_back({std::clamp(member.reservation, 0.0, upper), upper, member.weight});
    of_tenant[member.tenant].push_back(index);
    of_host[member.host].push_back(index);
  }
  Tree tree;
  for (int round = 0; round < kMostRounds; ++round) {
    tree = fill_tree(problem, bounds, of_tenant);
    bool settled = true;
    for (std::size_t h = 0; h < of_host.size(); ++h) {
      double sum = 0;
      for (const std::uint32_t member : of_host[h]) sum += tree.amounts[member];
      if (!exceeds(sum, problem.host_limits[h])) continue;
      cut_to(problem.host_limits[h], problem, of_host[h], tree, bounds);
      settled = false;
    }
    if (settled) return tree.amounts;
  }
  // Never above a bound, even if what is left over is not distributed to the last bit.
  for (std::size_t i = 0; i < bounds.size(); ++i) tree.amounts[i] = std::min(tree.amounts[i], bounds[i].upper);
  return tree.amounts;
}

std::vector<std::uint64_t> whole_shares(const ShareProblem& problem, std::span<const double> shares) {
  struct Rest {
    double fraction;
    std::uint32_t member;
  };
  std::vector<std::uint64_t> units(shares.size());
  std::vector<double> of_tenant(problem.tenants.size());
  std::vector<double> of_host(problem.host_limits.size());
  std::vector<Rest> rests;
  double used = 0;
  for (std::uint32_t i = 0; i < shares.size(); ++i) {
    const ShareMember& member = problem.members[i];
    const double exact = shares[i] / member.unit;
    units[i] = static_cast<std::uint64_t>(exact + kSlack * std::max(1.0, exact));
    const double taken = static_cast<double>(units[i] * member.unit);
    used += taken;
    of_tenant[member.tenant] += taken;
    of_host[member.host] += taken;
    if (const double fraction = exact - static_cast<double>(units[i]); fraction > kSlack * std::max(1.0, exact))
      rests.push_back({fraction, i});
  }
  std::sort(rests.begin(), rests.end(), [](const Rest& a, const Rest& b) {
    return a.fraction != b.fraction ? a.fraction > b.fraction : a.member < b.member;
  });
  const double capacity = std::min(problem.capacity, std::max(used, std::ceil(sum_of(shares) - kSlack)));
  for (const Rest& rest : rests) {
    const ShareMember& member = problem.members[rest.member];
    const double unit = member.unit;
    if (exceeds(used + unit, capacity)) continue;
    if (exceeds(static_cast<double>(units[rest.member] + 1) * unit, member.limit)) continue;
    if (exceeds(of_tenant[member.tenant] + unit, problem.tenants[member.tenant].limit)) continue;
    if (exceeds(of_host[member.host] + unit, problem.host_limits[member.host])) continue;
    ++units[rest.member];
    used += unit;
    of_tenant[member.tenant] += unit;
    of_host[member.host] += unit;
  }
  return units;
}

}  // namespace tidepool::pool::controller
