// What the core knows: records, with what follows from them and what is not stored. Included by the core's own sources
// and by its tests.
//
// A slice changes only through change(), so that every index and sum is right at all times. Iteration is in the order
// of names and ids, so that the same calls give the same answers.
#pragma once

#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "pool/controller/core/core.h"
#include "pool/controller/core/records.h"
#include "pool/controller/core/spread.h"

namespace tidepool::pool::controller {

struct Host;
struct Vm;
struct Life;

struct Orphan {
  std::uint64_t epoch = 0;  // that it has
  std::uint64_t below = 0;  // that it was told to free it below; 0: not told yet
};

struct Server {
  ServerRecord record;
  std::uint32_t domain = 0;  // its number in this process
  ServerState state = ServerState::kSuspect;
  MonoTime seen;
  MonoTime registered;
  bool heard = false;   // since this process began
  bool ending = false;  // by its own word: it wants to end when it has nothing any more
  std::uint64_t reported_free = 0;
  std::set<std::uint64_t> slices;           // with a replica here, those to be freed included
  std::set<std::uint64_t> freeing;          // of these
  std::map<std::uint64_t, Orphan> orphans;  // slices that it has and, by the records, has not
  unsigned copies = 0;                      // replicas being made to or from it

  // By an operator's word or its own.
  bool draining() const { return record.draining || ending; }
  bool usable() const { return state == ServerState::kUp && !draining() && !record.left; }
  // Whether its replicas count as there.
  bool trusted() const { return state != ServerState::kLost && !record.left; }
};

// One life of a VM: a holder.
struct Life {
  HolderId holder{};
  Vm* vm = nullptr;
  std::set<std::uint64_t> slices;
  std::uint64_t held = 0;                     // slices that are not being released
  std::map<std::uint32_t, unsigned> servers;  // by number: how many of its replicas
};

struct Vm {
  VmRecord record;
  Host* host = nullptr;
  bool present = false;      // in the last report
  bool reported = false;     // since this process began
  std::uint64_t wanted = 0;  // bytes
  std::uint64_t used = 0;
  std::uint64_t asked = 0;  // slices, by a grant since the last report
  std::uint64_t held = 0;   // slices of all lives
  std::uint64_t share = 0;
  std::uint64_t give_back = 0;
  MonoTime give_back_since;
  bool overdue = false;
  std::uint64_t under_replicated = 0;
};

struct Host {
  HostRecord record;
  MonoTime seen;
  bool heard = false;
  std::uint64_t spare = 0;
  std::map<std::string, Vm> vms;
  std::uint64_t held = 0;
  unsigned copies = 0;                                         // being made
  std::set<std::pair<std::uint8_t, std::uint64_t>> needy;      // priority and slice
  std::set<std::uint64_t> tasks;                               // slices with something for the holder to do
  std::map<std::string, std::vector<std::uint64_t>> requests;  // of grants whose slices exist
  std::vector<HolderId> strays;
};

struct Tenant {
  TenantRecord record;
  bool stored = false;
  std::uint64_t held = 0;
  std::uint64_t share = 0;
  std::uint32_t vms = 0;
};

// What is to be done for a slice, the most urgent first.
enum class Need : std::uint8_t { kTidy, kLastCopy, kLost, kDrain, kNothing };

struct Slice {
  SliceRecord record;
  Life* life = nullptr;
  Need need = Need::kNothing;
  bool under_replicated = false;
  bool lost = false;
  bool copying = false;
  MonoTime not_before;  // after a failed copy
};

struct Offer {
  std::string host;
  HolderId holder{};
  std::vector<std::uint64_t> slices;
  MonoTime until;
};

// An agent that got an epoch and did not use it yet.
struct Candidate {
  std::string machine;
  std::string boot;
  std::string instance;
  std::uint64_t epoch = 0;
};

struct Totals {
  std::uint64_t offered = 0;
  std::uint64_t releasing = 0;
  std::uint64_t under_replicated = 0;
  std::uint64_t lost = 0;
  std::uint64_t copying = 0;
  std::uint64_t to_copy = 0;  // slices that need one
  bool operator==(const Totals&) const = default;
};

// Units (replicas of slices) that VMs may come for, because they have less than that.
struct Claim {
  std::uint64_t share = 0;        // than their share or their reservation
  std::uint64_t reservation = 0;  // than their reservation
  bool operator==(const Claim&) const = default;
};

struct State {
  explicit State(const CoreConfig& chosen) : config(chosen) {}

  CoreConfig config;
  Context context;  // of the call under way
  bool begun = false;

  ClusterRecord cluster;
  NextRecord next;
  std::map<std::string, Server> servers;
  std::unordered_map<std::uint32_t, Server*> by_number;
  std::map<std::string, std::uint32_t> domains;
  std::map<std::string, Host> hosts;
  std::map<HolderId, Life> lives;
  std::map<std::string, Tenant> tenants;
  std::map<std::uint64_t, Slice> slices;
  std::deque<HistoryEntry> history;
  std::vector<SliceRecord> loaded_slices;
  std::vector<VmRecord> loaded_vms;

  std::deque<Offer> offers;                     // the oldest first
  std::set<HolderId> ending;                    // lives with something left to do
  std::map<std::string, Candidate> candidates;  // by host
  std::string next_host;                        // whose copies are planned first
  std::uint64_t balance_at = 0;
  Totals totals;
  Claim claims;              // of all VMs
  std::uint64_t buffer = 0;  // units
  MonoTime next_round;
  std::map<std::string, std::optional<std::string>> changes;

