// Hosts: which agent speaks for one, which VMs it has, and what it is told.
#include <algorithm>
#include <set>

#include "pool/controller/core/state.h"

namespace tidepool::pool::controller {
namespace {

using enum Refusal::Code;

constexpr std::size_t kMostServersToldUnasked = 64;
constexpr std::size_t kMostCandidates = 10'000;  // hosts whose agents said a first word and no second

tl::expected<void, Refusal> check(const SyncHost& request) {
  if (!is_name(request.host))
    return refuse(kInvalid, "a host's name has 1 to 64 of A-Z a-z 0-9 . _ -", "change the agent's `host` name");
  const std::string host = "host " + request.host;
  for (const std::string* text : {&request.machine, &request.boot, &request.instance})
    if (text->empty() || text->size() > kMostTextBytes)
      return refuse(kInvalid, host + ": machine, boot and instance have 1 to 256 bytes each");
  if (request.vms.size() > kMostVmsPerHost || request.gone.size() > kMostVmsPerHost)
    return refuse(kInvalid, host + ": more than " + std::to_string(kMostVmsPerHost) + " VMs");
  if (request.lost.size() > kMostReports || request.tasks.size() > kMostReports)
    return refuse(kInvalid, host + ": more than " + std::to_string(kMostReports) + " reports at once");
  std::set<std::string> names;
  std::set<HolderId> holders;
  for (const VmReport& vm : request.vms) {
    if (!is_vm_name(vm.name)) return refuse(kInvalid, host + ": a VM's name has 1 to 128 printable bytes");
    if (!vm.tenant.empty() && !is_name(vm.tenant))
      return refuse(kInvalid,
                    "vm " + request.host + "/" + vm.name + ": a tenant's name has 1 to 64 of A-Z a-z 0-9 . _ -");
    if (vm.replicas < 1 || vm.replicas > kMostReplicasPerSlice)
      return refuse(kInvalid,
                    "vm " + request.host + "/" + vm.name + ": 1 to 3 replicas, not " + std::to_string(vm.replicas));
    if (!names.insert(vm.name).second) return refuse(kInvalid, host + ": two VMs are named " + vm.name);
    if (!holders.insert(vm.holder).second)
      return refuse(kInvalid, host + ": two VMs have the same holder, one is " + vm.name);
  }
  return {};
}

tl::expected<void, Refusal> may_begin(const Host& host, const SyncHost& request) {
  if (host.record.forgotten)
    return refuse(kUnavailable, "host " + request.host + " is being forgotten", "wait until its slices are free", {},
                  1000);
  if (host.record.machine == request.machine || host.held == 0) return {};
  return refuse(kConflict,
                "host " + request.host + " is another machine, with " + std::to_string(host.held) + " slices",
                "give this one another name; or, if that one is gone, `tidectl pool host forget " + request.host + "`");
}

bool is_of(const SyncHost& request, const auto& agent) {
  return agent.machine == request.machine && agent.boot == request.boot && agent.instance == request.instance;
}

// An agent's first word changes nothing yet: it may have been on its way for long, and its sender be no more.
tl::expected<std::uint64_t, Refusal> greet(State& state, const SyncHost& request) {
  if (const Host* const host = state.find_host(request.host); host != nullptr) {
    if (auto may = may_begin(*host, request); !may) return tl::unexpected(may.error());
    if (is_of(request, host->record)) return host->record.epoch;
  }
  if (const auto found = state.candidates.find(request.host); found != state.candidates.end())
    if (is_of(request, found->second)) return found->second.epoch;
  if (state.candidates.size() >= kMostCandidates) state.candidates.clear();
  const std::uint64_t epoch = state.next.epoch++;
  state.save(state.next);
  state.candidates[request.host] = {request.machine, request.boot, request.instance, epoch};
  return epoch;
}

// The agent has got its epoch: from now on it speaks for the host, and none before it.
tl::expected<void, Refusal> begin_agent(State& state, const SyncHost& request) {
  const auto found = state.candidates.find(request.host);
  if (found == state.candidates.end() || found->second.epoch != request.epoch || !is_of(request, found->second))
    return {};
  if (const Host* const known = state.find_host(request.host); known != nullptr)
    if (auto may = may_begin(*known, request); !may) return may;
  state.candidates.erase(found);
  Host& host = state.hosts[request.host];
  HostRecord& record = host.record;
  const bool booted = !record.boot.empty() && record.boot != request.boot;
  record.name = request.host;
  record.machine = request.machine;
  record.boot = request.boot;
  record.instance = request.instance;
  record.epoch = request.epoch;
  // Its memory, with every sealing key in it, is gone.
  if (booted) record.ended_below = record.epoch;
  state.save(record);
  if (!booted) return {};
  state.note_ended(host);
  state.event("host-booted", "host " + request.host, std::to_string(host.held) + " slices of before are given up");
  return {};
}

// The VM of a report, made if it is new. Null: not one of this host's, or no room for it in this call.
Vm* take_vm(State& state, Host& host, const VmReport& report) {
  const auto life = state.lives.find(report.holder);
  if (life != state.lives.end()) return life->second.vm->host == &host ? life->second.vm : nullptr;
  if (state.budget() < 2) return nullptr;
  Vm& vm = host.vms[report.name];
  const bool is_new = vm.host == nullptr;
  if (is_new) {
    vm.host = &host;
    vm.record.host = host.record.name;
    vm.record.name = report.name;
    vm.record.tenant = report.tenant.empty() ? "default" : report.tenant;
    ++state.tenant_of(vm.record.tenant).vms;
  }
  // A life that was silent is over when another one has its name, unless it has slices: then only the host can say so.
  if (Life* const former = state.current(vm); former != nullptr && former->slices.empty()) {
    const HolderId holder = former->holder;
    std::erase_if(vm.record.lives, [&](const LifeRecord& each) { return each.holder == holder; });
    state.lives.erase(holder);
  }
  vm.record.forgotten = false;
  vm.record.lives.push_back({report.holder, host.record.epoch, false});
  Life& made = state.lives[report.holder];
  made.holder = report.holder;
  made.vm = &vm;
  state.save(vm.record);
  return &vm;
}

void take_report(State& state, Vm& vm, const VmReport& report) {
  state.drop_claim(vm);
  const std::string tenant = report.tenant.empty() ? "default" : report.tenant;
  const auto replicas = static_cast<std::uint8_t>(report.replicas);
  if (vm.record.tenant != tenant || vm.record.replicas != replicas) {
    Tenant& from = state.tenant_of(vm.record.tenant);
    Tenant& to = state.tenant_of(tenant);
    from.held -= vm.held, to.held += vm.held;
    --from.vms, ++to.vms;
    vm.record.tenant = tenant;
    vm.record.replicas = replicas;
    state.save(vm.record);
  }
  vm.present = vm.reported = true;
  vm.wanted = report.wanted.value;
  vm.used = report.used.value;
  vm.asked = 0;
  state.add_claim(vm);
}

void take_vms(State& state, Host& host, const SyncHost& request) {
  for (auto& [name, vm] : host.vms) vm.present = false;
  host.strays.clear();
  std::set<HolderId> told;
  for (const VmReport& report : request.vms) {
    told.insert(report.holder);
    Vm* const vm = take_vm(state, host, report);
    if (vm != nullptr && state.budget() > 0 && vm->record.lives.back().holder == report.holder)
      take_report(state, *vm, report);
  }
  for (const HolderId& holder : request.gone) {
    const auto life = state.lives.find(holder);
    if (life == state.lives.end() || life->second.vm->host != &host || state.ended(life->second)) continue;
    if (state.budget() > 0 && !told.contains(holder)) state.end_life(life->second);
  }
  std::vector<HolderId> over;
  for (auto& [name, vm] : host.vms) {
    for (const LifeRecord& record : vm.record.lives) {
      if (told.contains(record.holder)) continue;
      const Life& life = state.lives.at(record.holder);
      if (state.ended(life)) continue;
      if (!life.slices.empty()) host.strays.push_back(record.holder);
      // Nobody knows it, and it has nothing.
      if (life.slices.empty() && state.budget() > 0) over.push_back(record.holder);
    }
    if (!vm.present) {
      state.drop_claim(vm);
      vm.reported = true;
      vm.wanted = vm.used = vm.asked = 0;
      state.add_claim(vm);
    }
  }
  for (const HolderId& holder : over)
    if (state.budget() > 0) state.end_life(state.lives.at(holder));
}

Server* server_named(State& state, const std::string& name) {
  const auto found = state.servers.find(name);
  return found == state.servers.end() ? nullptr : &found->second;
}

// The replica that a report is about, if it still has that epoch.
const ReplicaRecord* reported(State& state, const Slice& slice, const std::string& server, LeaseEpoch epoch) {
  const Server* const at = server_named(state, server);
  if (at == nullptr) return nullptr;
  for (const ReplicaRecord& replica : slice.record.replicas)
    if (state.server_of(replica) == at && replica.epoch == static_cast<std::uint64_t>(epoch) &&
        replica.phase != ReplicaPhase::kFreeing)
      return &replica;
  return nullptr;
}

Slice* slice_of(State& state, const Host& host, SliceId id) {
  const auto found = state.slices.find(static_cast<std::uint64_t>(id));
  return found != state.slices.end() && found->second.life->vm->host == &host ? &found->second : nullptr;
}

void take_lost(State& state, Host& host, const SyncHost& request) {
  for (const LostReplica& lost : request.lost) {
    Slice* const slice = slice_of(state, host, lost.slice);
    if (slice == nullptr || slice->record.phase != SlicePhase::kHeld) continue;
    if (const auto* replica = reported(state, *slice, lost.server, lost.epoch))
      state.free_replica(*slice, replica->server);
  }
}

void take_tasks(State& state, Host& host, const SyncHost& request, SyncAnswer& answer) {
  for (const TaskReport& report : request.tasks) {
    Slice* const slice = slice_of(state, host, report.slice);
    const auto* replica = slice == nullptr || slice->record.phase != SlicePhase::kHeld
                              ? nullptr
                              : reported(state, *slice, report.server, report.epoch);
    if (report.kind == TaskKind::kDropReplica) {
      if (replica != nullptr && replica->phase == ReplicaPhase::kLeaving && report.done)
        state.free_replica(*slice, replica->server);
      continue;
    }
    if (replica == nullptr) {
      answer.refused.push_back(report);
    } else if (replica->phase != ReplicaPhase::kJoining) {
      continue;  // it was told before
    } else if (report.done) {
      const std::uint32_t server = replica->server;
      state.change(*slice, [&](SliceRecord& record) {
        for (ReplicaRecord& each : record.replicas)
          if (each.server == server && each.phase == ReplicaPhase::kJoining) each.phase = ReplicaPhase::kInForce;
      });
    } else {
      slice->not_before = state.context.now + 4 * state.config.sync;
      state.free_replica(*slice, replica->server);
    }
  }
}

std::uint64_t milliseconds_left(const State& state, const Vm& vm) {
  const Nanoseconds left = vm.give_back_since + state.config.reclaim - state.context.now;
  return left.count() <= 0 ? 0 : static_cast<std::uint64_t>(std::chrono::ceil<std::chrono::milliseconds>(left).count());
}

void answer_servers(const State& state, const Host& host, SyncAnswer& answer) {
  std::set<std::uint32_t> numbers;
  for (const auto& [name, vm] : host.vms)
    for (const LifeRecord& life : vm.record.lives)
      for (const auto& [number, replicas] : state.lives.at(life.holder).servers) numbers.insert(number);
  const bool all = state.servers.size() <= kMostServersToldUnasked;
  for (const auto& [name, server] : state.servers)
    if (all || numbers.contains(server.record.number))
      answer.servers.push_back(
          {name, server.record.address, server.record.domain, server.record.boot, server.state, server.draining()});
}

void answer_vms(State& state, Host& host, SyncAnswer& answer) {
  for (auto& [name, vm] : host.vms) {
    const Life* const life = vm.present ? state.current(vm) : nullptr;
    if (life == nullptr) continue;
    VmShare share;
    share.holder = life->holder;
    share.name = name;
    share.held = state.to_bytes(life->held);
    share.share = state.to_bytes(vm.share);
    share.limit = Bytes{vm.record.bounds.limit};
    share.give_back = state.to_bytes(std::min(vm.give_back, life->held));
    share.give_back_ms = vm.give_back > 0 ? milliseconds_left(state, vm) : 0;
    answer.vms.push_back(std::move(share));
  }
}

}  // namespace

tl::expected<Host*, Refusal> host_of(State& state, const std::string& name, std::uint64_t epoch) {
  Host* const host = state.find_host(name);
  if (host == nullptr) return refuse(kStale, "host " + name + " is not known", "begin anew: sync with epoch 0");
  if (host->record.forgotten || host->record.epoch != epoch)
    return refuse(kStale,
                  "a later agent speaks for host " + name + ": epoch " + std::to_string(host->record.epoch) + ", not " +
                      std::to_string(epoch),
                  "begin anew: sync with epoch 0, if this is the agent that runs the VMs");
  return host;
}

Handled handle(State& state, const SyncHost& request) {
  if (const auto checked = check(request); !checked) return tl::unexpected(checked.error());
  SyncAnswer answer;
  answer.lease_ms = static_cast<std::uint64_t>(state.config.lease.count());
  answer.slice_bytes = Bytes{state.cluster.slice_bytes};
  if (request.epoch == 0) {
    const auto epoch = greet(state, request);
    if (!epoch) return tl::unexpected(epoch.error());
    answer.epoch = *epoch;
    return Answer{std::move(answer)};
  }
  if (const auto begun = begin_agent(state, request); !begun) return tl::unexpected(begun.error());
  const auto found = host_of(state, request.host, request.epoch);
  if (!found) return tl::unexpected(found.error());
  Host& host = **found;
  if (!is_of(request, host.record))
    return refuse(kStale, "another agent speaks for host " + request.host, "begin anew: sync with epoch 0");
  host.seen = state.context.now;
  host.heard = true;
  host.spare = request.spare.value;

  take_lost(state, host, request);
  take_tasks(state, host, request, answer);
  take_vms(state, host, request);

  answer.epoch = host.record.epoch;
  answer.sync_ms = static_cast<std::uint64_t>(state.config.sync.count());
  answer_servers(state, host, answer);
  answer_vms(state, host, answer);
  answer.tasks = tasks_of(state, host);
  answer.strays = host.strays;
  return Answer{std::move(answer)};
}

}  // namespace tidepool::pool::controller
