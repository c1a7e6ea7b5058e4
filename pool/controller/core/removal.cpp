// Servers, hosts and VMs that go: drained, stopped, forgotten.
#include <algorithm>

#include "pool/controller/core/state.h"

namespace tidepool::pool::controller {
namespace {

using enum Refusal::Code;

std::string count_text(std::uint64_t count, const char* what) {
  return std::to_string(count) + " " + what;
}

// What stands and falls with a server.
struct Stake {
  std::uint64_t slices = 0;   // that have a replica in force there
  std::uint64_t alone = 0;    // of these, without another one in force on a server that answers
  std::uint64_t offered = 0;  // not yet confirmed
};

Stake stake_of(const State& state, const Server& server) {
  Stake stake;
  for (const std::uint64_t id : server.slices) {
    const SliceRecord& record = state.slices.at(id).record;
    if (record.phase == SlicePhase::kOffered) ++stake.offered;
    if (record.phase != SlicePhase::kHeld) continue;
    bool here = false;
    unsigned elsewhere = 0;
    for (const ReplicaRecord& replica : record.replicas) {
      const Server* const at = state.server_of(replica);
      if (at == nullptr || (replica.phase != ReplicaPhase::kInForce && replica.phase != ReplicaPhase::kMoving))
        continue;
      if (at == &server)
        here = true;
      else if (at->state == ServerState::kUp)
        ++elsewhere;
    }
    stake.slices += here ? 1 : 0;
    stake.alone += here && elsewhere == 0 ? 1 : 0;
  }
  return stake;
}

std::uint64_t room_elsewhere(const State& state, const Server& server) {
  std::uint64_t room = 0;
  for (const auto& [name, other] : state.servers)
    if (&other != &server && other.usable()) room += state.room_of(other);
  return room;
}

// Replicas of slices that VMs hold and neither use nor have reserved: they are given back when there is less to share.
std::uint64_t idle_units(const State& state) {
  std::uint64_t idle = 0;
  for (const auto& [host_name, host] : state.hosts) {
    for (const auto& [name, vm] : host.vms) {
      if (!vm.reported) continue;
      const std::uint64_t kept = std::max(state.slices_for(vm.used), state.slices_for(vm.record.bounds.reservation));
      if (vm.held > kept) idle += (vm.held - kept) * vm.record.replicas;
    }
  }
  return idle;
}

tl::expected<Server*, Refusal> known_server(State& state, const std::string& name) {
  const auto found = state.servers.find(name);
  if (found == state.servers.end())
    return refuse(kNotFound, "no memory server " + name, "see `tidectl pool node list`");
  return &found->second;
}

}  // namespace

Handled handle(State& state, const DrainServer& request) {
  const auto found = known_server(state, request.server);
  if (!found) return tl::unexpected(found.error());
  Server& server = **found;
  PlanAnswer answer;
  const Stake stake = stake_of(state, server);
  const std::uint64_t room = room_elsewhere(state, server);
  if (request.drain) {
    answer.slices_to_copy = stake.slices;
    std::string sum = count_text(stake.slices, "slices") + " (" + size_text(state.to_bytes(stake.slices)) +
                      ") to move, free elsewhere " + count_text(room, "slices") + " (" +
                      size_text(state.to_bytes(room)) + ")";
    if (stake.slices > room) {
      const std::uint64_t missing = stake.slices - room;
      const std::uint64_t idle = idle_units(state);
      sum +=
          ", held by VMs and not in use " + count_text(idle, "replicas") + " (" + size_text(state.to_bytes(idle)) + ")";
      if (missing > idle && !server.record.draining)
        return refuse(kNoCapacity, "server " + request.server + " cannot be drained",
                      "add memory servers, or lower limits of VMs", sum);
      answer.to_give_back = state.to_bytes((missing + state.config.replicas - 1) / state.config.replicas);
    }
    answer.reasons.push_back(sum);
  }
  if (server.record.draining == request.drain) {
    answer.reasons.emplace_back(request.drain   ? "it is being drained already"
                                : server.ending ? "nobody drains it: it wants to end by itself (SIGTERM)"
                                                : "it is not being drained");
    return Answer{std::move(answer)};
  }
  if (request.plan) return Answer{std::move(answer)};
  state.change_server(server, [&] { server.record.draining = request.drain; });
  state.save(server.record);
  state.event(request.drain ? "drain" : "undrain", "server " + request.server,
              answer.reasons.empty() ? "takes slices again" : answer.reasons.front());
  state.next_round = state.context.now;
  answer.done = true;
  return Answer{std::move(answer)};
}

Handled handle(State& state, const OkToStop& request) {
  const auto found = known_server(state, request.server);
  if (!found) return tl::unexpected(found.error());
  const Stake stake = stake_of(state, **found);
  const std::uint64_t room = room_elsewhere(state, **found);
  PlanAnswer answer;
  answer.possible = stake.alone == 0;
  answer.slices_to_copy = stake.slices;
  answer.reasons.push_back(count_text(stake.slices, "slices have a replica there") + ", " +
                           count_text(stake.alone, "of them no other one in force on a server that answers"));
  answer.reasons.push_back("to have all replicas again, " + count_text(stake.slices, "slices") +
                           " must be copied; free elsewhere " + count_text(room, "slices"));
  if (stake.offered > 0) answer.reasons.push_back(count_text(stake.offered, "slices are just being granted there"));
  if (!answer.possible) answer.reasons.emplace_back("drain it first: `tidectl pool node drain " + request.server + "`");
  return Answer{std::move(answer)};
}

Handled handle(State& state, const ForgetServer& request) {
  const auto found = known_server(state, request.server);
  if (!found) return tl::unexpected(found.error());
  Server& server = **found;
  if (server.state != ServerState::kLost)
    return refuse(kConflict, "server " + request.server + " is not lost",
                  "stop it; then wait until it is known as lost");
  PlanAnswer answer;
  const Stake stake = stake_of(state, server);
  answer.slices_to_copy = stake.slices - stake.alone;
  answer.reasons.push_back(count_text(stake.slices, "slices have a replica there") + ", " +
                           count_text(stake.alone, "of them no other one: their pages are gone then"));
  if (request.plan) return Answer{std::move(answer)};
  state.change_server(server, [&] { state.by_number.erase(server.record.number); });
  state.remove(server.record);
  state.event("server-forgotten", "server " + request.server, answer.reasons.front());
  state.servers.erase(request.server);
  answer.done = true;
  return Answer{std::move(answer)};
}

Handled handle(State& state, const ForgetHost& request) {
  Host* const host = state.find_host(request.host);
  if (host == nullptr) return refuse(kNotFound, "no host " + request.host);
  if (host->heard && state.context.now - host->seen < state.config.host_silent_after)
    return refuse(kConflict, "the agent of host " + request.host + " is there", "stop it first");
  PlanAnswer answer;
  answer.to_give_back = state.to_bytes(host->held);
  answer.reasons.push_back(count_text(host->vms.size(), "VMs") + ", " + count_text(host->held, "slices") +
                           " are fenced, then freed; a VM that still runs there cannot read its pages any more");
  if (request.plan || host->record.forgotten) return Answer{std::move(answer)};
  HostRecord& record = host->record;
  record.forgotten = true;
  record.instance.clear();
  record.epoch = state.next.epoch++;
  record.ended_below = record.epoch;
  state.save(record);
  state.save(state.next);
  state.note_ended(*host);
  state.event("host-forget", "host " + request.host, answer.reasons.front());
  answer.done = true;
  return Answer{std::move(answer)};
}

Handled handle(State& state, const ForgetVm& request) {
  Vm* const vm = state.find_vm(request.host, request.vm);
  const std::string whose = "vm " + request.host + "/" + request.vm;
  if (vm == nullptr) return refuse(kNotFound, "no " + whose);
  const Host& host = *vm->host;
  if (vm->present && host.heard && state.context.now - host.seen < state.config.host_silent_after)
    return refuse(kConflict, whose + " runs, says its host", "release it there");
  PlanAnswer answer;
  answer.to_give_back = state.to_bytes(vm->held);
  answer.reasons.push_back(count_text(vm->held, "slices") +
                           " are fenced, then freed; if it still runs it cannot read its pages any more");
  if (request.plan) return Answer{std::move(answer)};
  vm->record.forgotten = true;
  for (LifeRecord& life : vm->record.lives) {
    life.ended = true;
    state.ending.insert(life.holder);
  }
  state.save(vm->record);
  state.event("vm-forgotten", whose, answer.reasons.front());
  drop_if_over(state, *vm);
  answer.done = true;
  return Answer{std::move(answer)};
}

}  // namespace tidepool::pool::controller
