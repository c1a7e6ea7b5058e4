// What there is to lease, and where.
#include <algorithm>

#include "pool/controller/core/state.h"

namespace tidepool::pool::controller {
namespace {

// A holder's table has room for 64 servers; some are left for copies.
constexpr std::size_t kMostServersPerLife = 40;

// The servers that a holder has already, and others at random until there are as many as it may have.
void bound_servers(std::vector<SpreadServer>& servers, const Life& life, std::uint64_t seed) {
  if (servers.size() <= kMostServersPerLife) return;
  const auto strange = std::partition(servers.begin(), servers.end(),
                                      [&](const SpreadServer& server) { return life.servers.contains(server.number); });
  const auto known = static_cast<std::size_t>(strange - servers.begin());
  const std::size_t more = life.servers.size() < kMostServersPerLife ? kMostServersPerLife - life.servers.size() : 0;
  Random random(seed);
  for (std::size_t i = known; i < std::min(servers.size(), known + more); ++i)
    std::swap(servers[i], servers[i + random.below(servers.size() - i)]);
  servers.resize(std::min(servers.size(), known + more));
}

}  // namespace

Spread State::spread(const Life* life, const Slice* beside) const {
  std::vector<SpreadServer> found;
  found.reserve(servers.size());
  for (const auto& [name, server] : servers) {
    const std::uint64_t room = room_of(server);
    if (!server.usable() || room == 0) continue;
    if (beside != nullptr) {
      if (server.copies >= config.copies_per_server) continue;
      if (server.slices.contains(beside->record.id) || server.orphans.contains(beside->record.id)) continue;
    }
    found.push_back({server.record.number, server.domain, room, capacity_of(server)});
  }
  const std::uint64_t seed = beside != nullptr ? beside->record.id * 31 + beside->record.epoch : next.slice;
  if (life != nullptr) bound_servers(found, *life, seed);
  return {std::move(found), static_cast<std::uint32_t>(domains.size()), seed};
}

std::vector<std::uint64_t> State::free_by_domain() const {
  std::vector<std::uint64_t> free(domains.size());
  for (const auto& [name, server] : servers)
    if (server.usable()) free[server.domain] += room_of(server);
  return free;
}

std::vector<std::uint64_t> State::capacity_by_domain() const {
  std::vector<std::uint64_t> capacity(domains.size());
  for (const auto& [name, server] : servers)
    if (server.trusted() && !server.draining()) capacity[server.domain] += capacity_of(server);
  return capacity;
}

std::uint64_t State::capacity_units() const {
  return most_groups(capacity_by_domain(), config.replicas) * config.replicas;
}

std::uint64_t State::reserved_units(const Vm* except, const Tenant* except_tenant) const {
  std::map<std::string, std::uint64_t> by_tenant;
  for (const auto& [name, host] : hosts)
    for (const auto& [vm_name, vm] : host.vms)
      if (&vm != except) by_tenant[vm.record.tenant] += slices_for(vm.record.bounds.reservation) * vm.record.replicas;
  // A tenant's own reservation covers those of its VMs.
  for (const auto& [name, tenant] : tenants) {
    if (&tenant == except_tenant) continue;
    std::uint64_t& sum = by_tenant[name];
    sum = std::max(sum, slices_for(tenant.record.bounds.reservation) * config.replicas);
  }
  std::uint64_t sum = 0;
  for (const auto& [name, units] : by_tenant) sum += units;
  return sum;
}

}  // namespace tidepool::pool::controller
