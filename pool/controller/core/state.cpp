#include "pool/controller/core/state.h"

#include <algorithm>

namespace tidepool::pool::controller {

std::uint64_t State::room_of(const Server& server) const {
  const std::uint64_t taken = server.slices.size() + server.orphans.size();
  const std::uint64_t capacity = capacity_of(server);
  return capacity > taken ? capacity - taken : 0;
}

Server* State::server_of(const ReplicaRecord& replica) const {
  const auto found = by_number.find(replica.server);
  if (found == by_number.end() || found->second->record.generation != replica.generation) return nullptr;
  return found->second;
}

Host* State::find_host(const std::string& name) {
  const auto found = hosts.find(name);
  return found == hosts.end() ? nullptr : &found->second;
}

Vm* State::find_vm(const std::string& host, const std::string& name) {
  Host* const at = find_host(host);
  if (at == nullptr) return nullptr;
  const auto found = at->vms.find(name);
  return found == at->vms.end() ? nullptr : &found->second;
}

const LifeRecord& State::record_of(const Life& life) const {
  return *std::ranges::find(life.vm->record.lives, life.holder, &LifeRecord::holder);
}

bool State::ended(const Life& life) const {
  const LifeRecord& record = record_of(life);
  return record.ended || record.since < life.vm->host->record.ended_below;
}

Life* State::current(const Vm& vm) {
  if (vm.record.lives.empty()) return nullptr;
  Life& life = lives.at(vm.record.lives.back().holder);
  return ended(life) ? nullptr : &life;
}

Tenant& State::tenant_of(const std::string& name) {
  const auto [found, is_new] = tenants.try_emplace(name);
  if (is_new) found->second.record.name = name;
  return found->second;
}

std::uint32_t State::domain_number(const ServerRecord& server) {
  // A blank cannot stand in a name: no two servers without a domain are taken for one.
  const std::string domain = server.domain.empty() ? "server " + server.name : server.domain;
  return domains.try_emplace(domain, static_cast<std::uint32_t>(domains.size())).first->second;
}

void State::event(std::string name, std::string subject, std::string text) {
  HistoryEntry entry;
  entry.number = history.empty() ? 1 : history.back().number + 1;
  entry.unix_ms = context.unix_ms;
  entry.actor = context.actor;
  entry.event = std::move(name);
  entry.subject = std::move(subject);
  entry.text = std::move(text);
  save(entry);
  history.push_back(std::move(entry));
  // A few at a time, should the bound have been lowered.
  for (int i = 0; i < 2 && history.size() > std::max<std::size_t>(config.history, 1); ++i) {
    remove(history.front());
    history.pop_front();
  }
}

std::uint64_t State::demand_of(const Vm& vm) const {
  return vm.reported ? std::max(slices_for(vm.wanted), vm.asked) : vm.held;
}

Claim State::claim_of(const Vm& vm) const {
  const std::uint64_t limit = limit_slices(vm.record.bounds);
  const std::uint64_t reservation = std::min(limit, slices_for(vm.record.bounds.reservation));
  const std::uint64_t may = std::max(reservation, std::min({limit, vm.share, demand_of(vm)}));
  const auto missing = [&](std::uint64_t of) { return vm.held < of ? (of - vm.held) * vm.record.replicas : 0; };
  return {missing(may), missing(reservation)};
}

void State::add_claim(const Vm& vm) {
  const Claim claim = claim_of(vm);
  claims.share += claim.share;
  claims.reservation += claim.reservation;
}

void State::drop_claim(const Vm& vm) {
  const Claim claim = claim_of(vm);
  claims.share -= claim.share;
  claims.reservation -= claim.reservation;
}

void State::recount_claims() {
  claims = {};
  for (const auto& [name, host] : hosts)
    for (const auto& [vm_name, vm] : host.vms) add_claim(vm);
}

// ---- indexes -----------------------------------------------------------------------------------------------------

void State::link(Slice& slice) {
  const SliceRecord& record = slice.record;
  Life& life = *slice.life;
  Vm& vm = *life.vm;
  if (record.phase != SlicePhase::kReleasing) {
    drop_claim(vm);
    ++life.held, ++vm.held, ++vm.host->held, ++tenant_of(vm.record.tenant).held;
    add_claim(vm);
  }
  totals.offered += record.phase == SlicePhase::kOffered ? 1 : 0;
  totals.releasing += record.phase == SlicePhase::kReleasing ? 1 : 0;
  unsigned in_force = 0;
  unsigned joining = 0;
  unsigned leaving = 0;
  unsigned there = 0;
  for (const ReplicaRecord& replica : record.replicas) {
    Server* const server = server_of(replica);
    if (server == nullptr) continue;
    ++there;
    server->slices.insert(record.id);
    ++life.servers[replica.server];
    if (replica.phase == ReplicaPhase::kFreeing) server->freeing.insert(record.id);
    if (replica.phase == ReplicaPhase::kJoining) ++joining;
    if (replica.phase == ReplicaPhase::kLeaving) ++leaving;
    if (replica.phase == ReplicaPhase::kInForce || replica.phase == ReplicaPhase::kMoving)
      in_force += server->trusted() ? 1 : 0;
    there -= replica.phase == ReplicaPhase::kFreeing ? 1 : 0;
  }
  const bool held = record.phase == SlicePhase::kHeld;
  slice.under_replicated = held && in_force < record.wanted;
  slice.lost = held && there == joining;
  slice.copying = held && joining > 0;
  if (held && joining + leaving > 0) vm.host->tasks.insert(record.id);
  totals.under_replicated += slice.under_replicated ? 1 : 0;
  vm.under_replicated += slice.under_replicated ? 1 : 0;
  totals.lost += slice.lost ? 1 : 0;
  if (slice.copying) {
    ++totals.copying;
    ++vm.host->copies;
    for (const ReplicaRecord& replica : record.replicas)
      if (Server* const server = server_of(replica); server != nullptr && replica.phase != ReplicaPhase::kFreeing)
        ++server->copies;
  }
  slice.need = need_of(*this, slice);
  totals.to_copy += slice.need != Need::kNothing && slice.need != Need::kTidy ? 1 : 0;
  if (slice.need != Need::kNothing) vm.host->needy.emplace(static_cast<std::uint8_t>(slice.need), record.id);
}

void State::unlink(Slice& slice) {
  const SliceRecord& record = slice.record;
  Life& life = *slice.life;
  Vm& vm = *life.vm;
  if (record.phase != SlicePhase::kReleasing) {
    drop_claim(vm);
    --life.held, --vm.held, --vm.host->held, --tenant_of(vm.record.tenant).held;
    add_claim(vm);
  }
  totals.offered -= record.phase == SlicePhase::kOffered ? 1 : 0;
  totals.releasing -= record.phase == SlicePhase::kReleasing ? 1 : 0;
  for (const ReplicaRecord& replica : record.replicas) {
    Server* const server = server_of(replica);
    if (server == nullptr) continue;
    server->slices.erase(record.id);
    server->freeing.erase(record.id);
    if (const auto found = life.servers.find(replica.server); --found->second == 0) life.servers.erase(found);
    if (slice.copying && replica.phase != ReplicaPhase::kFreeing) --server->copies;
  }
  totals.under_replicated -= slice.under_replicated ? 1 : 0;
  vm.under_replicated -= slice.under_replicated ? 1 : 0;
  totals.lost -= slice.lost ? 1 : 0;
  vm.host->tasks.erase(record.id);
  if (slice.copying) --totals.copying, --vm.host->copies;
  totals.to_copy -= slice.need != Need::kNothing && slice.need != Need::kTidy ? 1 : 0;
  if (slice.need != Need::kNothing) vm.host->needy.erase({static_cast<std::uint8_t>(slice.need), record.id});
}

// ---- slices ------------------------------------------------------------------------------------------------------

Slice& State::create(SliceRecord record, Life& life) {
  const std::uint64_t id = record.id;
  Slice& slice = slices.emplace_hint(slices.end(), id, Slice{})->second;
  slice.record = std::move(record);
  slice.life = &life;
  life.slices.insert(life.slices.end(), id);
  if (!slice.record.request.empty()) life.vm->host->requests[slice.record.request].push_back(id);
  link(slice);
  return slice;
}

void State::erase(Slice& slice) {
  unlink(slice);
  remove(slice.record);
  Life& life = *slice.life;
  const std::uint64_t id = slice.record.id;
  if (const auto found = life.vm->host->requests.find(slice.record.request); found != life.vm->host->requests.end()) {
    std::erase(found->second, id);
    if (found->second.empty()) life.vm->host->requests.erase(found);
  }
  life.slices.erase(id);
  if (life.slices.empty() && ended(life)) ending.insert(life.holder);
  slices.erase(id);
}

void State::release(Slice& slice) {
  if (slice.record.phase == SlicePhase::kReleasing) return;
  change(slice, [&](SliceRecord& record) {
    record.phase = SlicePhase::kReleasing;
    ++record.epoch;
    std::erase_if(record.replicas, [&](const ReplicaRecord& replica) { return server_of(replica) == nullptr; });
    for (ReplicaRecord& replica : record.replicas) {
      if (replica.phase == ReplicaPhase::kFreeing) continue;  // the server may have been told already
      replica.phase = ReplicaPhase::kFreeing;
      replica.epoch = record.epoch;
    }
  });
  if (slice.record.replicas.empty()) erase(slice);
}

void State::free_replica(Slice& slice, std::uint32_t server) {
  change(slice, [&](SliceRecord& record) {
    ++record.epoch;
    for (ReplicaRecord& replica : record.replicas) {
      if (replica.server != server || replica.phase == ReplicaPhase::kFreeing || server_of(replica) == nullptr)
        continue;
      replica.phase = ReplicaPhase::kFreeing;
      replica.epoch = record.epoch;
    }
  });
}

void State::freed(Slice& slice, std::uint32_t server) {
  change(slice, [&](SliceRecord& record) {
    std::erase_if(record.replicas, [&](const ReplicaRecord& replica) {
      return server_of(replica) == nullptr || (replica.server == server && replica.phase == ReplicaPhase::kFreeing);
    });
  });
  if (slice.record.phase == SlicePhase::kReleasing && slice.record.replicas.empty()) erase(slice);
}

void State::end_life(Life& life) {
  for (LifeRecord& each : life.vm->record.lives)
    if (each.holder == life.holder) each.ended = true;
  save(life.vm->record);
  ending.insert(life.holder);
}

void State::note_ended(Host& host) {
  for (const auto& [name, vm] : host.vms)
    for (const LifeRecord& life : vm.record.lives)
      if (life.ended || life.since < host.record.ended_below) ending.insert(life.holder);
}

}  // namespace tidepool::pool::controller
