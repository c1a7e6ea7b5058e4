// A round of shares, and who has to give back.
#include <algorithm>
#include <cmath>

#include "pool/controller/core/fair_share.h"
#include "pool/controller/core/state.h"

namespace tidepool::pool::controller {
namespace {

struct Round {
  ShareProblem problem;
  std::vector<Vm*> vms;
  std::vector<Tenant*> tenants;
  std::vector<Host*> hosts;
};

double as_units(std::uint64_t slices, unsigned replicas) {
  return slices == kNoLimit ? kUnbounded : static_cast<double>(slices) * replicas;
}

Round round_of(State& state) {
  Round round;
  std::map<std::string, std::uint32_t> tenant_numbers;
  for (auto& [name, tenant] : state.tenants) {
    tenant_numbers.emplace(name, static_cast<std::uint32_t>(round.tenants.size()));
    round.tenants.push_back(&tenant);
    tenant.share = 0;
    const BoundsRecord& bounds = tenant.record.bounds;
    round.problem.tenants.push_back({as_units(state.slices_for(bounds.reservation), state.config.replicas),
                                     as_units(state.limit_slices(bounds), state.config.replicas), bounds.weight});
  }
  for (auto& [name, host] : state.hosts) {
    const auto number = static_cast<std::uint32_t>(round.hosts.size());
    round.hosts.push_back(&host);
    round.problem.host_limits.push_back(as_units(state.limit_slices(host.record.bounds), state.config.replicas));
    for (auto& [vm_name, vm] : host.vms) {
      const BoundsRecord& bounds = vm.record.bounds;
      ShareMember member;
      member.unit = vm.record.replicas;
      member.reservation = as_units(state.slices_for(bounds.reservation), member.unit);
      member.limit = as_units(state.limit_slices(bounds), member.unit);
      member.demand = as_units(state.demand_of(vm), member.unit);
      member.weight = bounds.weight * host.record.bounds.weight;
      member.tenant = tenant_numbers.at(vm.record.tenant);
      member.host = number;
      round.problem.members.push_back(member);
      round.vms.push_back(&vm);
    }
  }
  return round;
}

struct Excess {
  Vm* vm = nullptr;
  std::uint64_t slices = 0;  // above its share
  std::uint64_t must = 0;    // of these, whatever others want
};

// Above a bound of their own or of a group: that goes, whoever waits or not.
void find_forced(State& state, std::vector<Excess>& all) {
  std::map<const void*, std::uint64_t> over;  // of tenants and hosts, in slices
  for (const auto& [name, tenant] : state.tenants)
    if (const std::uint64_t limit = state.limit_slices(tenant.record.bounds); tenant.held > limit)
      over[&tenant] = tenant.held - limit;
  for (const auto& [name, host] : state.hosts)
    if (const std::uint64_t limit = state.limit_slices(host.record.bounds); host.held > limit)
      over[&host] = host.held - limit;
  for (Excess& each : all) {
    const std::uint64_t limit = state.limit_slices(each.vm->record.bounds);
    each.must = each.vm->held > limit ? each.vm->held - limit : 0;
    for (const void* group : {static_cast<const void*>(&state.tenant_of(each.vm->record.tenant)),
                              static_cast<const void*>(each.vm->host)}) {
      const auto found = over.find(group);
      if (found == over.end()) continue;
      const std::uint64_t part = std::min(found->second, each.slices);
      each.must = std::max(each.must, part);
      found->second -= part;
    }
  }
}

void set_give_back(State& state, Vm& vm, std::uint64_t slices) {
  if (slices > 0 && vm.give_back == 0) {
    vm.give_back_since = state.context.now;
    vm.overdue = false;
  }
  vm.give_back = slices;
  if (slices == 0) vm.overdue = false;
  if (slices == 0 || vm.overdue || state.budget() == 0) return;
  if (state.context.now - vm.give_back_since < state.config.reclaim) return;
  vm.overdue = true;
  state.event("give-back-overdue", "vm " + vm.record.host + "/" + vm.record.name,
              size_text(state.to_bytes(slices)) + " of " + size_text(state.to_bytes(vm.held)) +
                  " were to be given back by now; they stay with the VM until its host releases them, or it is gone");
}

void reclaim(State& state, std::vector<Excess> all) {
  find_forced(state, all);
  // Who was asked before is asked again, then who is most above his share.
  std::stable_sort(all.begin(), all.end(), [](const Excess& a, const Excess& b) {
    const bool asked_a = a.vm->give_back > 0;
    const bool asked_b = b.vm->give_back > 0;
    return asked_a != asked_b ? asked_a : a.slices * a.vm->record.replicas > b.slices * b.vm->record.replicas;
  });
  const std::uint64_t free = most_groups(state.free_by_domain(), state.config.replicas) * state.config.replicas;
  std::uint64_t coming = free;  // with what servers are about to free
  for (const auto& [name, server] : state.servers)
    if (server.usable()) coming += server.freeing.size();
  const std::uint64_t wanted = state.claims.share + state.buffer + state.totals.to_copy;
  std::uint64_t missing = wanted > coming ? wanted - coming : 0;
  for (const Excess& each : all) {
    const unsigned unit = each.vm->record.replicas;
    const std::uint64_t part = std::max(each.must, std::min(each.slices, (missing + unit - 1) / unit));
    missing -= std::min(missing, part * unit);
    set_give_back(state, *each.vm, part);
  }
}

}  // namespace

void distribute_shares(State& state) {
  Round round = round_of(state);
  const std::uint64_t capacity = state.capacity_units();
  state.buffer = static_cast<std::uint64_t>(std::floor(static_cast<double>(capacity) * state.config.buffer));
  round.problem.capacity = static_cast<double>(capacity - state.buffer);
  const std::vector<std::uint64_t> shares = whole_shares(round.problem, fair_shares(round.problem));
  std::vector<Excess> above;
  for (std::size_t i = 0; i < round.vms.size(); ++i) {
    Vm& vm = *round.vms[i];
    vm.share = shares[i];
    round.tenants[round.problem.members[i].tenant]->share += shares[i];
    if (vm.held > vm.share) {
      above.push_back({&vm, vm.held - vm.share, 0});
    } else if (vm.give_back > 0) {
      set_give_back(state, vm, 0);
    }
  }
  state.recount_claims();
  reclaim(state, std::move(above));
  state.next_round = state.context.now + state.config.round;
}

}  // namespace tidepool::pool::controller
