// Every index and sum of a state, counted anew from its records.
#include "tests/unit/pool/controller/audit.h"

#include <algorithm>

#include "pool/controller/core/state.h"

namespace tidepool::pool::controller {
namespace {

struct Counted {
  std::map<const Server*, std::set<std::uint64_t>> at;
  std::map<const Server*, std::set<std::uint64_t>> freeing;
  std::map<const Server*, unsigned> server_copies;
  std::map<const Vm*, std::uint64_t> vm_held;
  std::map<const Host*, std::uint64_t> host_held;
  std::map<const Host*, unsigned> host_copies;
  std::map<const Host*, std::set<std::pair<std::uint8_t, std::uint64_t>>> needy;
  std::map<std::string, std::uint64_t> tenant_held;
  Totals totals;
};

void count(const State& state, const Slice& slice, Counted& counted) {
  const SliceRecord& record = slice.record;
  const Vm& vm = *slice.life->vm;
  if (record.phase != SlicePhase::kReleasing)
    ++counted.vm_held[&vm], ++counted.host_held[vm.host], ++counted.tenant_held[vm.record.tenant];
  counted.totals.offered += record.phase == SlicePhase::kOffered ? 1 : 0;
  counted.totals.releasing += record.phase == SlicePhase::kReleasing ? 1 : 0;
  unsigned in_force = 0;
  unsigned joining = 0;
  unsigned known = 0;
  for (const ReplicaRecord& replica : record.replicas) {
    const Server* const server = state.server_of(replica);
    if (server == nullptr) continue;
    counted.at[server].insert(record.id);
    if (replica.phase == ReplicaPhase::kFreeing) {
      counted.freeing[server].insert(record.id);
      continue;
    }
    ++known;
    joining += replica.phase == ReplicaPhase::kJoining ? 1 : 0;
    const bool serves = replica.phase == ReplicaPhase::kInForce || replica.phase == ReplicaPhase::kMoving;
    in_force += serves && server->trusted() ? 1 : 0;
  }
  const bool held = record.phase == SlicePhase::kHeld;
  counted.totals.under_replicated += held && in_force < record.wanted ? 1 : 0;
  counted.totals.lost += held && known == joining ? 1 : 0;
  if (held && joining > 0) {
    ++counted.totals.copying;
    ++counted.host_copies[vm.host];
    for (const ReplicaRecord& replica : record.replicas)
      if (const Server* server = state.server_of(replica); server && replica.phase != ReplicaPhase::kFreeing)
        ++counted.server_copies[server];
  }
  const Need need = need_of(state, slice);
  if (need != Need::kNothing) counted.needy[vm.host].emplace(static_cast<std::uint8_t>(need), record.id);
  counted.totals.to_copy += need != Need::kNothing && need != Need::kTidy ? 1 : 0;
}

}  // namespace

std::string audit(const State& state) {
  Counted counted;
  for (const auto& [id, slice] : state.slices) count(state, slice, counted);
  if (!(counted.totals == state.totals)) return "totals are wrong";
  for (const auto& [name, server] : state.servers) {
    if (counted.at[&server] != server.slices) return "slices of server " + name;
    if (counted.freeing[&server] != server.freeing) return "slices to free of server " + name;
    if (counted.server_copies[&server] != server.copies) return "copies of server " + name;
  }
  Claim claims;
  for (const auto& [name, host] : state.hosts) {
    if (counted.host_held[&host] != host.held) return "slices of host " + name;
    if (counted.host_copies[&host] != host.copies) return "copies of host " + name;
    if (counted.needy[&host] != host.needy) return "needy slices of host " + name;
    for (const auto& [vm_name, vm] : host.vms) {
      if (counted.vm_held[&vm] != vm.held) return "slices of vm " + vm_name;
      const Claim claim = state.claim_of(vm);
      claims.share += claim.share;
      claims.reservation += claim.reservation;
    }
  }
  if (!(claims == state.claims)) return "claims are wrong";
  for (const auto& [name, tenant] : state.tenants)
    if (counted.tenant_held[name] != tenant.held) return "slices of tenant " + name;
  std::size_t of_lives = 0;
  for (const auto& [holder, life] : state.lives) of_lives += life.slices.size();
  if (of_lives != state.slices.size()) return "slices of lives";
  return {};
}

}  // namespace tidepool::pool::controller
