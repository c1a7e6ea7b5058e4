// Slices that are leased as pages come, and the tokens for them.
#include <sys/random.h>

#include <algorithm>

#include "pool/client/refusal_text.h"
#include "pool/client/remote_core.h"

namespace tidepool::pool::remote {
namespace {

using protocol::ErrorCode;

constexpr auto kLostPause = std::chrono::milliseconds(100);
constexpr auto kTokenPatience = std::chrono::seconds(10);
constexpr unsigned kEpochBits = 24;  // of what counts up within an incarnation

}  // namespace

bool Core::may_lease(const Server& server, MonoTime at) const {
  return server.link != nullptr && server.up && !server.draining && server.slices < server.most_slices &&
         at >= server.refused_until;
}

std::size_t Core::best_slice(bool whole_only, bool all_reachable, MonoTime at) const {
  const auto fits = [&](const Slice& slice) {
    if (slice.state != SliceState::kReady || slice.closing || slice.used >= slots_per_slice_ ||
        at < slice.refused_until)
      return false;
    const ReplicaMask force = in_force(slice);
    const ReplicaMask there = force & writable(slice, at);
    // One whose lease has run out is as good as ever for reads, and must not miss a page.
    if (lasting(slice, there) == 0 || there != (force & answering(slice)) || (all_reachable && there != force))
      return false;
    return !whole_only || static_cast<unsigned>(std::popcount(staying(slice, force, at))) >= options_.replicas;
  };
  if (current_ < slices_.size() && fits(slices_[current_])) return current_;
  return static_cast<std::size_t>(std::ranges::find_if(slices_, fits) - slices_.begin());
}

// Whole slices first; then a new one, so that what is there is not degraded by a server that is away for a moment; then
// what there is.
Core::Room Core::find_room(std::size_t& slice, MonoTime at, Outbox& outbox) {
  const auto found = [&](std::size_t index) {
    if (index >= slices_.size()) return false;
    slice = current_ = index;
    return true;
  };
  if (found(best_slice(true, true, at))) return Room::kFound;
  if (placed()) return find_granted(slice, at);
  if (leasing_ < slices_.size()) return Room::kWait;
  const auto count = [&](bool last_resort) {
    return static_cast<std::size_t>(std::ranges::count_if(
        servers_, [&](const Server& server) { return server.last_resort == last_resort && may_lease(server, at); }));
  };
  const std::size_t lasting = count(false);
  const std::size_t candidates = lasting == 0 ? 0 : lasting + count(true);
  if (candidates >= options_.replicas && begin_lease(options_.replicas, outbox)) return Room::kWait;
  if (found(best_slice(false, true, at))) return Room::kFound;
  if (candidates != 0 && begin_lease(candidates, outbox)) return Room::kWait;
  if (found(best_slice(false, false, at))) return Room::kFound;
  bool any_up = false;
  bool all_full = true;
  for (const Server& server : servers_) {
    if (!server.up || server.last_resort) continue;
    any_up = true;
    all_full = all_full && (server.full || server.slices >= server.most_slices);
  }
  bool no_index = true;
  for (const Slice& each : slices_) {
    if (each.state == SliceState::kNone) no_index = false;
    // There is room, as soon as its lease is renewed.
    if (each.state == SliceState::kReady && each.used < slots_per_slice_ && writable(each, at) != answering(each))
      return Room::kUnavailable;
  }
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
  leasing_until_ = now() + kTokenPatience;
  if (ask_servers(index, wanted, outbox)) return true;
  *free = Slice{};
  leasing_ = slices_.size();
  return false;
}

// Writes do not wait for ever for a token, or for an answer to one.
void Core::give_up_late_lease(Outbox& outbox) {
  if (leasing_ >= slices_.size() || now() < leasing_until_) return;
  const std::size_t index = leasing_;
  for (unsigned i = 0; i < kReplicaPlaces && leasing_ == index; ++i) {
    Replica& replica = slices_[index].replicas[i];
    if (!replica.attaching) continue;
    replica.attaching = false;
    lease_answered(index, {.server = replica.entry.server, .slice = index, .replica = i}, AttachOutcome::kLost,
                   ErrorCode::kOk, outbox);
  }
}

// Servers for `wanted` replicas, none of `without` (a bit each): those of last resort when there are no others.
std::vector<std::size_t> Core::servers_for(std::size_t wanted, std::uint64_t without, std::span<const int> taken,
                                           MonoTime at) {
  std::vector<std::size_t> chosen;
  for (const bool last_resort : {false, true}) {
    if (chosen.size() == wanted) break;
    std::vector<PlacementCandidate> candidates;
    for (std::size_t number = 0; number < servers_.size(); ++number) {
      const Server& server = servers_[number];
      if (server.last_resort == last_resort && may_lease(server, at) && (without >> number & 1) == 0)
        candidates.push_back({number, server.weight, server.slices, server.domain});
    }
    const PlacementChoice choice = choose_servers(candidates, wanted - chosen.size(), taken, random_);
    chosen.insert(chosen.end(), choice.servers.begin(), choice.servers.end());
  }
  return chosen;
}

bool Core::ask_servers(std::size_t index, std::size_t wanted, Outbox& outbox) {
  Slice& slice = slices_[index];
  std::vector<int> taken;
  for (const Replica& replica : slice.replicas)
    if (replica.entry.state == ReplicaState::kInForce) taken.push_back(servers_[replica.entry.server].domain);
  for (const std::size_t number : servers_for(wanted, slice.tried, taken, now())) {
    const auto place = std::ranges::find_if(slice.replicas, [](const Replica& replica) {
      return replica.entry.state == ReplicaState::kNone && !replica.attaching;
    });
    if (place == slice.replicas.end()) break;
    slice.tried |= 1ull << number;
    *place = {.entry = {static_cast<std::uint8_t>(number), ReplicaState::kNone, next_epoch()},
              .use = ++uses_,
              .attaching = true};
    ++slice.awaited;
    outbox.attaches.push_back({.server = place->entry.server,
                               .slice = index,
                               .replica = static_cast<unsigned>(place - slice.replicas.begin()),
                               .use = place->use,
                               .claims = claims_of(slice, place->entry.epoch, kOwnRights | protocol::kRightCreate)});
  }
  return slice.awaited != 0;
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
  wake();
  if (lasting(slice, have) == 0) {
    for (unsigned i = 0; i < kReplicaPlaces; ++i) {
      if ((have & bit(i)) == 0) continue;
      const std::uint8_t number = slice.replicas[i].entry.server;
      --servers_[number].slices;
      if (!closing_) outbox.releases.emplace_back(number, slice.id);
    }
    slice = Slice{};
    return;
  }
  make_ready(index);
}

// What is in force now is what it has.
void Core::make_ready(std::size_t index) {
  Slice& slice = slices_[index];
  const ReplicaMask have = in_force(slice);
  SliceEntry entry{slice.id, {}};
  for (unsigned i = 0; i < kReplicaPlaces; ++i) {
    if ((have & bit(i)) == 0) slice.replicas[i] = {};
    entry.replicas[i] = slice.replicas[i].entry;
  }
  see_domains(slice);
  slice_table_.store(index, entry);
  slice.free.assign((slots_per_slice_ + 63) / 64, ~0ull);
  if (slots_per_slice_ % 64 != 0) slice.free.back() = (1ull << slots_per_slice_ % 64) - 1;
  slice.state = SliceState::kReady;
  maybe_empty_ = true;
}

protocol::Claims Core::claims_of(const Slice& slice, std::uint64_t epoch, std::uint32_t rights) const {
  return {.slice = slice.id,
          .holder = slice_table_.spec().holder,
          .epoch = protocol::LeaseEpoch{epoch},
          .slots = static_cast<std::uint32_t>(slots_per_slice_),
          .rights = rights,
          .lease_ms = static_cast<std::uint64_t>(options_.lease.count())};
}

// Incarnations only grow, so that whoever comes after this process keeps it out, and a slice that is leased again keeps
// out what was sent in its former lease.
std::uint64_t Core::next_epoch() {
  const std::uint64_t count = std::min<std::uint64_t>(++leases_made_, (1ull << kEpochBits) - 1);
  return static_cast<std::uint64_t>(secret_->incarnation()) << kEpochBits | count;
}

void Core::attach(const AttachCall& call) {
  if (call.lease != nullptr) return leased(call, *call.lease);
  leases_({servers_[call.server].name, call.claims, call.renewal},
          [this, gate = gate_, call](const Result<Lease>& lease) {
            if (!gate->enter()) return;
            leased(call, lease);
            gate->leave();
          });
}

void Core::leased(const AttachCall& call, const Result<Lease>& lease) {
  std::unique_lock lock(mutex_);
  if (closing_) return;
  // The token may be another one than was wished for.
  if (!lease || lease->claims.slice != call.claims.slice || lease->claims.slots != call.claims.slots) {
    if (!lease) servers_[call.server].why = lease.error().message();
    lock.unlock();
    return attached(call, {}, AttachOutcome::kRefused, ErrorCode::kDenied);
  }
  // Counted with those in post(): the link does not go meanwhile.
  ++posting_;
  lock.unlock();
  const Attempt attempt{now(), static_cast<std::uint64_t>(lease->claims.epoch), lease->claims.lease_ms};
  servers_[call.server].link->attach(
      *lease, [this, call, attempt](AttachOutcome outcome, ErrorCode code) { attached(call, attempt, outcome, code); });
  lock.lock();
  if (--posting_ == 0) posted_.notify_all();
}

void Core::renew_leases(std::size_t index, Outbox& outbox) {
  Slice& slice = slices_[index];
  const MonoTime at = now();
  for (unsigned i = 0; i < kReplicaPlaces; ++i) {
    Replica& replica = slice.replicas[i];
    if (!replica.attached || replica.attaching || replica.renew_at == MonoTime{} || at < replica.renew_at ||
        !servers_[replica.entry.server].up)
      continue;
    replica.attaching = true;
    outbox.attaches.push_back({.server = replica.entry.server,
                               .slice = index,
                               .replica = i,
                               .use = replica.use,
                               .claims = claims_of(slice, replica.entry.epoch, kOwnRights),
                               .renewal = true});
  }
}

// The server counts from receipt, so it says so only when its lease is over by any account.
void Core::expire(std::size_t index, unsigned replica, std::uint64_t use) {
  Replica& expired = slices_[index].replicas[replica];
  if (expired.use != use || !expired.attached) return;
  expired.expires = expired.renew_at = now();
  look_at_ = {};
}

}  // namespace tidepool::pool::remote
