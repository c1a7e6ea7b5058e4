#include "policy/arbiter.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace tidepool::policy {
namespace {

// Worth in half octaves, as temperatures are.
int shift_of(double worth) {
  return static_cast<int>(std::lround(2 * std::log2(std::clamp(worth, 1e-12, 1e12))));
}

}  // namespace

Shares share_shortage(std::span<const Claim> claims, Bytes wanted) {
  Shares shares;
  shares.give.resize(claims.size());
  if (wanted == Bytes{} || claims.empty()) return shares;
  std::vector<int> shifts(claims.size());
  int lowest = std::numeric_limits<int>::max();
  int highest = std::numeric_limits<int>::min();
  for (std::size_t i = 0; i < claims.size(); ++i) {
    shifts[i] = shift_of(claims[i].worth);
    lowest = std::min(lowest, shifts[i] + 1);
    highest = std::max(highest, shifts[i] + static_cast<int>(kTemperatures) - 1);
  }
  Bytes left = wanted;
  std::vector<Bytes> offers(claims.size());
  for (int value = lowest; value <= highest && left > Bytes{}; ++value) {
    Bytes sum;
    for (std::size_t i = 0; i < claims.size(); ++i) {
      const int t = value - shifts[i];
      offers[i] = Bytes{};
      if (t < 1 || t >= static_cast<int>(kTemperatures)) continue;
      const auto pages = std::max<std::int32_t>(0, (*claims[i].pages)[static_cast<unsigned>(t)]);
      offers[i] = std::min(to_bytes(PageCount{static_cast<std::uint64_t>(pages)}),
                           saturating_sub(claims[i].surplus, shares.give[i]));
      sum += offers[i];
    }
    if (sum == Bytes{}) continue;
    // Within one value everybody gives in proportion to what it has of it.
    const double part = std::min(1.0, static_cast<double>(left.value) / static_cast<double>(sum.value));
    for (std::size_t i = 0; i < claims.size(); ++i) {
      const Bytes give{std::min(offers[i].value,
                                static_cast<std::uint64_t>(std::ceil(part * static_cast<double>(offers[i].value))))};
      shares.give[i] += give;
      left = saturating_sub(left, give);
    }
    shares.price = std::exp2((value - 44.5) / 2);
  }
  return shares;
}

}  // namespace tidepool::policy
