// Servers that come and go, slices that are leased of them and given back, and who has which pages.
#include <sys/random.h>

#include <algorithm>
#include <set>

#include "pool/client/remote_core.h"

namespace tidepool::pool::remote {
namespace {

using protocol::ErrorCode;

constexpr auto kLostPause = std::chrono::milliseconds(100);
constexpr std::uint32_t kOwnRights = protocol::kRightRead | protocol::kRightWrite | protocol::kRightRelease;

bool is_gone(ErrorCode code) {
  return code == ErrorCode::kNoSuchSlice || code == ErrorCode::kWrongBoot;
}

std::string refusal_text(ErrorCode code) {
  switch (code) {
    case ErrorCode::kFull:
      return "it has no memory for another slice";
    case ErrorCode::kDenied:
      return "it does not accept the token";
    case ErrorCode::kDrainingNow:
      return "it is draining";
    case ErrorCode::kStaleEpoch:
      return "somebody else holds the slice since";
    default:
      return "it refused a slice, error " + std::to_string(static_cast<std::uint32_t>(code));
  }
}

}  // namespace

ReplicaMask Core::in_force(const Slice& slice) const {
  ReplicaMask mask = 0;
  for (unsigned i = 0; i < kMostReplicas; ++i)
    if (slice.replicas[i].entry.state == ReplicaState::kInForce) mask |= bit(i);
  return mask;
}

ReplicaMask Core::reachable(const Slice& slice) const {
  ReplicaMask mask = 0;
  for (unsigned i = 0; i < kMostReplicas; ++i)
    if (reachable(slice.replicas[i])) mask |= bit(i);
  return mask;
}

void Core::server_up(std::uint8_t number, bool same_boot) {
  std::unique_lock lock(mutex_);
  if (closing_) return;
  Server& server = servers_[number];
  Outbox outbox;
  server.up = true;
  server.draining = false;
  server.full = false;
  server.refused_until = {};
  server.why.clear();
  if (server.seen && !same_boot) {
    ++server.boots;
    for (std::size_t index = 0; index < slices_.size(); ++index) {
      for (unsigned i = 0; i < kMostReplicas; ++i) {
        if (slices_[index].replicas[i].entry.server == number) put_out(index, bit(i), outbox);
      }
    }
  }
  server.seen = true;
  attach_again(number, outbox);
  wake();
  post(lock, outbox);
}

void Core::server_down(std::uint8_t number, const std::string& why) {
  std::unique_lock lock(mutex_);
  Outbox outbox;
  servers_[number].up = false;
  servers_[number].why = why;
  // A link keeps what it was asked to attach until it is up again: writes do not wait for that.
  if (leasing_ < slices_.size()) {
    Slice& slice = slices_[leasing_];
    for (unsigned i = 0; i < kMostReplicas; ++i) {
      if (slice.replicas[i].entry.server != number || !slice.replicas[i].attaching) continue;
      slice.replicas[i].attaching = false;
      lease_answered(leasing_, {number, leasing_, i, {}}, AttachOutcome::kLost, ErrorCode::kOk, outbox);
      break;  // each server is asked once
    }
  }
  wake();
  post(lock, outbox);
}

void Core::server_draining(std::uint8_t number) {
  const std::lock_guard lock(mutex_);
  servers_[number].draining = true;
}

bool Core::may_lease(const Server& server, MonoTime at) const {
  return server.link != nullptr && server.up && !server.draining && server.slices < server.most_slices &&
         at >= server.refused_until;
}

std::size_t Core::best_slice(bool whole_only, bool all_reachable) const {
  const MonoTime at = now();
  const auto fits = [&](const Slice& slice) {
    if (slice.state != SliceState::kReady || slice.used >= slots_per_slice_ || at < slice.refused_until) return false;
    const ReplicaMask there = reachable(slice);
    const ReplicaMask force = in_force(slice);
    if (there == 0 || (all_reachable && there != force)) return false;
    return !whole_only || static_cast<unsigned>(std::popcount(force)) >= options_.replicas;
  };
  if (current_ < slices_.size() && fits(slices_[current_])) return current_;
  return static_cast<std::size_t>(std::ranges::find_if(slices_, fits) - slices_.begin());
}

// Whole slices first; then a new one, so that what is there is not degraded by a server that is away for a moment; then
// what there is.
Core::Room Core::find_room(std::size_t& slice, Outbox& outbox) {
  const auto found = [&](std::size_t index) {
    if (index >= slices_.size()) return false;
    slice = current_ = index;
    return true;
  };
  if (found(best_slice(true, true))) return Room::kFound;
  if (leasing_ < slices_.size()) return Room::kWait;
  const MonoTime at = now();
  const auto candidates = static_cast<std::size_t>(
      std::ranges::count_if(servers_, [&](const Server& server) { return may_lease(server, at); }));
  if (candidates >= options_.replicas && begin_lease(options_.replicas, outbox)) return Room::kWait;
  if (found(best_slice(false, true))) return Room::kFound;
  if (candidates != 0 && begin_lease(candidates, outbox)) return Room::kWait;
  if (found(best_slice(false, false))) return Room::kFound;
  bool any_up = false;
  bool all_full = true;
  for (const Server& server : servers_) {
    if (!server.up) continue;
    any_up = true;
    all_full = all_full && (server.full || server.slices >= server.most_slices);
  }
  const bool no_index =
      std::ranges::none_of(slices_, [](const Slice& each) { return each.state == SliceState::kNone; });
  return any_up && (all_full || no_index) ? Room::kFull : Room::kUnavailable;
}

bool Core::begin_lease(std::size_t wanted, Outbox& outbox) {
  const auto free = std::ranges::find_if(slices_, [](const Slice& slice) { return slice.state == SliceState::kNone; });
  if (closing_ || free == slices_.end()) return false;
  std::uint64_t id = 0;
  if (::getrandom(&id, sizeof(id), 0) != static_cast<ssize_t>(sizeof(id))) return false;
  *free = Slice{};
  free->state = SliceState::kLeasing;
  free->id = protocol::SliceId{id};
  const auto index = static_cast<std::size_t>(free - slices_.begin());
  leasing_ = index;
  if (ask_servers(index, wanted, outbox)) return true;
  *free = Slice{};
  leasing_ = slices_.size();
  return false;
}

bool Core::ask_servers(std::size_t index, std::size_t wanted, Outbox& outbox) {
  Slice& slice = slices_[index];
  std::vector<PlacementCandidate> candidates;
  std::vector<int> taken;
  for (const Replica& replica : slice.replicas)
    if (replica.entry.state == ReplicaState::kInForce) taken.push_back(servers_[replica.entry.server].domain);
  const MonoTime at = now();
  for (std::size_t number = 0; number < servers_.size(); ++number) {
    const Server& server = servers_[number];
    if (may_lease(server, at) && (slice.tried >> number & 1) == 0)
      candidates.push_back({number, server.weight, server.slices, server.domain});
  }
  const PlacementChoice choice = choose_servers(candidates, wanted, taken, random_);
  slice.apart = slice.apart && choice.apart;
  for (const std::size_t number : choice.servers) {
    const auto place = std::ranges::find_if(slice.replicas, [](const Replica& replica) {
      return replica.entry.state == ReplicaState::kNone && !replica.attaching;
    });
    if (place == slice.replicas.end()) break;
    slice.tried |= 1ull << number;
    place->entry = {static_cast<std::uint8_t>(number), ReplicaState::kNone, secret_->incarnation()};
    place->attaching = true;
    ++slice.awaited;
    outbox.attaches.push_back({place->entry.server, index, static_cast<unsigned>(place - slice.replicas.begin()),
                               claims_of(slice, kOwnRights | protocol::kRightCreate)});
  }
  return slice.awaited != 0;
}

protocol::Claims Core::claims_of(const Slice& slice, std::uint32_t rights) const {
  return {.slice = slice.id,
          .holder = slice_table_.spec().holder,
          .epoch = protocol::LeaseEpoch{secret_->incarnation()},
          .slots = static_cast<std::uint32_t>(slots_per_slice_),
          .rights = rights,
          .lease_ms = 0};
}

void Core::attach(const AttachCall& call) {
  const Server& server = servers_[call.server];
  const auto lease = leases_({server.name, call.claims});
  if (!lease) return attached(call, AttachOutcome::kRefused, ErrorCode::kDenied);
  server.link->attach(*lease, [this, call](AttachOutcome outcome, ErrorCode code) { attached(call, outcome, code); });
}

void Core::attached(const AttachCall& call, AttachOutcome outcome, ErrorCode code) {
  std::unique_lock lock(mutex_);
  Slice& slice = slices_[call.slice];
  Replica& replica = slice.replicas[call.replica];
  Outbox outbox;
  if (slice.id != call.claims.slice || replica.entry.server != call.server || !replica.attaching) {
    // Too late: it was done without.
    if (outcome == AttachOutcome::kCreated && !closing_) outbox.releases.emplace_back(call.server, call.claims.slice);
    return post(lock, outbox);
  }
  replica.attaching = false;
  if (slice.state == SliceState::kLeasing) {
    lease_answered(call.slice, call, outcome, code, outbox);
  } else if (replica.entry.state == ReplicaState::kInForce) {
    if (outcome == AttachOutcome::kAttached) {
      replica.attached = true;
      replica.entry.epoch = static_cast<std::uint32_t>(call.claims.epoch);
      slice_table_.store_replica(call.slice, call.replica, replica.entry);
    } else if (outcome == AttachOutcome::kCreated || (outcome == AttachOutcome::kRefused && is_gone(code))) {
      put_out(call.slice, bit(call.replica), outbox);
    } else if (outcome == AttachOutcome::kRefused) {
      servers_[call.server].why = refusal_text(code);
    }
  }
  wake();
  post(lock, outbox);
}

void Core::lease_answered(std::size_t index, const AttachCall& call, AttachOutcome outcome, ErrorCode code,
                          Outbox& outbox) {
  Slice& slice = slices_[index];
  Replica& replica = slice.replicas[call.replica];
  Server& server = servers_[call.server];
  --slice.awaited;
  // One that it had already is somebody's: not an empty slice, so not ours.
  if (outcome == AttachOutcome::kCreated && server.up) {
    replica.entry.state = ReplicaState::kInForce;
    replica.attached = true;
    ++server.slices;
  } else if (outcome == AttachOutcome::kLost || outcome == AttachOutcome::kCreated) {
    server.refused_until = now() + kLostPause;
    if (outcome == AttachOutcome::kCreated && !closing_) outbox.releases.emplace_back(call.server, slice.id);
  } else {
    server.full = code == ErrorCode::kFull;
    server.draining = server.draining || code == ErrorCode::kDrainingNow;
    server.refused_until = now() + options_.refused_pause;
    server.why = outcome == AttachOutcome::kAttached ? "it has a slice of that name already" : refusal_text(code);
  }
  if (slice.awaited != 0) return;
  const ReplicaMask have = in_force(slice);
  const auto count = static_cast<std::size_t>(std::popcount(have));
  if (!closing_ && count < options_.replicas && ask_servers(index, options_.replicas - count, outbox)) return;
  leasing_ = slices_.size();
  if (have == 0) {
    slice = Slice{};
    return;
  }
  std::set<int> domains;
  SliceEntry entry{slice.id, {}};
  for (unsigned i = 0; i < kMostReplicas; ++i) {
    if ((have & bit(i)) == 0) {
      slice.replicas[i] = {};
      continue;
    }
    entry.replicas[i] = slice.replicas[i].entry;
    domains.insert(servers_[entry.replicas[i].server].domain);
  }
  slice.apart = domains.size() == count;
  slice_table_.store(index, entry);
  slice.free.assign((slots_per_slice_ + 63) / 64, ~0ull);
  if (slots_per_slice_ % 64 != 0) slice.free.back() = (1ull << slots_per_slice_ % 64) - 1;
  slice.state = SliceState::kReady;
  maybe_empty_ = true;
}

void Core::attach_again(std::uint8_t number, Outbox& outbox) {
  for (std::size_t index = 0; index < slices_.size(); ++index) {
    Slice& slice = slices_[index];
    if (slice.state != SliceState::kReady) continue;
    for (unsigned i = 0; i < kMostReplicas; ++i) {
      Replica& replica = slice.replicas[i];
      if (replica.entry.server != number || replica.entry.state != ReplicaState::kInForce || replica.attached ||
          replica.attaching)
        continue;
      replica.attaching = true;
      outbox.attaches.push_back({number, index, i, claims_of(slice, kOwnRights)});
    }
  }
}

void Core::put_out(std::size_t index, ReplicaMask which, Outbox& outbox) {
  Slice& slice = slices_[index];
  which &= in_force(slice);
  if (which == 0) return;
  maybe_empty_ = true;
  for (unsigned i = 0; i < kMostReplicas; ++i) {
    if ((which & bit(i)) == 0) continue;
    Replica& replica = slice.replicas[i];
    replica.entry.state = slice.state == SliceState::kReady ? ReplicaState::kOut : ReplicaState::kNone;
    replica.attached = false;
    --servers_[replica.entry.server].slices;
    if (slice.state != SliceState::kReady) continue;
    slice_table_.store_replica(index, i, replica.entry);
    ++counted_.replicas_dropped;
    if (!closing_) outbox.releases.emplace_back(replica.entry.server, slice.id);
  }
  if (slice.state != SliceState::kReady || in_force(slice) != 0 || slice.used == 0) return;
  for (std::uint64_t slot = index * slots_per_slice_; slot < (index + 1) * slots_per_slice_; ++slot)
    if (table_.load(slot).state == SlotState::kLive) ++counted_.lost_pages;
}

void Core::refused(std::size_t index, protocol::SliceId id, std::uint8_t server, ErrorCode code, Outbox& outbox) {
  const Slice& slice = slices_[index];
  if (!is_gone(code) || slice.id != id || slice.state != SliceState::kReady) return;
  for (unsigned i = 0; i < kMostReplicas; ++i)
    if (slice.replicas[i].entry.server == server) put_out(index, bit(i), outbox);
}

void Core::give_back(std::size_t index, Outbox& outbox) {
  Slice& slice = slices_[index];
  for (const Replica& replica : slice.replicas) {
    if (replica.entry.state != ReplicaState::kInForce) continue;
    --servers_[replica.entry.server].slices;
    outbox.releases.emplace_back(replica.entry.server, slice.id);
  }
  slice_table_.clear(index);
  slice = Slice{};
}

// One empty slice is kept for what comes next, if it is a good one.
void Core::give_back_empty(Outbox& outbox) {
  if (!std::exchange(maybe_empty_, false)) return;
  bool kept = false;
  for (std::size_t index = 0; index < slices_.size(); ++index) {
    const Slice& slice = slices_[index];
    if (slice.state != SliceState::kReady || slice.used != 0) continue;
    const bool whole = static_cast<unsigned>(std::popcount(reachable(slice))) >= options_.replicas;
    if (whole && !kept) {
      kept = true;
    } else {
      give_back(index, outbox);
    }
  }
}

std::uint32_t Core::take_slot(Slice& slice) {
  while (slice.free[slice.hint] == 0) ++slice.hint;
  std::uint64_t& word = slice.free[slice.hint];
  const auto at = static_cast<std::uint32_t>(std::countr_zero(word));
  word &= word - 1;
  ++slice.used;
  return static_cast<std::uint32_t>(slice.hint * 64) + at;
}

void Core::free_slot(std::size_t index, std::uint32_t slot) {
  Slice& slice = slices_[index];
  slice.free[slot / 64] |= 1ull << slot % 64;
  slice.hint = std::min<std::uint64_t>(slice.hint, slot / 64);
  if (--slice.used == 0) maybe_empty_ = true;
}

}  // namespace tidepool::pool::remote
