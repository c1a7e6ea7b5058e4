// What an operator sets: bounds of VMs, tenants and hosts. --plan shows the same sums and changes nothing.
#include <algorithm>
#include <cmath>

#include "pool/controller/core/state.h"

namespace tidepool::pool::controller {
namespace {

using enum Refusal::Code;

tl::expected<BoundsRecord, Refusal> merged(const std::string& whose, const BoundsRecord& before, const Bounds& bounds) {
  BoundsRecord after = before;
  if (bounds.reservation) after.reservation = bounds.reservation->value;
  if (bounds.limit) after.limit = bounds.limit->value;
  if (bounds.weight) after.weight = *bounds.weight;
  if (!(after.weight >= 0.001 && after.weight <= 1e6))
    return refuse(kInvalid, whose + ": a weight is a number from 0.001 to 1000000");
  if (after.reservation > (std::uint64_t{1} << 60)) return refuse(kInvalid, whose + ": no pool can reserve that much");
  if (after.reservation > after.limit)
    return refuse(kInvalid, whose + ": the reservation is above the limit", "raise the limit or lower the reservation",
                  "reservation " + size_text(Bytes{after.reservation}) + " > limit " + size_text(Bytes{after.limit}));
  return after;
}

// What is promised must fit: into the pool, into the tenant's limit, into the host's.
tl::expected<void, Refusal> check_promises(const State& state, const std::string& whose, const std::string& tenant,
                                           const std::string& host) {
  std::uint64_t of_tenant = 0;
  std::uint64_t of_host = 0;
  for (const auto& [name, each] : state.hosts) {
    for (const auto& [vm_name, vm] : each.vms) {
      const std::uint64_t slices = state.slices_for(vm.record.bounds.reservation);
      if (vm.record.tenant == tenant) of_tenant += slices;
      if (name == host) of_host += slices;
    }
  }
  const auto check = [&](const std::string& group, const BoundsRecord& bounds,
                         std::uint64_t sum) -> tl::expected<void, Refusal> {
    if (sum <= state.limit_slices(bounds)) return {};
    return refuse(kOverLimit, whose + ": reservations within " + group + " are above its limit",
                  "lower a reservation or raise that limit",
                  "reserved " + size_text(state.to_bytes(sum)) + " > limit " + size_text(Bytes{bounds.limit}));
  };
  if (const auto found = state.tenants.find(tenant); found != state.tenants.end())
    if (auto checked = check("tenant " + tenant, found->second.record.bounds, of_tenant); !checked) return checked;
  if (const auto found = state.hosts.find(host); found != state.hosts.end())
    if (auto checked = check("host " + host, found->second.record.bounds, of_host); !checked) return checked;
  const std::uint64_t promised = state.reserved_units(nullptr, nullptr);
  const std::uint64_t capacity = state.capacity_units();
  if (promised <= capacity) return {};
  return refuse(kNoCapacity, whose + ": the pool cannot promise that",
                "add memory servers or lower another reservation",
                "reserved by all, with replicas, " + size_text(state.to_bytes(promised)) + " > capacity " +
                    size_text(state.to_bytes(capacity)));
}

void say_changes(PlanAnswer& answer, const BoundsRecord& before, const BoundsRecord& after) {
  if (before.reservation != after.reservation)
    answer.reasons.push_back("reservation " + size_text(Bytes{before.reservation}) + " -> " +
                             size_text(Bytes{after.reservation}));
  if (before.limit != after.limit)
    answer.reasons.push_back("limit " + size_text(Bytes{before.limit}) + " -> " + size_text(Bytes{after.limit}));
  if (before.weight != after.weight)
    answer.reasons.push_back("weight " + std::to_string(before.weight) + " -> " + std::to_string(after.weight));
  if (before == after) answer.reasons.emplace_back("it is so already");
}

// Sets the bounds for as long as `check` is at work, and for good if that says so and this is no plan.
template <class Check>
tl::expected<void, Refusal> try_bounds(BoundsRecord& bounds, const BoundsRecord& after, bool plan, Check&& check) {
  const BoundsRecord before = bounds;
  bounds = after;
  tl::expected<void, Refusal> checked = check(before);
  if (!checked || plan) bounds = before;
  return checked;
}

bool promises_more(const BoundsRecord& before, const BoundsRecord& after) {
  return after.reservation > before.reservation || after.limit < before.limit;
}

// A VM that shrinks below what it uses takes pages home: is there room?
tl::expected<void, Refusal> check_shrinking(const State& state, const Vm& vm, PlanAnswer& answer) {
  const std::string whose = "vm " + vm.record.host + "/" + vm.record.name;
  const std::uint64_t limit = state.limit_slices(vm.record.bounds);
  if (vm.held <= limit) return {};
  answer.to_give_back = state.to_bytes(vm.held - limit);
  answer.reasons.push_back("held " + size_text(state.to_bytes(vm.held)) + " - limit " +
                           size_text(state.to_bytes(limit)) + " = " + size_text(answer.to_give_back) + " to give back");
  const Host& host = *vm.host;
  if (!vm.present) return {};  // nobody uses it; its host is asked whether it is gone
  if (!host.heard || state.context.now - host.seen >= state.config.host_silent_after)
    return refuse(kUnavailable, whose + ": its host is silent, so what it uses is not known", "see to the agent there",
                  {}, static_cast<std::uint64_t>(state.config.sync.count()));
  const Bytes room = state.to_bytes(limit);
  const Bytes home = saturating_sub(Bytes{vm.used}, room);
  const std::string sum = "need " + size_text(home) + " home (used " + size_text(Bytes{vm.used}) + " - limit " +
                          size_text(room) + "), spare " + size_text(Bytes{host.spare}) + " on host " + host.record.name;
  if (home > Bytes{host.spare}) {
    const Bytes least = state.to_bytes(state.slices_for(vm.used - host.spare));
    return refuse(kNoCapacity, whose + " cannot shrink so far",
                  "try --size " + std::to_string(least.value >> 20) + "MiB", sum);
  }
  answer.reasons.push_back(sum);
  return {};
}

}  // namespace

Handled handle(State& state, const SetVm& request) {
  Vm* const vm = state.find_vm(request.host, request.vm);
  const std::string whose = "vm " + request.host + "/" + request.vm;
  if (vm == nullptr) return refuse(kNotFound, "no " + whose, "see `tidectl pool status`");
  const auto after = merged(whose, vm->record.bounds, request.bounds);
  if (!after) return tl::unexpected(after.error());
  PlanAnswer answer;
  const BoundsRecord before = vm->record.bounds;
  say_changes(answer, before, *after);
  state.drop_claim(*vm);
  const auto tried = try_bounds(
      vm->record.bounds, *after, request.plan, [&](const BoundsRecord& former) -> tl::expected<void, Refusal> {
        if (after->reservation > former.reservation)
          if (auto checked = check_promises(state, whose, vm->record.tenant, request.host); !checked) return checked;
        return check_shrinking(state, *vm, answer);
      });
  state.add_claim(*vm);
  if (!tried) return tl::unexpected(tried.error());
  answer.done = !request.plan && before != *after;
  if (!answer.done) return Answer{std::move(answer)};
  state.save(vm->record);
  state.event("vm-set", whose, answer.reasons.front());
  state.next_round = state.context.now;
  return Answer{std::move(answer)};
}

Handled handle(State& state, const SetTenant& request) {
  if (!is_name(request.tenant)) return refuse(kInvalid, "a tenant's name has 1 to 64 of A-Z a-z 0-9 . _ -");
  const std::string whose = "tenant " + request.tenant;
  const auto found = state.tenants.find(request.tenant);
  const BoundsRecord before = found == state.tenants.end() ? BoundsRecord{} : found->second.record.bounds;
  const auto after = merged(whose, before, request.bounds);
  if (!after) return tl::unexpected(after.error());
  PlanAnswer answer;
  say_changes(answer, before, *after);
  Tenant& tenant = state.tenant_of(request.tenant);
  const auto tried = try_bounds(tenant.record.bounds, *after, request.plan,
                                [&](const BoundsRecord& former) -> tl::expected<void, Refusal> {
                                  if (!promises_more(former, *after)) return {};
                                  return check_promises(state, whose, request.tenant, {});
                                });
  if (!tried) return tl::unexpected(tried.error());
  if (const std::uint64_t limit = state.limit_slices(*after); tenant.held > limit) {
    answer.to_give_back = state.to_bytes(tenant.held - limit);
    answer.reasons.push_back("held " + size_text(state.to_bytes(tenant.held)) + ": its VMs give back " +
                             size_text(answer.to_give_back));
  }
  answer.done = !request.plan && (before != *after || !tenant.stored);
  if (!answer.done) return Answer{std::move(answer)};
  tenant.stored = true;
  state.save(tenant.record);
  state.event("tenant-set", whose, answer.reasons.front());
  state.next_round = state.context.now;
  return Answer{std::move(answer)};
}

Handled handle(State& state, const SetHost& request) {
  Host* const host = state.find_host(request.host);
  const std::string whose = "host " + request.host;
  if (host == nullptr) return refuse(kNotFound, "no " + whose, "its agent has to sync once");
  if (request.bounds.reservation && request.bounds.reservation->value > 0)
    return refuse(kInvalid, whose + ": a host has no reservation", "reserve for its VMs or for a tenant");
  const auto after = merged(whose, host->record.bounds, request.bounds);
  if (!after) return tl::unexpected(after.error());
  PlanAnswer answer;
  const BoundsRecord before = host->record.bounds;
  say_changes(answer, before, *after);
  const auto tried = try_bounds(host->record.bounds, *after, request.plan,
                                [&](const BoundsRecord& former) -> tl::expected<void, Refusal> {
                                  if (!promises_more(former, *after)) return {};
                                  return check_promises(state, whose, {}, request.host);
                                });
  if (!tried) return tl::unexpected(tried.error());
  if (const std::uint64_t limit = state.limit_slices(*after); host->held > limit) {
    answer.to_give_back = state.to_bytes(host->held - limit);
    answer.reasons.push_back("held " + size_text(state.to_bytes(host->held)) + ": its VMs give back " +
                             size_text(answer.to_give_back));
  }
  answer.done = !request.plan && before != *after;
  if (!answer.done) return Answer{std::move(answer)};
  state.save(host->record);
  state.event("host-set", whose, answer.reasons.front());
  state.next_round = state.context.now;
  return Answer{std::move(answer)};
}

}  // namespace tidepool::pool::controller
