#include "pool/controller/core/spread.h"

#include <algorithm>

namespace tidepool::pool::controller {
namespace {

constexpr int kQuickDraws = 16;  // before every server is looked at

}  // namespace

std::uint64_t most_groups(std::span<const std::uint64_t> free_by_domain, unsigned replicas) {
  std::uint64_t sum = 0;
  std::uint64_t most = 0;
  for (const std::uint64_t free : free_by_domain) {
    sum += free;
    most = std::max(most, free);
  }
  std::uint64_t high = sum / replicas;
  if (most <= high) return high;  // nobody has more than can be paired
  std::uint64_t low = 0;
  while (low < high) {
    const std::uint64_t middle = low + (high - low + 1) / 2;
    std::uint64_t usable = 0;
    for (const std::uint64_t free : free_by_domain) usable += std::min(free, middle);
    if (usable >= replicas * middle) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

std::uint64_t Random::next() {
  std::uint64_t value = state_ += 0x9e3779b97f4a7c15;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
  value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
  return value ^ (value >> 31);
}

std::uint64_t Random::below(std::uint64_t bound) {
  return next() % bound;  // bounds are tiny beside 2^64
}

Spread::Spread(std::vector<SpreadServer> servers, std::uint32_t domains, std::uint64_t seed)
    : servers_(std::move(servers)), free_by_domain_(domains), random_(seed) {
  for (const SpreadServer& server : servers_) {
    free_by_domain_[server.domain] += server.free;
    largest_ = std::max(largest_, server.free);
  }
}

void Spread::take(std::uint32_t place) {
  SpreadServer& server = servers_[place];
  --server.free;
  --free_by_domain_[server.domain];
}

// By weight of what is free.
template <class Allowed>
std::optional<std::uint32_t> Spread::draw_one(const Allowed& allowed) {
  if (servers_.empty()) return std::nullopt;
  std::uint64_t most = 0;
  // Most draws hit: accept a server with the probability that its free part has.
  for (int i = 0; i < kQuickDraws; ++i) {
    const auto place = static_cast<std::uint32_t>(random_.below(servers_.size()));
    const SpreadServer& server = servers_[place];
    if (random_.below(largest_) < server.free && allowed(server)) return place;
  }
  for (const SpreadServer& server : servers_)
    if (allowed(server)) most += server.free;
  if (most == 0) return std::nullopt;
  std::uint64_t at = random_.below(most);
  for (std::uint32_t place = 0; place < servers_.size(); ++place) {
    const SpreadServer& server = servers_[place];
    if (!allowed(server)) continue;
    if (at < server.free) return place;
    at -= server.free;
  }
  return std::nullopt;
}

template <class Allowed>
std::optional<std::uint32_t> Spread::draw(const Allowed& allowed) {
  const auto first = draw_one(allowed);
  if (!first) return std::nullopt;
  const auto second = draw_one(allowed);
  // The one that is less full.
  const SpreadServer& a = servers_[*first];
  const SpreadServer& b = servers_[*second];
  return a.free * b.capacity >= b.free * a.capacity ? first : second;
}

std::optional<SpreadGroup> Spread::place(unsigned replicas) {
  const std::uint64_t groups = most_groups(free_by_domain_, replicas);
  if (groups == 0) return std::nullopt;
  // Domains that have so much that, left out too often, their room cannot be paired in the end. With k groups possible,
  // k - 1 remain possible if all but `slack` of the domains with at least k free are used now.
  std::uint64_t usable = 0;
  std::uint64_t full = 0;
  for (const std::uint64_t free : free_by_domain_) {
    usable += std::min(free, groups);
    if (free >= groups) ++full;
  }
  const std::uint64_t slack = usable - replicas * groups;
  std::uint64_t forced = full > slack ? full - slack : 0;

  std::array<std::uint32_t, kMostReplicasPerSlice> domains{};
  SpreadGroup group{};
  for (unsigned i = 0; i < replicas; ++i) {
    const bool must = forced >= replicas - i;
    const auto place = draw([&](const SpreadServer& server) {
      return server.free > 0 && std::find(domains.begin(), domains.begin() + i, server.domain) == domains.begin() + i &&
             (!must || free_by_domain_[server.domain] >= groups);
    });
    if (!place) return std::nullopt;
    const std::uint32_t domain = servers_[*place].domain;
    if (free_by_domain_[domain] >= groups && forced > 0) --forced;
    domains[i] = domain;
    group[i] = *place;
  }
  for (unsigned i = 0; i < replicas; ++i) take(group[i]);
  return group;
}

std::optional<std::uint32_t> Spread::place_beside(std::span<const std::uint32_t> domains) {
  const auto place = draw([&](const SpreadServer& server) {
    return server.free > 0 && std::find(domains.begin(), domains.end(), server.domain) == domains.end();
  });
  if (place) take(*place);
  return place;
}

}  // namespace tidepool::pool::controller
