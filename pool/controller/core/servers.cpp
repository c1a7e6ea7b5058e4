// Memory servers: who they are, whether they are there, and what they are told to free.
#include <algorithm>

#include "pool/controller/core/state.h"

namespace tidepool::pool::controller {
namespace {

// Above every epoch that a slice can have.
constexpr std::uint64_t kAboveAll = std::uint64_t{1} << 40;
constexpr int kBetweenLists = 15;  // heartbeats, at least

// What a server has, and by the records has not. What nobody holds is freed, unless these records may just not know:
// given by a cluster whose records are gone, or after the backup that was restored. That stays until the server begins
// anew. Of a slice that is held it may be a copy that the holder still reads, after two servers took turns with one
// name: the holder is asked to let it go.
void settle_orphans(State& state, Server& server) {
  for (auto each = server.orphans.begin(); each != server.orphans.end();) {
    const auto id = each->first;
    Orphan& orphan = (each++)->second;
    if (orphan.below != 0) continue;
    const auto found = state.slices.find(id);
    if (found == state.slices.end()) {
      if (state.next.would_know(id)) orphan.below = kAboveAll;
      continue;
    }
    Slice& slice = found->second;
    // A copy with a token that the records do not have: made after the backup that was restored.
    const bool later = orphan.epoch > slice.record.epoch;
    if (later && slice.record.phase != SlicePhase::kReleasing && state.next.restored()) continue;
    if (slice.record.phase == SlicePhase::kReleasing || later) {
      orphan.below = std::max(slice.record.epoch, orphan.epoch) + 1;
    } else if (slice.record.phase == SlicePhase::kHeld && slice.record.replicas.size() < kMostReplicaRecords) {
      if (state.budget() == 0) return;
      const std::uint64_t epoch = orphan.epoch;
      server.orphans.erase(id);
      state.change(slice, [&](SliceRecord& record) {
        record.replicas.push_back({server.record.number, server.record.generation, epoch, ReplicaPhase::kLeaving});
      });
    }
  }
}

ServerAnswer answer_to(const State& state, const Server& server, bool register_again) {
  ServerAnswer answer;
  answer.heartbeat_ms = static_cast<std::uint64_t>(state.config.heartbeat.count());
  answer.drain = server.draining();
  answer.register_again = register_again;
  for (const std::uint64_t id : server.freeing) {
    if (answer.free.size() == kMostSlicesPerRequest) return answer;
    for (const ReplicaRecord& replica : state.slices.at(id).record.replicas)
      if (replica.server == server.record.number && replica.phase == ReplicaPhase::kFreeing)
        answer.free.push_back({SliceId{id}, LeaseEpoch{replica.epoch}});
  }
  for (const auto& [id, orphan] : server.orphans) {
    if (answer.free.size() == kMostSlicesPerRequest) return answer;
    if (orphan.below != 0) answer.free.push_back({SliceId{id}, LeaseEpoch{orphan.below}});
  }
  return answer;
}

void set_state(State& state, Server& server, ServerState to) {
  if (server.state == to) return;
  const bool trusted = server.trusted();
  const ServerState from = server.state;
  if (to == ServerState::kLost || from == ServerState::kLost) {
    state.change_server(server, [&] { server.state = to; });
  } else {
    server.state = to;
  }
  if (trusted == server.trusted()) return;
  state.event(to == ServerState::kLost ? "server-lost" : "server-back", "server " + server.record.name,
              std::to_string(server.slices.size()) + " slices have a replica there");
}

tl::expected<void, Refusal> check(const RegisterServer& request) {
  using enum Refusal::Code;
  if (!is_name(request.name))
    return refuse(kInvalid, "a memory server's name has 1 to 64 of A-Z a-z 0-9 . _ -", "change `name`");
  if (!request.domain.empty() && !is_name(request.domain))
    return refuse(kInvalid, "server " + request.name + ": a failure domain has 1 to 64 of A-Z a-z 0-9 . _ -",
                  "change `failure_domain`");
  if (request.address.empty() || request.address.size() > kMostTextBytes)
    return refuse(kInvalid, "server " + request.name + ": an address has 1 to 256 bytes",
                  "give the address that clients reach it by");
  if (request.slices.size() > kMostSlicesPerServer || request.capacity.value > (std::uint64_t{1} << 60))
    return refuse(kInvalid, "server " + request.name + ": more slices or memory than a server can have");
  if (request.boot == BootId{}) return refuse(kInvalid, "server " + request.name + ": no boot id was given");
  return {};
}

}  // namespace

Handled handle(State& state, const RegisterServer& request) {
  using enum Refusal::Code;
  if (const auto checked = check(request); !checked) return tl::unexpected(checked.error());
  const auto known = state.servers.find(request.name);
  const bool is_new = known == state.servers.end();
  const bool other_boot = !is_new && known->second.record.boot != request.boot;
  if (other_boot && !known->second.record.left && known->second.state != ServerState::kLost) {
    // One that was killed and began anew waits here, too: nothing tells it from two of the same name.
    const Nanoseconds silent = state.context.now - known->second.seen;
    if (silent < state.config.suspect_after) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(state.config.suspect_after - silent);
      return refuse(kConflict,
                    "another memory server " + request.name + " is alive, at " + known->second.record.address,
                    "if this one replaces it, wait until that one is silent; else give this one another name", {},
                    static_cast<std::uint64_t>(left.count()));
    }
  }
  Server& server = is_new ? state.servers[request.name] : known->second;
  ServerRecord before = server.record;
  const auto set = [&] {
    ServerRecord& record = server.record;
    record.name = request.name;
    if (is_new) record.number = state.next.server++;
    if (is_new || other_boot || record.left) ++record.generation;
    record.left = false;
    record.boot = request.boot;
    record.address = request.address;
    record.domain = request.domain;
    record.capacity = request.capacity.value;
    record.key = request.key;
    server.domain = state.domain_number(record);
    server.state = ServerState::kUp;
    server.seen = state.context.now;
    server.registered = state.context.now;
    server.heard = true;
    server.ending = server.ending && !is_new && !other_boot;
    state.by_number[record.number] = &server;
  };
  const std::size_t had = server.slices.size();
  state.change_server(server, set);
  // A list that was long under way has less than there is: what is known of this boot stays.
  if (is_new || other_boot) server.orphans.clear();
  for (const ServerSlice& each : request.slices)
    if (const auto id = static_cast<std::uint64_t>(each.slice); !server.slices.contains(id))
      server.orphans.try_emplace(id, Orphan{static_cast<std::uint64_t>(each.epoch), 0});
  if (is_new) state.save(state.next);
  if (is_new || encode(before) != encode(server.record)) state.save(server.record);
  if (is_new || other_boot || before.left)
    state.event("server-registered", "server " + request.name,
                request.address + ", domain " + (request.domain.empty() ? "of its own" : request.domain) + ", " +
                    size_text(request.capacity) +
                    (had > 0 ? "; began anew, " + std::to_string(had) + " replicas are gone" : ""));
  settle_orphans(state, server);
  const auto kept = std::ranges::count_if(request.slices, [&](const ServerSlice& each) {
    const auto orphan = server.orphans.find(static_cast<std::uint64_t>(each.slice));
    return orphan != server.orphans.end() && orphan->second.below == 0 &&
           (state.next.restored() || !state.next.would_know(orphan->first));
  });
  if (kept > 0)
    state.event("slices-unknown", "server " + request.name,
                std::to_string(kept) +
                    " slices there may be held by VMs that these records do not know: kept until it " + "begins anew");
  return Answer{answer_to(state, server, false)};
}

