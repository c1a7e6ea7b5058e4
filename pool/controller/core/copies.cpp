// Replicas made anew and given up: what a slice needs, and the tasks of its holder.
//
// The holder has room for three replicas of a slice. Where there is room, the new one is made first.
#include <algorithm>

#include "pool/controller/core/state.h"

namespace tidepool::pool::controller {
namespace {

constexpr std::size_t kMostTasks = 64;       // of a host at a time
constexpr std::size_t kTriesPerHost = 4;     // slices for which no server is found, per tick
constexpr std::uint64_t kBalanceScan = 256;  // slices looked at per tick

// What a slice's replicas come to.
struct Standing {
  unsigned good = 0;     // in force, on servers that stay
  unsigned joining = 0;  // on servers that stay
  unsigned astray = 0;   // joining, on servers that do not
  unsigned going = 0;    // in force, on servers that do not stay, or to be moved
  unsigned leaving = 0;
  unsigned readable = 0;  // in force or leaving, on servers that answer
  unsigned gone = 0;
  unsigned at_holder() const { return good + joining + astray + going + leaving; }
};

bool stays(const Server& server) {
  return server.trusted() && !server.draining();
}

Standing standing_of(const State& state, const Slice& slice) {
  Standing standing;
  for (const ReplicaRecord& replica : slice.record.replicas) {
    const Server* const server = state.server_of(replica);
    if (server == nullptr) {
      ++standing.gone;
      continue;
    }
    switch (replica.phase) {
      case ReplicaPhase::kInForce:
        ++(stays(*server) ? standing.good : standing.going);
        break;
      case ReplicaPhase::kMoving:
        ++standing.going;
        break;
      case ReplicaPhase::kJoining:
        ++(stays(*server) ? standing.joining : standing.astray);
        break;
      case ReplicaPhase::kLeaving:
        ++standing.leaving;
        break;
      case ReplicaPhase::kFreeing:
        continue;
    }
    if (replica.phase != ReplicaPhase::kJoining && server->trusted()) ++standing.readable;
  }
  return standing;
}

std::vector<std::uint32_t> domains_of(const State& state, const Slice& slice) {
  std::vector<std::uint32_t> domains;
  for (const ReplicaRecord& replica : slice.record.replicas) {
    const Server* const server = state.server_of(replica);
    if (server == nullptr || !stays(*server)) continue;
    if (replica.phase == ReplicaPhase::kInForce || replica.phase == ReplicaPhase::kJoining)
      domains.push_back(server->domain);
  }
  return domains;
}

// Records that say what is no more, and replicas that are not needed any more.
bool tidy(State& state, Slice& slice) {
  if (slice.record.phase == SlicePhase::kReleasing) {
    state.freed(slice, 0);  // servers are numbered from 1: only what is gone goes
    return true;
  }
  const Standing standing = standing_of(state, slice);
  if (standing.gone > 0) {
    state.change(slice, [&](SliceRecord& record) {
      std::erase_if(record.replicas, [&](const ReplicaRecord& replica) { return state.server_of(replica) == nullptr; });
    });
    return true;
  }
  for (const ReplicaRecord& replica : slice.record.replicas) {
    if (replica.phase != ReplicaPhase::kJoining || stays(*state.server_of(replica))) continue;
    state.free_replica(slice, replica.server);
    return true;
  }
  const std::vector<std::uint32_t> domains = domains_of(state, slice);
  // One that may leave: what is on a server that is lost before what is still read, and what stays last of all.
  const auto rank = [&](const ReplicaRecord& replica) {
    const Server& server = *state.server_of(replica);
    if (replica.phase != ReplicaPhase::kInForce && replica.phase != ReplicaPhase::kMoving) return 0;
    if (!server.trusted()) return 4;
    if (!stays(server) || replica.phase == ReplicaPhase::kMoving) return 3;
    return std::ranges::count(domains, server.domain) > 1 ? 2 : 1;
  };
  std::uint32_t chosen = 0;
  int best = 0;
  for (const ReplicaRecord& replica : slice.record.replicas)
    if (const int its = rank(replica); its > best) best = its, chosen = replica.server;
  if (best == 0) return false;
  state.change(slice, [&](SliceRecord& record) {
    for (ReplicaRecord& replica : record.replicas)
      if (replica.server == chosen &&
          (replica.phase == ReplicaPhase::kInForce || replica.phase == ReplicaPhase::kMoving))
        replica.phase = ReplicaPhase::kLeaving;
  });
  return true;
}

// Why it has a task.
std::string reason_of(const State& state, const Slice& slice) {
  if (slice.under_replicated) return "lost";
  const bool moves = std::ranges::all_of(slice.record.replicas, [&](const ReplicaRecord& replica) {
    const Server* const server = state.server_of(replica);
    return server == nullptr || stays(*server);
  });
  return moves ? "balance" : "drain";
}

bool sources_are_free(const State& state, const Slice& slice) {
  return std::ranges::all_of(slice.record.replicas, [&](const ReplicaRecord& replica) {
    const Server* const server = state.server_of(replica);
    return server == nullptr || replica.phase == ReplicaPhase::kFreeing ||
           server->copies < state.config.copies_per_server;
  });
}

// `leaves`: the server that it is to leave once the new one is in force; 0: none.
void join(State& state, Slice& slice, std::uint32_t number, std::uint32_t leaves) {
  state.change(slice, [&](SliceRecord& record) {
    for (ReplicaRecord& replica : record.replicas)
      if (replica.server == leaves && replica.phase == ReplicaPhase::kInForce) replica.phase = ReplicaPhase::kMoving;
    ++record.epoch;
    record.replicas.push_back(
        {number, state.by_number.at(number)->record.generation, record.epoch, ReplicaPhase::kJoining});
  });
}

bool start_copy(State& state, Slice& slice) {
  if (slice.not_before > state.context.now || !sources_are_free(state, slice)) return false;
  if (slice.record.replicas.size() >= kMostReplicaRecords) return false;
  Spread spread = state.spread(slice.life, &slice);
  const auto place = spread.place_beside(domains_of(state, slice));
  if (!place) return false;
  join(state, slice, spread.server(*place).number, 0);
  return true;
}

bool hears(const State& state, const Host& host) {
  return host.heard && state.context.now - host.seen < state.config.host_silent_after;
}

bool plan_host(State& state, Host& host) {
  std::size_t tries = 0;
  for (auto each = host.needy.begin(); each != host.needy.end();) {
    if (state.budget() == 0) return true;
    const auto [need, id] = *each;
    ++each;  // what is done changes the set at this slice only
    Slice& slice = state.slices.at(id);
    if (static_cast<Need>(need) == Need::kTidy) {
      tidy(state, slice);
      // May have got another need behind us, or before us: begin anew where it stands.
      each = host.needy.upper_bound({need, id});
      continue;
    }
    if (host.copies >= state.config.copies_per_host || !hears(state, host) || tries == kTriesPerHost) break;
    if (!start_copy(state, slice)) ++tries;
    each = host.needy.upper_bound({need, id});
  }
  return false;
}

// Capacity in one domain that no other can be paired with: replicas move there from where there is least.
void plan_balance(State& state) {
  if (state.totals.copying >= state.config.balance_moves || state.totals.to_copy > 0 || state.slices.empty()) return;
  const std::vector<std::uint64_t> free = state.free_by_domain();
  const std::uint64_t groups = most_groups(free, state.config.replicas);
  if (groups * state.config.replicas >= state.buffer + state.claims.share) return;
  const auto most = std::ranges::max_element(free);
  if (most == free.end() || *most <= groups + 1) return;
  const auto to = static_cast<std::uint32_t>(most - free.begin());
  auto each = state.slices.lower_bound(state.balance_at);
  for (std::uint64_t looked = 0; looked < kBalanceScan && state.budget() > 0; ++looked) {
    if (each == state.slices.end()) {
      state.balance_at = 0;
      return;
    }
    Slice& slice = (each++)->second;
    state.balance_at = slice.record.id + 1;
    const Host& host = *slice.life->vm->host;
    const bool whole = std::ranges::all_of(
        slice.record.replicas, [](const ReplicaRecord& replica) { return replica.phase == ReplicaPhase::kInForce; });
    if (slice.record.phase != SlicePhase::kHeld || !whole || slice.need != Need::kNothing || slice.copying ||
        !hears(state, host) || host.copies >= state.config.copies_per_host ||
        slice.record.replicas.size() != slice.record.wanted || slice.record.wanted >= kMostReplicasPerSlice ||
        !sources_are_free(state, slice))
      continue;
    // The one whose domain has least, and enough less that the move helps.
    const ReplicaRecord* from = nullptr;
    bool there = false;
    for (const ReplicaRecord& replica : slice.record.replicas) {
      const std::uint32_t domain = state.server_of(replica)->domain;
      there = there || domain == to;
      if (free[domain] + 2 <= *most && (from == nullptr || free[domain] < free[state.server_of(*from)->domain]))
        from = &replica;
    }
    if (there || from == nullptr) continue;
    std::vector<std::uint32_t> others;
    for (std::uint32_t domain = 0; domain < free.size(); ++domain)
      if (domain != to) others.push_back(domain);
    Spread spread = state.spread(slice.life, &slice);
    const auto place = spread.place_beside(others);
    if (!place) continue;
    join(state, slice, spread.server(*place).number, from->server);
    return;  // sums have changed: the next one in the next tick
  }
}

}  // namespace

Need need_of(const State& state, const Slice& slice) {
  const SliceRecord& record = slice.record;
  if (record.phase == SlicePhase::kOffered) return Need::kNothing;  // confirmed or ended before long
  const Standing standing = standing_of(state, slice);
  if (record.phase == SlicePhase::kReleasing) return standing.gone > 0 ? Need::kTidy : Need::kNothing;
  if (standing.gone > 0 || standing.astray > 0) return Need::kTidy;
  const unsigned coming = standing.good + standing.joining;
  if (coming >= record.wanted) {
    // Enough are in force: the others may leave.
    const bool more = standing.good >= record.wanted && (standing.going > 0 || standing.good > record.wanted);
    return more ? Need::kTidy : Need::kNothing;
  }
  if (standing.readable == 0) return Need::kNothing;  // nothing to copy from: a server may come back
  if (standing.at_holder() >= kMostReplicasPerSlice)
    return standing.leaving == 0 && standing.joining == 0 && standing.going > 0 ? Need::kTidy : Need::kNothing;
  if (standing.readable == 1 && record.wanted > 1) return Need::kLastCopy;
  return standing.readable < record.wanted ? Need::kLost : Need::kDrain;
}

bool plan_copies(State& state) {
  bool again = false;
  // Another host first each time, so that none waits for ever.
  auto start = state.hosts.upper_bound(state.next_host);
  for (std::size_t i = 0; i < state.hosts.size(); ++i, ++start) {
    if (start == state.hosts.end()) start = state.hosts.begin();
    if (start->second.needy.empty()) continue;
    state.next_host = start->first;
    again = plan_host(state, start->second);
    if (again) return true;
  }
  plan_balance(state);
  return again;
}

std::vector<Task> tasks_of(const State& state, const Host& host) {
  std::vector<Task> tasks;
  for (const std::uint64_t id : host.tasks) {
    const Slice& slice = state.slices.at(id);
    if (state.ended(*slice.life)) continue;
    for (const ReplicaRecord& replica : slice.record.replicas) {
      const Server* const server = state.server_of(replica);
      const bool add = replica.phase == ReplicaPhase::kJoining;
      if (server == nullptr || (!add && replica.phase != ReplicaPhase::kLeaving)) continue;
      if (tasks.size() == kMostTasks) return tasks;
      Task task;
      task.kind = add ? TaskKind::kAddReplica : TaskKind::kDropReplica;
      task.slice = SliceId{id};
      task.holder = slice.record.holder;
      task.server = server->record.name;
      task.epoch = LeaseEpoch{replica.epoch};
      if (add) task.lease = replica_lease(state, slice, replica, *server, true);
      task.reason = reason_of(state, slice);
      tasks.push_back(std::move(task));
    }
  }
  return tasks;
}

}  // namespace tidepool::pool::controller