  // ---- units
  std::uint64_t whole_slices(std::uint64_t bytes) const { return bytes / cluster.slice_bytes; }
  std::uint64_t slices_for(std::uint64_t bytes) const {
    return bytes / cluster.slice_bytes + (bytes % cluster.slice_bytes != 0 ? 1 : 0);
  }
  std::uint64_t limit_slices(const BoundsRecord& bounds) const {
    return bounds.limit == kNoLimit ? kNoLimit : whole_slices(bounds.limit);
  }
  Bytes to_bytes(std::uint64_t count) const {
    return Bytes{count > kNoLimit / cluster.slice_bytes ? kNoLimit : count * cluster.slice_bytes};
  }
  std::uint64_t capacity_of(const Server& server) const { return whole_slices(server.record.capacity); }
  std::uint64_t room_of(const Server& server) const;

  // ---- looking up
  Server* server_of(const ReplicaRecord& replica) const;  // null: the replica is gone
  Host* find_host(const std::string& name);
  Vm* find_vm(const std::string& host, const std::string& name);
  const LifeRecord& record_of(const Life& life) const;
  bool ended(const Life& life) const;
  // The newest life, unless it has ended.
  Life* current(const Vm& vm);
  Tenant& tenant_of(const std::string& name);

  // ---- changing (state.cpp)
  template <class Record>
  void save(const Record& record) {
    changes[key_of(record)] = encode(record);
  }
  template <class Record>
  void remove(const Record& record) {
    changes[key_of(record)] = std::nullopt;
  }
  // How many records this call may still change.
  std::size_t budget() const { return changes.size() + 12 >= kMostChanges ? 0 : kMostChanges - 12 - changes.size(); }
  void event(std::string name, std::string subject, std::string text);

  Slice& create(SliceRecord record, Life& life);
  template <class Function>
  void change(Slice& slice, Function&& function) {
    unlink(slice);
    function(slice.record);
    link(slice);
    save(slice.record);
  }
  void erase(Slice& slice);
  // Fences every replica; the record goes when all servers have said that they freed it. May erase it at once.
  void release(Slice& slice);
  // Fences one replica of a slice that goes on.
  void free_replica(Slice& slice, std::uint32_t server);
  // The server freed it, or has it no more.
  void freed(Slice& slice, std::uint32_t server);
  // Its replicas' servers may mean something else now: calls `function` in between.
  template <class Function>
  void change_server(Server& server, Function&& function) {
    const std::vector<std::uint64_t> ids(server.slices.begin(), server.slices.end());
    for (const std::uint64_t id : ids) unlink(slices.at(id));
    function();
    for (const std::uint64_t id : ids) link(slices.at(id));
  }
  void link(Slice& slice);
  void unlink(Slice& slice);
  void end_life(Life& life);    // it is over: saves that
  void note_ended(Host& host);  // lives that are over by the host's record
  Claim claim_of(const Vm& vm) const;
  void add_claim(const Vm& vm);  // around every change of what it follows from
  void drop_claim(const Vm& vm);
  void recount_claims();
  std::uint64_t demand_of(const Vm& vm) const;  // slices
  std::uint32_t domain_number(const ServerRecord& server);

  // ---- capacity (capacity.cpp)
  Spread spread(const Life* life, const Slice* beside) const;
  std::vector<std::uint64_t> free_by_domain() const;      // of usable servers
  std::vector<std::uint64_t> capacity_by_domain() const;  // of those that are neither lost nor draining
  std::uint64_t capacity_units() const;                   // that can be paired
  std::uint64_t reserved_units(const Vm* except, const Tenant* except_tenant) const;
};

// ---- what a call does; a Refusal changes nothing
using Handled = tl::expected<Answer, Refusal>;

tl::unexpected<Refusal> refuse(Refusal::Code code, std::string message, std::string remedy = {},
                               std::string arithmetic = {}, std::uint64_t retry_after_ms = 0);
bool is_name(const std::string& name);
bool is_vm_name(const std::string& name);
std::string size_text(Bytes bytes);

Handled handle(State& state, const RegisterServer& request);
Handled handle(State& state, const ServerHeartbeat& request);
Handled handle(State& state, const SyncHost& request);
Handled handle(State& state, const GrantSlices& request);
Handled handle(State& state, const ConfirmSlices& request);
Handled handle(State& state, const RenewLeases& request);
Handled handle(State& state, const ReleaseSlices& request);
Handled handle(State& state, const SetVm& request);
Handled handle(State& state, const SetTenant& request);
Handled handle(State& state, const SetHost& request);
Handled handle(State& state, const DrainServer& request);
Handled handle(State& state, const OkToStop& request);
Handled handle(State& state, const ForgetServer& request);
Handled handle(State& state, const ForgetHost& request);
Handled handle(State& state, const ForgetVm& request);
Handled handle(State& state, const GetStatus& request);
Handled handle(State& state, const ListServers& request);
Handled handle(State& state, const ListHosts& request);
Handled handle(State& state, const ListVms& request);
Handled handle(State& state, const ListLeases& request);
Handled handle(State& state, const ListHistory& request);

// The host of a request, if the epoch is that of its present agent.
tl::expected<Host*, Refusal> host_of(State& state, const std::string& name, std::uint64_t epoch);
SliceLease lease_of(const State& state, const Slice& slice);
ReplicaLease replica_lease(const State& state, const Slice& slice, const ReplicaRecord& replica, const Server& server,
                           bool create);

// ---- what time brings; each within state.budget()
void watch_servers(State& state);
void end_offers(State& state);
bool end_lives(State& state);  // true: there is more to do
bool drop_if_over(State& state, Vm& vm);
void distribute_shares(State& state);
bool plan_copies(State& state);
std::vector<Task> tasks_of(const State& state, const Host& host);
// What a slice needs, by its replicas and their servers.
Need need_of(const State& state, const Slice& slice);

}  // namespace tidepool::pool::controller
