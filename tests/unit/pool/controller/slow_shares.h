// The exact shares, by a slow solver that knows nothing of sorting: it looks for the level by bisection.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "pool/controller/core/fair_share.h"

namespace tidepool::pool::controller {

inline std::vector<double> slow_fill(double amount, const std::vector<ShareBounds>& members) {
  const auto at = [&](double level) {
    std::vector<double> amounts;
    for (const ShareBounds& each : members) amounts.push_back(std::clamp(level * each.weight, each.lower, each.upper));
    return amounts;
  };
  double low = 0;
  double high = 1e12;
  for (int i = 0; i < 200; ++i) {
    const double middle = (low + high) / 2;
    double sum = 0;
    for (const double each : at(middle)) sum += each;
    (sum < amount ? low : high) = middle;
  }
  return at(low);
}

// Bisection of the level of tenants, and of their VMs' within each. Hosts are taken as without limits.
inline std::vector<double> slow_tree(const ShareProblem& problem) {
  std::vector<ShareBounds> tenants;
  std::vector<std::vector<ShareBounds>> members(problem.tenants.size());
  for (const ShareMember& each : problem.members) {
    const double upper = std::min(each.limit, each.demand);
    members[each.tenant].push_back({std::min(each.reservation, upper), upper, each.weight});
  }
  double lowers = 0;
  for (std::size_t t = 0; t < problem.tenants.size(); ++t) {
    double lower = 0;
    double upper = 0;
    for (const ShareBounds& each : members[t]) lower += each.lower, upper += each.upper;
    upper = std::min(upper, problem.tenants[t].limit);
    lower = std::min(upper, std::max(lower, problem.tenants[t].reservation));
    tenants.push_back({lower, upper, problem.tenants[t].weight});
    lowers += lower;
  }
  if (lowers > problem.capacity)
    for (ShareBounds& each : tenants) each = {0, each.lower, each.weight};
  const std::vector<double> of_tenant = slow_fill(problem.capacity, tenants);
  std::vector<std::vector<double>> of_member;
  for (std::size_t t = 0; t < tenants.size(); ++t) of_member.push_back(slow_fill(of_tenant[t], members[t]));
  std::vector<std::size_t> next(tenants.size());
  std::vector<double> amounts;
  for (const ShareMember& each : problem.members) amounts.push_back(of_member[each.tenant][next[each.tenant]++]);
  return amounts;
}

}  // namespace tidepool::pool::controller
