// At which servers the replicas of new slices go: always in different failure domains, at random among servers by what
// they have free (the better of two drawn), and so that no capacity is stranded that need not be.
//
// Pure and deterministic: the same seed draws the same servers. Not thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "pool/controller/core/requests.h"

namespace tidepool::pool::controller {

// Of how many slices all replicas can be placed, each in a domain of its own: the largest k for which the sum of
// min(free, k) over the domains is at least replicas * k.
std::uint64_t most_groups(std::span<const std::uint64_t> free_by_domain, unsigned replicas);

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next();
  std::uint64_t below(std::uint64_t bound);  // bound > 0

 private:
  std::uint64_t state_;  // splitmix64
};

struct SpreadServer {
  std::uint32_t number = 0;  // the caller's
  std::uint32_t domain = 0;  // below the number of domains
  std::uint64_t free = 0;    // slices
  std::uint64_t capacity = 1;
};

using SpreadGroup = std::array<std::uint32_t, kMostReplicasPerSlice>;  // places in the list of servers

class Spread {
 public:
  Spread(std::vector<SpreadServer> servers, std::uint32_t domains, std::uint64_t seed);

  // The servers of one more slice's replicas, each in a domain of its own; takes the room. Nothing: it does not fit.
  std::optional<SpreadGroup> place(unsigned replicas);
  // One more replica for a slice that is in these domains already.
  std::optional<std::uint32_t> place_beside(std::span<const std::uint32_t> domains);

  const SpreadServer& server(std::uint32_t place) const { return servers_[place]; }
  std::uint64_t groups(unsigned replicas) const { return most_groups(free_by_domain_, replicas); }

 private:
  template <class Allowed>
  std::optional<std::uint32_t> draw(const Allowed& allowed);
  template <class Allowed>
  std::optional<std::uint32_t> draw_one(const Allowed& allowed);
  void take(std::uint32_t place);

  std::vector<SpreadServer> servers_;
  std::vector<std::uint64_t> free_by_domain_;
  std::uint64_t largest_ = 1;  // free of any server, at first
  Random random_;
};

}  // namespace tidepool::pool::controller
