#include "pool/client/placement.h"

#include <algorithm>

namespace tidepool::pool {
namespace {

std::size_t draw(std::span<const PlacementCandidate> among, std::mt19937_64& random) {
  double sum = 0;
  for (const PlacementCandidate& candidate : among) sum += candidate.weight;
  double at = std::uniform_real_distribution<double>(0, sum)(random);
  for (std::size_t i = 0; i + 1 < among.size(); ++i) {
    at -= among[i].weight;
    if (at < 0) return i;
  }
  return among.size() - 1;
}

double load_of(const PlacementCandidate& candidate) {
  return static_cast<double>(candidate.slices) / candidate.weight;
}

}  // namespace

PlacementChoice choose_servers(std::span<const PlacementCandidate> candidates, std::size_t wanted,
                               std::span<const int> taken, std::mt19937_64& random) {
  PlacementChoice choice;
  std::vector<PlacementCandidate> left(candidates.begin(), candidates.end());
  std::vector<int> domains(taken.begin(), taken.end());
  while (choice.servers.size() < wanted && !left.empty()) {
    // Those in domains without a replica come first.
    const auto fresh = std::partition(left.begin(), left.end(), [&](const PlacementCandidate& candidate) {
      return std::ranges::find(domains, candidate.domain) == domains.end();
    });
    const bool apart = fresh != left.begin();
    choice.apart = choice.apart && apart;
    const auto among = std::span(left.begin(), apart ? fresh : left.end());
    const std::size_t first = draw(among, random);
    std::size_t chosen = first;
    if (among.size() > 1) {
      // Another one than the first: two of the same would be no choice.
      std::swap(among[0], among[first]);
      const std::size_t second = 1 + draw(among.subspan(1), random);
      chosen = load_of(among[second]) < load_of(among[0]) ? second : 0;
    }
    choice.servers.push_back(among[chosen].server);
    domains.push_back(among[chosen].domain);
    left.erase(left.begin() + static_cast<std::ptrdiff_t>(chosen));
  }
  return choice;
}

}  // namespace tidepool::pool
