// Who may have how much of the pool: weighted max-min within bounds, over tenants and then over their VMs.
//
// Pure functions. Amounts are real numbers of any one unit (the controller counts replicas of slices).
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace tidepool::pool::controller {

inline constexpr double kUnbounded = std::numeric_limits<double>::infinity();

// Lower <= upper; weight above 0.
struct ShareBounds {
  double lower = 0;
  double upper = kUnbounded;
  double weight = 1;
};

struct Fill {
  std::vector<double> amounts;
  double level = 0;  // every amount is level * weight, or at one of its bounds
};
// The weighted max-min distribution: of all with the sum min(amount, sum of uppers), the one whose smallest amounts
// (per weight, above the lowers) are the largest. Lowers that do not fit together are cut down the same way.
Fill water_fill(double amount, std::span<const ShareBounds> members);

struct ShareMember {
  double reservation = 0;  // has it whatever others want, if it wants it itself
  double limit = kUnbounded;
  double demand = 0;
  double weight = 1;
  std::uint32_t tenant = 0;
  std::uint32_t host = 0;
  unsigned unit = 1;  // it takes whole multiples of that
};
struct ShareTenant {
  double reservation = 0;
  double limit = kUnbounded;
  double weight = 1;
};
struct ShareProblem {
  double capacity = 0;
  std::vector<ShareMember> members;
  std::vector<ShareTenant> tenants;
  std::vector<double> host_limits;
};

// Capacity goes to tenants by max-min, and each one's to its VMs by max-min; what somebody does not want, or may not
// have, counts for the others. Hosts bound the sum of their VMs: where that is less, it is divided by max-min among
// them, and the rest is for other hosts' VMs.
std::vector<double> fair_shares(const ShareProblem& problem);

// The same in whole units: rounded down, then a unit more for those who lost most, as far as bounds and capacity go.
// The result is in units: amount / unit.
std::vector<std::uint64_t> whole_shares(const ShareProblem& problem, std::span<const double> shares);

}  // namespace tidepool::pool::controller
