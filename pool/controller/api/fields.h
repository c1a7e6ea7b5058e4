// The fields of every request and answer, once, for whoever reads or writes them.
//
// describe(io, x) tells io of each field of x, in the order of the documents. io has:
//   path(name, text), query(name, field)   part of the target; of requests only
//   need(name, field), may(name, field)    a member that must be there, or that keeps its value when it is not
//   need(name, list, most), may(...)       a list with at most so many items
//   limit(name, bytes)                     may(), where null stands for "no limit" (UINT64_MAX)
// Writers pass values that they only read.
#pragma once

#include <array>
#include <limits>
#include <string_view>
#include <utility>

#include "pool/controller/api/service.h"

namespace tidepool::pool::controller {

inline constexpr std::size_t kAnyNumber = std::numeric_limits<std::size_t>::max();

template <class Enum>
using Words = std::span<const std::pair<std::string_view, Enum>>;

inline Words<TaskKind> words_of(TaskKind) {
  static constexpr std::array<std::pair<std::string_view, TaskKind>, 2> kWords{
      {{"add_replica", TaskKind::kAddReplica}, {"drop_replica", TaskKind::kDropReplica}}};
  return kWords;
}
inline Words<ServerState> words_of(ServerState) {
  static constexpr std::array<std::pair<std::string_view, ServerState>, 3> kWords{
      {{"up", ServerState::kUp}, {"suspect", ServerState::kSuspect}, {"lost", ServerState::kLost}}};
  return kWords;
}
inline Words<LeaseStatus> words_of(LeaseStatus) {
  static constexpr std::array<std::pair<std::string_view, LeaseStatus>, 4> kWords{
      {{"held", LeaseStatus::kHeld},
       {"offered", LeaseStatus::kOffered},
       {"releasing", LeaseStatus::kReleasing},
       {"unknown", LeaseStatus::kUnknown}}};
  return kWords;
}
inline Words<ReplicaStatus> words_of(ReplicaStatus) {
  static constexpr std::array<std::pair<std::string_view, ReplicaStatus>, 5> kWords{
      {{"in_force", ReplicaStatus::kInForce},
       {"joining", ReplicaStatus::kJoining},
       {"leaving", ReplicaStatus::kLeaving},
       {"freeing", ReplicaStatus::kFreeing},
       {"gone", ReplicaStatus::kGone}}};
  return kWords;
}

// ---- memory servers -----------------------------------------------------------------------------------------------

template <class Io>
void describe(Io& io, ServerSlice& x) {
  io.need("slice", x.slice);
  io.need("epoch", x.epoch);
}
template <class Io>
void describe(Io& io, RegisterServer& x) {
  io.path("name", x.name);
  io.need("boot", x.boot);
  io.need("address", x.address);
  io.may("domain", x.domain);
  io.need("capacity_bytes", x.capacity);
  io.need("key", x.key);
  io.need("slices", x.slices, kMostSlicesPerServer);
}
template <class Io>
void describe(Io& io, FreeCommand& x) {
  io.need("slice", x.slice);
  io.need("below_epoch", x.below);
}
template <class Io>
void describe(Io& io, ServerHeartbeat& x) {
  io.path("name", x.name);
  io.need("boot", x.boot);
  io.need("free_bytes", x.free);
  io.may("done", x.done, kMostSlicesPerRequest);
  io.may("draining", x.draining);
  io.may("leaving", x.leaving);
}
template <class Io>
void describe(Io& io, ServerAnswer& x) {
  io.need("heartbeat_ms", x.heartbeat_ms);
  io.need("drain", x.drain);
  io.need("register_again", x.register_again);
  io.need("free", x.free, kMostSlicesPerRequest);
}

// ---- hosts --------------------------------------------------------------------------------------------------------

template <class Io>
void describe(Io& io, VmReport& x) {
  io.need("holder", x.holder);
  io.need("name", x.name);
  io.may("tenant", x.tenant);
  io.need("wanted_bytes", x.wanted);
  io.need("used_bytes", x.used);
  io.may("replicas", x.replicas);
}
template <class Io>
void describe(Io& io, TaskReport& x) {
  io.need("kind", x.kind);
  io.need("slice", x.slice);
  io.need("server", x.server);
  io.need("epoch", x.epoch);
  io.need("done", x.done);
  io.may("why", x.why);
}
template <class Io>
void describe(Io& io, LostReplica& x) {
  io.need("slice", x.slice);
  io.need("server", x.server);
  io.need("epoch", x.epoch);
}
template <class Io>
void describe(Io& io, SyncHost& x) {
  io.path("name", x.host);
  io.need("machine", x.machine);
  io.need("boot", x.boot);
  io.need("instance", x.instance);
  io.need("epoch", x.epoch);
  io.need("spare_bytes", x.spare);
  io.need("vms", x.vms, kMostVmsPerHost);
  io.may("gone", x.gone, kMostVmsPerHost);
  io.may("lost", x.lost, kMostSlicesPerRequest);
  io.may("tasks", x.tasks, kMostSlicesPerRequest);
}
template <class Io>
void describe(Io& io, protocol::Claims& x) {
  io.need("slice", x.slice);
  io.need("holder", x.holder);
  io.need("epoch", x.epoch);
  io.need("slots", x.slots);
  io.need("rights", x.rights);
  io.need("lease_ms", x.lease_ms);
}
template <class Io>
void describe(Io& io, ReplicaLease& x) {
  io.need("server", x.server);
  io.need("address", x.address);
  io.need("boot", x.boot);
  io.need("claims", x.claims);
  io.need("secret", x.secret);
}
template <class Io>
void describe(Io& io, SliceLease& x) {
  io.need("slice", x.slice);
  io.need("replicas", x.replicas, kMostReplicasPerSlice + 1);
}
template <class Io>
void describe(Io& io, PoolServer& x) {
  io.need("name", x.name);
  io.need("address", x.address);
  io.need("domain", x.domain);
  io.need("boot", x.boot);
  io.need("state", x.state);
  io.need("draining", x.draining);
}
template <class Io>
void describe(Io& io, VmShare& x) {
  io.need("holder", x.holder);
  io.need("name", x.name);
  io.need("held_bytes", x.held);
  io.need("share_bytes", x.share);
  io.limit("limit_bytes", x.limit);
  io.need("give_back_bytes", x.give_back);
  io.need("give_back_ms", x.give_back_ms);
}
template <class Io>
void describe(Io& io, Task& x) {
  io.need("kind", x.kind);
  io.need("slice", x.slice);
  io.need("holder", x.holder);
  io.need("server", x.server);
  io.need("epoch", x.epoch);
  io.may("lease", x.lease);
  io.need("reason", x.reason);
}
template <class Io>
void describe(Io& io, SyncAnswer& x) {
  io.need("epoch", x.epoch);
  io.need("sync_ms", x.sync_ms);
  io.need("lease_ms", x.lease_ms);
  io.need("slice_bytes", x.slice_bytes);
  io.need("servers", x.servers, kAnyNumber);
  io.need("vms", x.vms, kAnyNumber);
  io.need("tasks", x.tasks, kAnyNumber);
  io.need("refused", x.refused, kAnyNumber);
  io.need("strays", x.strays, kAnyNumber);
}
template <class Io>
void describe(Io& io, GrantSlices& x) {
  io.path("name", x.host);
  io.need("epoch", x.epoch);
  io.need("request", x.request);
  io.need("holder", x.holder);
  io.need("slices", x.slices);
  io.may("replicas", x.replicas);
}
template <class Io>
void describe(Io& io, GrantAnswer& x) {
  io.need("leases", x.leases, kAnyNumber);
  io.need("confirm_ms", x.confirm_ms);
}
template <class Io>
void describe(Io& io, SliceStatus& x) {
  io.need("slice", x.slice);
  io.need("status", x.status);
}
template <class Io>
void describe(Io& io, ConfirmSlices& x) {
  io.path("name", x.host);
  io.need("epoch", x.epoch);
  io.need("holder", x.holder);
  io.need("slices", x.slices, kMostSlicesPerRequest);
}
template <class Io>
void describe(Io& io, ConfirmAnswer& x) {
  io.need("slices", x.slices, kAnyNumber);
}
template <class Io>
void describe(Io& io, RenewLeases& x) {
  io.path("name", x.host);
  io.need("epoch", x.epoch);
  io.need("holder", x.holder);
  io.may("slices", x.slices, kMostRenewals);
  io.may("after", x.after);
}
template <class Io>
void describe(Io& io, RenewAnswer& x) {
  io.need("leases", x.leases, kAnyNumber);
  io.need("not_renewed", x.not_renewed, kAnyNumber);
  io.need("more", x.more);
}
template <class Io>
void describe(Io& io, ReleaseSlices& x) {
  io.path("name", x.host);
  io.need("epoch", x.epoch);
  io.need("holder", x.holder);
  io.may("slices", x.slices, kMostSlicesPerRequest);
  io.may("all", x.all);
}
template <class Io>
void describe(Io& io, ReleaseAnswer& x) {
  io.need("slices", x.slices, kAnyNumber);
}

// ---- administration -----------------------------------------------------------------------------------------------

template <class Io>
void describe_bounds(Io& io, Bounds& x, bool reservation = true) {
  if (reservation) io.may("reservation_bytes", x.reservation);
  io.limit("limit_bytes", x.limit);
  io.may("weight", x.weight);
}
template <class Io>
void describe(Io& io, SetVm& x) {
  io.path("host", x.host);
  io.path("vm", x.vm);
  io.query("plan", x.plan);
  describe_bounds(io, x.bounds);
}
template <class Io>
void describe(Io& io, SetTenant& x) {
  io.path("name", x.tenant);
  io.query("plan", x.plan);
  describe_bounds(io, x.bounds);
}
template <class Io>
void describe(Io& io, SetHost& x) {
  io.path("name", x.host);
  io.query("plan", x.plan);
  describe_bounds(io, x.bounds, false);
}
template <class Io>
void describe(Io& io, DrainServer& x) {
  io.path("name", x.server);
  io.query("plan", x.plan);
}
template <class Io>
void describe(Io& io, OkToStop& x) {
  io.path("name", x.server);
}
template <class Io>
void describe(Io& io, ForgetServer& x) {
  io.path("name", x.server);
  io.query("plan", x.plan);
}
template <class Io>
void describe(Io& io, ForgetHost& x) {
  io.path("name", x.host);
  io.query("plan", x.plan);
}
template <class Io>
void describe(Io& io, ForgetVm& x) {
  io.path("host", x.host);
  io.path("vm", x.vm);
  io.query("plan", x.plan);
}
template <class Io>
void describe(Io& io, PlanAnswer& x) {
  io.need("possible", x.possible);
  io.need("done", x.done);
  io.need("reasons", x.reasons, kAnyNumber);
  io.need("to_give_back_bytes", x.to_give_back);
  io.need("slices_to_copy", x.slices_to_copy);
}
template <class Io>
void describe(Io& io, BackupAnswer& x) {
  io.need("file", x.file);
  io.need("records", x.records);
  io.need("file_bytes", x.bytes);
}

}  // namespace tidepool::pool::controller
