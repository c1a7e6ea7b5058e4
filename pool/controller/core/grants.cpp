// Slices for a holder: offered, confirmed, renewed, given back.
#include <algorithm>
#include <set>

#include "pool/controller/core/state.h"

namespace tidepool::pool::controller {
namespace {

using enum Refusal::Code;

std::string name_of(const Vm& vm) {
  return vm.record.host + "/" + vm.record.name;
}

// What it may have more by its own limit and those around it.
tl::expected<void, Refusal> check_limits(State& state, const Vm& vm, std::uint64_t slices) {
  const auto check = [&](const std::string& whose, const BoundsRecord& bounds,
                         std::uint64_t held) -> tl::expected<void, Refusal> {
    const std::uint64_t limit = state.limit_slices(bounds);
    if (limit >= held && limit - held >= slices) return {};
    return refuse(kOverLimit, "vm " + name_of(vm) + " would be over the limit of " + whose, "raise that limit",
                  "held " + size_text(state.to_bytes(held)) + " + asked " + size_text(state.to_bytes(slices)) +
                      " > limit " + size_text(Bytes{bounds.limit}));
  };
  if (auto checked = check("the VM", vm.record.bounds, vm.held); !checked) return checked;
  const Tenant& tenant = state.tenant_of(vm.record.tenant);
  if (auto checked = check("tenant " + vm.record.tenant, tenant.record.bounds, tenant.held); !checked) return checked;
  return check("host " + vm.record.host, vm.host->record.bounds, vm.host->held);
}

// Whether others' claims leave so much.
tl::expected<void, Refusal> check_capacity(State& state, Vm& vm, const GrantSlices& request) {
  const std::vector<std::uint64_t> free = state.free_by_domain();
  const std::uint64_t groups = most_groups(free, request.replicas);
  const std::uint64_t after = vm.held + request.slices;
  const std::uint64_t reservation = state.slices_for(vm.record.bounds.reservation);
  // Kept for others, in units: what is reserved for them, and from who is above his share all that they may come for.
  const Claim mine = state.claim_of(vm);
  std::uint64_t kept = 0;
  if (after > std::max(reservation, vm.share)) {
    kept = state.claims.share - mine.share + state.buffer;
  } else if (after > reservation) {
    kept = state.claims.reservation - mine.reservation;
  }
  const std::uint64_t needed = std::uint64_t{request.slices} * request.replicas;
  const std::uint64_t usable = groups * request.replicas;
  if (request.slices <= groups && usable - needed >= kept) return {};
  // Counts as its demand from now on: if its share allows it, others give back.
  state.drop_claim(vm);
  vm.asked = std::max(vm.asked, after);
  state.add_claim(vm);
  state.next_round = std::min(state.next_round, state.context.now);
  std::uint64_t domains =
      static_cast<std::uint64_t>(std::ranges::count_if(free, [](std::uint64_t each) { return each > 0; }));
  std::string sum = "free " + size_text(state.to_bytes(groups)) + " in " + std::to_string(domains) +
                    " failure domains (" + std::to_string(request.replicas) + " replicas) - kept for others " +
                    size_text(state.to_bytes(kept / request.replicas)) + " < asked " +
                    size_text(state.to_bytes(request.slices));
  const auto again = static_cast<std::uint64_t>(state.config.sync.count());
  if (after <= vm.share || after <= reservation)
    return refuse(kUnavailable, "vm " + name_of(vm) + ": no free slices yet",
                  "others are asked to give back: try again", std::move(sum), again);
  const bool pairs = domains < request.replicas;
  return refuse(kNoCapacity, "vm " + name_of(vm) + ": no free slices",
                pairs ? "add memory servers of other failure domains, or use fewer replicas"
                      : "add memory servers, or raise the VM's reservation or weight",
                std::move(sum), again);
}

GrantAnswer answer_of(const State& state, const std::vector<std::uint64_t>& ids) {
  GrantAnswer answer;
  answer.confirm_ms = static_cast<std::uint64_t>(state.config.offer.count());
  for (const std::uint64_t id : ids) answer.leases.push_back(lease_of(state, state.slices.at(id)));
  return answer;
}

tl::expected<Life*, Refusal> life_of(State& state, const Host& host, const HolderId& holder) {
  const auto found = state.lives.find(holder);
  if (found == state.lives.end() || found->second.vm->host != &host)
    return refuse(kNotFound, "host " + host.record.name + " has told of no VM with this holder id",
                  "tell of the VM in a sync first");
  return &found->second;
}

LeaseStatus status_of(const State& state, const Life* life, SliceId id) {
  const auto found = state.slices.find(static_cast<std::uint64_t>(id));
  if (found == state.slices.end() || found->second.life != life) return LeaseStatus::kUnknown;
  switch (found->second.record.phase) {
    case SlicePhase::kOffered:
      return LeaseStatus::kOffered;
    case SlicePhase::kHeld:
      return LeaseStatus::kHeld;
    case SlicePhase::kReleasing:
      break;
  }
  return LeaseStatus::kReleasing;
}

tl::expected<void, Refusal> check_count(const std::string& host, std::size_t count, std::size_t most) {
  if (count <= most) return {};
  return refuse(kInvalid,
                "host " + host + ": " + std::to_string(count) + " slices at once, the most is " + std::to_string(most));
}

tl::expected<void, Refusal> check(const GrantSlices& request) {
  if (request.slices < 1 || request.slices > kMostSlicesPerRequest)
    return refuse(kInvalid, "host " + request.host + ": 1 to " + std::to_string(kMostSlicesPerRequest) +
                                " slices per request, not " + std::to_string(request.slices));
  if (request.replicas < 1 || request.replicas > kMostReplicasPerSlice)
    return refuse(kInvalid, "host " + request.host + ": 1 to 3 replicas, not " + std::to_string(request.replicas));
  if (request.request.empty() || request.request.size() > kMostRequestIdBytes)
    return refuse(kInvalid, "host " + request.host + ": a request's id has 1 to 64 bytes");
  return {};
}

}  // namespace

ReplicaLease replica_lease(const State& state, const Slice& slice, const ReplicaRecord& replica, const Server& server,
                           bool create) {
  ReplicaLease lease;
  lease.server = server.record.name;
  lease.address = server.record.address;
  lease.boot = server.record.boot;
  lease.claims.slice = SliceId{slice.record.id};
  lease.claims.holder = slice.record.holder;
  lease.claims.epoch = LeaseEpoch{replica.epoch};
  lease.claims.slots = static_cast<std::uint32_t>(state.cluster.slice_bytes / protocol::kSlotBytes);
  lease.claims.rights = protocol::kRightRead | protocol::kRightWrite | protocol::kRightRelease;
  if (create) lease.claims.rights |= protocol::kRightCreate;
  lease.claims.lease_ms = static_cast<std::uint64_t>(state.config.lease.count());
  lease.secret = protocol::lease_secret(server.record.key, lease.claims);
  return lease;
}

SliceLease lease_of(const State& state, const Slice& slice) {
  SliceLease lease;
  lease.slice = SliceId{slice.record.id};
  for (const ReplicaRecord& replica : slice.record.replicas) {
    const Server* const server = state.server_of(replica);
    if (server == nullptr || replica.phase == ReplicaPhase::kFreeing) continue;
    lease.replicas.push_back(replica_lease(state, slice, replica, *server, replica.phase == ReplicaPhase::kJoining));
  }
  return lease;
}

Handled handle(State& state, const GrantSlices& request) {
  if (const auto checked = check(request); !checked) return tl::unexpected(checked.error());
  const auto host = host_of(state, request.host, request.epoch);
  if (!host) return tl::unexpected(host.error());
  const auto found = life_of(state, **host, request.holder);
  if (!found) return tl::unexpected(found.error());
  Life& life = **found;
  Vm& vm = *life.vm;
  if (const auto before = (*host)->requests.find(request.request); before != (*host)->requests.end()) {
    const bool same = std::ranges::all_of(before->second, [&](std::uint64_t id) {
      const SliceRecord& record = state.slices.at(id).record;
      return record.phase != SlicePhase::kReleasing && record.holder == request.holder;
    });
    if (same && before->second.size() == request.slices) return Answer{answer_of(state, before->second)};
    return refuse(kConflict, "request " + request.request + " of host " + request.host + " was granted and given up",
                  "ask under another id");
  }
  if (state.ended(life)) return refuse(kConflict, "vm " + name_of(vm) + ": this life of it was declared over");
  if (const auto checked = check_limits(state, vm, request.slices); !checked) return tl::unexpected(checked.error());
  if (const auto checked = check_capacity(state, vm, request); !checked) return tl::unexpected(checked.error());
  Spread spread = state.spread(&life, nullptr);
  std::vector<SpreadGroup> groups;
  while (groups.size() < request.slices) {
    const auto group = spread.place(request.replicas);
    if (!group)
      return refuse(kUnavailable, "vm " + name_of(vm) + ": the servers that it may use have no pair for every slice",
                    "try again", {}, static_cast<std::uint64_t>(state.config.sync.count()));
    groups.push_back(*group);
  }
  Offer offer{request.host, request.holder, {}, state.context.now + state.config.offer};
  for (const SpreadGroup& group : groups) {
    SliceRecord record;
    record.id = state.next.slice++;
    record.holder = request.holder;
    record.wanted = static_cast<std::uint8_t>(request.replicas);
    record.epoch = 1;
    record.request = request.request;
    for (unsigned i = 0; i < request.replicas; ++i) {
      const std::uint32_t number = spread.server(group[i]).number;
      record.replicas.push_back({number, state.by_number.at(number)->record.generation, 1, ReplicaPhase::kJoining});
    }
    offer.slices.push_back(record.id);
    state.save(state.create(std::move(record), life).record);
  }
  state.save(state.next);
  state.event("granted", "vm " + name_of(vm),
              std::to_string(request.slices) + " slices, held " + size_text(state.to_bytes(vm.held)));
  Answer answer{answer_of(state, offer.slices)};
  state.offers.push_back(std::move(offer));
  return answer;
}

Handled handle(State& state, const ConfirmSlices& request) {
  const auto host = host_of(state, request.host, request.epoch);
  if (!host) return tl::unexpected(host.error());
  if (auto checked = check_count(request.host, request.slices.size(), kMostSlicesPerRequest); !checked)
    return tl::unexpected(checked.error());
  const auto life = life_of(state, **host, request.holder);
  if (!life) return tl::unexpected(life.error());
  ConfirmAnswer answer;
  for (const SliceId id : request.slices) {
    if (status_of(state, *life, id) == LeaseStatus::kOffered) {
      Slice& slice = state.slices.at(static_cast<std::uint64_t>(id));
      // A server that began anew meanwhile has forgotten what was attached there.
      const bool whole = std::ranges::all_of(
          slice.record.replicas, [&](const ReplicaRecord& replica) { return state.server_of(replica) != nullptr; });
      if (whole) {
        state.change(slice, [](SliceRecord& record) {
          record.phase = SlicePhase::kHeld;
          for (ReplicaRecord& replica : record.replicas) replica.phase = ReplicaPhase::kInForce;
        });
      } else {
        state.release(slice);
      }
    }
    answer.slices.push_back({id, status_of(state, *life, id)});
  }
  return Answer{std::move(answer)};
}

Handled handle(State& state, const RenewLeases& request) {
  const auto host = host_of(state, request.host, request.epoch);
  if (!host) return tl::unexpected(host.error());
  if (auto checked = check_count(request.host, request.slices.size(), kMostRenewals); !checked)
    return tl::unexpected(checked.error());
  const auto life = life_of(state, **host, request.holder);
  if (!life) return tl::unexpected(life.error());
  RenewAnswer answer;
  const auto renew = [&](std::uint64_t id) {
    const LeaseStatus status = status_of(state, *life, SliceId{id});
    if (status == LeaseStatus::kHeld || status == LeaseStatus::kOffered) {
      answer.leases.push_back(lease_of(state, state.slices.at(id)));
    } else {
      answer.not_renewed.push_back({SliceId{id}, status});
    }
  };
  for (const SliceId id : request.slices) renew(static_cast<std::uint64_t>(id));
  if (!request.slices.empty()) return Answer{std::move(answer)};
  const auto& all = (*life)->slices;
  auto each = all.upper_bound(static_cast<std::uint64_t>(request.after));
  for (; each != all.end() && answer.leases.size() < kMostRenewals; ++each)
    if (status_of(state, *life, SliceId{*each}) != LeaseStatus::kReleasing) renew(*each);
  answer.more = each != all.end();
  return Answer{std::move(answer)};
}

Handled handle(State& state, const ReleaseSlices& request) {
  const auto host = host_of(state, request.host, request.epoch);
  if (!host) return tl::unexpected(host.error());
  if (auto checked = check_count(request.host, request.slices.size(), kMostSlicesPerRequest); !checked)
    return tl::unexpected(checked.error());
  const auto found = state.lives.find(request.holder);
  Life* const life = found != state.lives.end() && found->second.vm->host == *host ? &found->second : nullptr;
  ReleaseAnswer answer;
  std::uint64_t released = 0;
  for (const SliceId id : request.slices) {
    const LeaseStatus before = life == nullptr ? LeaseStatus::kUnknown : status_of(state, life, id);
    if (before == LeaseStatus::kHeld || before == LeaseStatus::kOffered) {
      state.release(state.slices.at(static_cast<std::uint64_t>(id)));
      ++released;
    }
    const bool there = before != LeaseStatus::kUnknown;
    answer.slices.push_back({id, there ? LeaseStatus::kReleasing : LeaseStatus::kUnknown});
  }
  if (life != nullptr && request.all && !state.ended(*life)) {
    released += life->held;
    state.end_life(*life);
  }
  if (released > 0)
    state.event("released", "vm " + name_of(*life->vm),
                std::to_string(released) + " slices, held " + size_text(state.to_bytes(life->vm->held)));
  return Answer{std::move(answer)};
}

}  // namespace tidepool::pool::controller
