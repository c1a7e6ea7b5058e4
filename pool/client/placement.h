// On which servers a slice's replicas go: two servers are drawn by weight, the one that is less full for its weight
// gets it, and no two replicas share a failure domain while there is another. Pure: the caller draws.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <vector>

namespace tidepool::pool {

struct PlacementCandidate {
  std::size_t server = 0;
  double weight = 1;         // above 0
  std::uint64_t slices = 0;  // that it has of us already
  int domain = 0;            // those that fail together have the same
};

struct PlacementChoice {
  std::vector<std::size_t> servers;  // of the candidates, each at most once; fewer than wanted when there are no more
  bool apart = true;                 // no two in one failure domain, nor in one that was taken before
};

// `taken`: domains of replicas that are there already.
PlacementChoice choose_servers(std::span<const PlacementCandidate> candidates, std::size_t wanted,
                               std::span<const int> taken, std::mt19937_64& random);

}  // namespace tidepool::pool
