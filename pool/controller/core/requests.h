// What is asked of the controller, and what it answers, as plain data. docs/adr/0016-pool-controller.md.
//
// All sizes in Bytes; the controller rounds limits down and reservations and wishes up to whole slices. Times that are
// spans are milliseconds from the answer's sending. Names of servers, hosts and tenants: 1 to 64 of A-Z a-z 0-9 . _ - ;
// names of VMs: 1 to 128 bytes of printable UTF-8. Whatever breaks a bound is refused, nothing is cut off.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/units.h"
#include "pool/controller/core/views.h"
#include "pool/protocol/handshake.h"
#include "pool/protocol/messages.h"

namespace tidepool::pool::controller {

inline constexpr std::size_t kMostNameBytes = 64;
inline constexpr std::size_t kMostVmNameBytes = 128;
inline constexpr std::size_t kMostTextBytes = 256;  // addresses, reasons, machine, boot and instance
inline constexpr std::size_t kMostRequestIdBytes = 64;
inline constexpr std::size_t kMostSlicesPerRequest = 64;  // of grants, confirmations and releases
inline constexpr std::size_t kMostReports = 32;           // of each kind in one sync
inline constexpr std::size_t kMostRenewals = 512;         // slices of one renewal
inline constexpr std::size_t kMostVmsPerHost = 4096;
inline constexpr std::size_t kMostSlicesPerServer = 1'000'000;
inline constexpr unsigned kMostReplicasPerSlice = 3;

// Why a request was not done; nothing of it was.
struct Refusal {
  enum class Code : std::uint8_t {
    kInvalid,      // the request contradicts itself or a bound; the same one never works
    kNotFound,     // no such server, host, vm, tenant
    kConflict,     // somebody else has that name, or the state does not allow it
    kStale,        // a later agent of that host, or another boot of that server, has taken over: begin anew
    kNoCapacity,   // the arithmetic says what is missing
    kOverLimit,    // a limit of the vm, its tenant or its host
    kUnavailable,  // not now: try again after retry_after_ms
  };
  Code code = Code::kInvalid;
  std::string message;               // what was refused, naming the thing
  std::string arithmetic;            // the sum that does not come out, or empty
  std::string remedy;                // what to do, or empty
  std::uint64_t retry_after_ms = 0;  // 0: not by waiting alone
};

// ---- memory servers ----------------------------------------------------------------------------------------------

struct ServerSlice {
  SliceId slice{};
  LeaseEpoch epoch{};
};

// POST /v1/servers/{name}/register. Also again with the same boot, whenever an answer says so. A boot that is not known
// replaces the one that was: everything there is gone. It is refused while the former one still sends heartbeats.
struct RegisterServer {
  std::string name;
  BootId boot{};
  std::string address;              // "tcp:host:port", "unix:/path": where clients reach it
  std::string domain;               // failure domain; empty: it fails alone
  Bytes capacity;                   // that it lends
  protocol::ServerKey key{};        // of this boot: tokens are made with it
  std::vector<ServerSlice> slices;  // all that it has
};

// Free the slice if it is there with a lower epoch, and refuse every lower one from then on, also if it was not there.
// Zeroed before anybody else gets the memory. Told again until it is reported done.
struct FreeCommand {
  SliceId slice{};
  LeaseEpoch below{};
};

// POST /v1/servers/{name}/heartbeat
struct ServerHeartbeat {
  std::string name;
  BootId boot{};
  Bytes free;
  std::vector<FreeCommand> done;  // as they were told; at most kMostSlicesPerRequest
  bool draining = false;          // it wants to end: until it says otherwise, what it has moves elsewhere
  bool leaving = false;           // it ends now, with everything that it has
};

// To both. kStale: register (again).
struct ServerAnswer {
  std::uint64_t heartbeat_ms = 0;  // from one to the next
  bool drain = false;              // make no new slices but those that tokens ask for; informative
  bool register_again = false;     // the controller wants the list of slices
  std::vector<FreeCommand> free;   // at most kMostSlicesPerRequest at a time
};

// ---- hosts -------------------------------------------------------------------------------------------------------

struct VmReport {
  HolderId holder{};
  std::string name;
  std::string tenant;  // empty: "default"
  Bytes wanted;        // that it would use if it had as much, each page once
  Bytes used;          // live pages at memory servers, each page once
  unsigned replicas = 2;
};

enum class TaskKind : std::uint8_t {
  kAddReplica = 1,   // attach at the server (lease), copy every page, put it in force, report
  kDropReplica = 2,  // use it no more, report
};
struct TaskReport {
  TaskKind kind = TaskKind::kAddReplica;
  SliceId slice{};
  std::string server;
  LeaseEpoch epoch{};  // as the task said
  bool done = false;   // false: it cannot be done; a lease of it is given up then
  std::string why;     // when not done
};
// A replica that the holder uses no more: it missed a write, or its server has begun anew. It is never used again with
// that epoch: a task of it that is still under way is reported as one that cannot be done.
struct LostReplica {
  SliceId slice{};
  std::string server;
  LeaseEpoch epoch{};
};

// POST /v1/hosts/{name}/sync. An agent's first one has epoch 0; all that it gets is an epoch, with which it syncs again
// at once (sync_ms is 0). By that it speaks for the host: requests with another epoch are refused (kStale) from then
// on, and whoever gets kStale begins anew with epoch 0. The same instance gets the same epoch again.
struct SyncHost {
  std::string host;
  std::string machine;   // what tells machines apart (/etc/machine-id). Another one needs ForgetHost first
  std::string boot;      // of the machine. Another one: every VM of before that is not in `vms` is gone
  std::string instance;  // of the agent: random at its start
  std::uint64_t epoch = 0;
  Bytes spare;                    // how much could come home now
  std::vector<VmReport> vms;      // all that use the pool now
  std::vector<HolderId> gone;     // VMs' lives that have ended: what they hold is freed
  std::vector<LostReplica> lost;  // an answer means that every report was taken
  std::vector<TaskReport> tasks;
};

struct ReplicaLease {
  std::string server;
  std::string address;
  BootId boot{};  // a server of another boot has nothing of this
  protocol::Claims claims;
  protocol::LeaseSecret secret{};
};
struct SliceLease {
  SliceId slice{};
  std::vector<ReplicaLease> replicas;
};

struct PoolServer {
  std::string name;
  std::string address;
  std::string domain;
  BootId boot{};
  ServerState state = ServerState::kUp;
  bool draining = false;
};

struct VmShare {
  HolderId holder{};
  std::string name;
  Bytes held;                      // leased to this life, offers included, each slice once
  Bytes share;                     // what it may have now
  Bytes limit;                     // most that it may ever have; UINT64_MAX: no limit
  Bytes give_back;                 // of what it holds: release that much
  std::uint64_t give_back_ms = 0;  // until an operator is told; 0 when that has passed, or nothing is wanted
};

struct Task {
  TaskKind kind = TaskKind::kAddReplica;
  SliceId slice{};
  HolderId holder{};
  std::string server;
  LeaseEpoch epoch{};                 // of the replica there
  std::optional<ReplicaLease> lease;  // of kAddReplica
  std::string reason;                 // "drain", "lost", "balance"
};

struct SyncAnswer {
  std::uint64_t epoch = 0;  // for every request of this agent
  std::uint64_t sync_ms = 0;
  std::uint64_t lease_ms = 0;  // of new tokens
  Bytes slice_bytes;
  std::vector<PoolServer> servers;  // of a large pool only those that this host's slices are at
  std::vector<VmShare> vms;
  std::vector<Task> tasks;          // all that are to be done now; one that is missing is to be left
  std::vector<TaskReport> refused;  // of those reported done: the replica is fenced, it is not in force
  std::vector<HolderId> strays;     // hold slices here, and were in no report: say `gone` if they are
};

// POST /v1/hosts/{name}/grants. All or nothing. The slices are *offered*: attach at every replica, then confirm. No
// page may be written before the confirmation's answer, for what is not confirmed is fenced and freed.
struct GrantSlices {
  std::string host;
  std::uint64_t epoch = 0;
  std::string request;  // the caller's id: the same one gives the same answer
  HolderId holder{};
  std::uint32_t slices = 0;
  unsigned replicas = 2;
};
struct GrantAnswer {
  std::vector<SliceLease> leases;
  std::uint64_t confirm_ms = 0;
};

struct SliceStatus {
  SliceId slice{};
  LeaseStatus status = LeaseStatus::kUnknown;
};

// POST /v1/hosts/{name}/confirmations: attached at all replicas.
struct ConfirmSlices {
  std::string host;
  std::uint64_t epoch = 0;
  HolderId holder{};
  std::vector<SliceId> slices;
};
struct ConfirmAnswer {
  std::vector<SliceStatus> slices;  // only kHeld may be used
};

// POST /v1/hosts/{name}/renewals. No slices given: all of the holder's, in the order of ids, those above `after`. By
// that an agent that began anew learns what it has: slices that it does not know it releases, and a copy that was under
// way and is not listed any more is not in force.
struct RenewLeases {
  std::string host;
  std::uint64_t epoch = 0;
  HolderId holder{};
  std::vector<SliceId> slices;
  SliceId after{};
};
struct RenewAnswer {
  std::vector<SliceLease> leases;        // held or offered; replicas whose server has begun anew are not among them
  std::vector<SliceStatus> not_renewed;  // of those asked for
  bool more = false;                     // ask again, after the last one
};

// POST /v1/hosts/{name}/releases. The holder has no page there and never uses it again, whatever an answer says that
// was still under way.
struct ReleaseSlices {
  std::string host;
  std::uint64_t epoch = 0;
  HolderId holder{};
  std::vector<SliceId> slices;
  bool all = false;  // everything that this life holds, now and in offers: it has ended
};
struct ReleaseAnswer {
  std::vector<SliceStatus> slices;  // kReleasing or kUnknown: either way done
};

// ---- administration ----------------------------------------------------------------------------------------------

// What is given is changed; the rest stays.
struct Bounds {
  std::optional<Bytes> reservation;
  std::optional<Bytes> limit;  // UINT64_MAX: none
  std::optional<double> weight;
};

// PATCH /v1/vms/{host}/{vm}?plan=. The "size" of a resize is the limit.
struct SetVm {
  std::string host;
  std::string vm;
  Bounds bounds;
  bool plan = false;  // change nothing, show the sums
};
// PUT /v1/tenants/{name}, PUT /v1/hosts/{name}. A host has no reservation.
struct SetTenant {
  std::string tenant;
  Bounds bounds;
  bool plan = false;
};
struct SetHost {
  std::string host;
  Bounds bounds;
  bool plan = false;
};
// POST /v1/servers/{name}/drain and /undrain
struct DrainServer {
  std::string server;
  bool drain = true;
  bool plan = false;
};
// GET /v1/servers/{name}/ok-to-stop
struct OkToStop {
  std::string server;
};
// POST /v1/servers/{name}/forget: a lost one that will not come back.
struct ForgetServer {
  std::string server;
  bool plan = false;
};
// POST /v1/hosts/{name}/forget, /v1/vms/{host}/{vm}/forget: it is gone; what it holds is fenced, then freed.
struct ForgetHost {
  std::string host;
  bool plan = false;
};
struct ForgetVm {
  std::string host;
  std::string vm;
  bool plan = false;
};

// To all of these. That it cannot be done is a Refusal, except of OkToStop, which answers possible = false.
struct PlanAnswer {
  bool possible = true;
  bool done = false;                 // false for plans and questions, and when it was so before
  std::vector<std::string> reasons;  // the arithmetic, a line each
  Bytes to_give_back;                // by VMs, before it is complete
  std::uint64_t slices_to_copy = 0;
};

using Request = std::variant<RegisterServer, ServerHeartbeat, SyncHost, GrantSlices, ConfirmSlices, RenewLeases,
                             ReleaseSlices, SetVm, SetTenant, SetHost, DrainServer, OkToStop, ForgetServer, ForgetHost,
                             ForgetVm, GetStatus, ListServers, ListHosts, ListVms, ListLeases, ListHistory>;
using Answer =
    std::variant<Refusal, ServerAnswer, SyncAnswer, GrantAnswer, ConfirmAnswer, RenewAnswer, ReleaseAnswer, PlanAnswer,
                 StatusAnswer, ServersAnswer, HostsAnswer, VmsAnswer, LeasesAnswer, HistoryAnswer>;

}  // namespace tidepool::pool::controller