Handled handle(State& state, const ServerHeartbeat& request) {
  using enum Refusal::Code;
  const auto found = state.servers.find(request.name);
  if (found == state.servers.end() || found->second.record.boot != request.boot || found->second.record.left)
    return refuse(kStale, "no memory server " + request.name + " of this boot is registered", "register");
  if (request.done.size() > kMostSlicesPerRequest)
    return refuse(kInvalid, "server " + request.name + ": more than " + std::to_string(kMostSlicesPerRequest) +
                                " commands reported at once");
  Server& server = found->second;
  // What is where is compared once after a restart of the controller, and when less is free than must be.
  const std::uint64_t room = state.to_bytes(state.room_of(server)).value;
  const bool leaks = request.free.value + state.cluster.slice_bytes <= room &&
                     state.context.now - server.registered >= kBetweenLists * state.config.heartbeat;
  const bool register_again = !server.heard || leaks;
  server.seen = state.context.now;
  server.reported_free = request.free.value;
  set_state(state, server, ServerState::kUp);
  for (const FreeCommand& command : request.done) {
    const auto id = static_cast<std::uint64_t>(command.slice);
    const auto below = static_cast<std::uint64_t>(command.below);
    if (const auto orphan = server.orphans.find(id); orphan != server.orphans.end() && orphan->second.below == below)
      server.orphans.erase(orphan);
    const auto slice = state.slices.find(id);
    if (slice == state.slices.end()) continue;
    // Only what was told last counts: an older word may be of a replica that was made there since.
    const bool told = std::ranges::any_of(slice->second.record.replicas, [&](const ReplicaRecord& replica) {
      return state.server_of(replica) == &server && replica.phase == ReplicaPhase::kFreeing && replica.epoch == below;
    });
    if (told) state.freed(slice->second, server.record.number);
  }
  if (request.draining != server.ending) {
    state.change_server(server, [&] { server.ending = request.draining; });
    state.event(request.draining ? "server-ends" : "server-stays", "server " + request.name,
                request.draining ? "it wants to end: " + std::to_string(server.slices.size()) + " replicas are to move"
                                 : "it wants to end no more");
  }
  if (request.leaving) {
    state.event("server-left", "server " + request.name,
                std::to_string(server.slices.size()) + " replicas went with it");
    state.change_server(server, [&] {
      server.record.left = true;
      ++server.record.generation;
      server.state = ServerState::kLost;
    });
    server.orphans.clear();
    state.save(server.record);
  }
  settle_orphans(state, server);
  return Answer{answer_to(state, server, register_again)};
}

void watch_servers(State& state) {
  for (auto& [name, server] : state.servers) {
    if (state.budget() == 0) return;
    const Nanoseconds silent = state.context.now - server.seen;
    if (silent >= state.config.lost_after) {
      set_state(state, server, ServerState::kLost);
    } else if (silent >= state.config.suspect_after && server.state == ServerState::kUp) {
      set_state(state, server, ServerState::kSuspect);
    }
  }
}

}  // namespace tidepool::pool::controller
