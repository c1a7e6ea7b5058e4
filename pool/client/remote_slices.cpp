// Servers that come and go, who has which pages, and what becomes of replicas.
#include <algorithm>
#include <set>

#include "pool/client/refusal_text.h"
#include "pool/client/remote_core.h"

namespace tidepool::pool::remote {

using protocol::ErrorCode;

namespace {

constexpr auto kRenewAgain = std::chrono::milliseconds(250);

bool is_gone(ErrorCode code) {
  return code == ErrorCode::kNoSuchSlice || code == ErrorCode::kWrongBoot;
}

}  // namespace

ReplicaMask Core::in_state(const Slice& slice, ReplicaState state) const {
  ReplicaMask mask = 0;
  for (unsigned i = 0; i < kReplicaPlaces; ++i)
    if (slice.replicas[i].entry.state == state) mask |= bit(i);
  return mask;
}

ReplicaMask Core::answering(const Slice& slice) const {
  ReplicaMask mask = 0;
  for (unsigned i = 0; i < kReplicaPlaces; ++i) {
    const Replica& replica = slice.replicas[i];
    const bool counts = replica.entry.state == ReplicaState::kInForce || replica.entry.state == ReplicaState::kFilling;
    if (counts && replica.attached && servers_[replica.entry.server].up) mask |= bit(i);
  }
  return mask;
}

ReplicaMask Core::writable(const Slice& slice, MonoTime at) const {
  ReplicaMask mask = answering(slice);
  for (unsigned i = 0; i < kReplicaPlaces; ++i)
    if (expired(slice.replicas[i], at)) mask &= static_cast<ReplicaMask>(~bit(i));
  return mask;
}

ReplicaMask Core::holders(const Slice& slice, std::uint32_t slot) const {
  ReplicaMask mask = in_force(slice);
  const ReplicaMask some = filling(slice);
  for (unsigned i = 0; i < kReplicaPlaces; ++i)
    if ((some & bit(i)) != 0 && !slice.replicas[i].owes(slot)) mask |= bit(i);
  return mask != 0 ? mask : some;
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
      for (unsigned i = 0; i < kReplicaPlaces; ++i) {
        const ReplicaEntry& entry = slices_[index].replicas[i].entry;
        if (entry.server != number) continue;
        put_out(index, bit(i), outbox);
        if (entry.state == ReplicaState::kFilling) abandon(index, i, outbox);
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
  if (servers_[number].up) servers_[number].down_since = now();
  servers_[number].up = false;
  servers_[number].why = why;
  // A link keeps what it was asked to attach until it is up again: writes do not wait for that.
  if (leasing_ < slices_.size()) {
    Slice& slice = slices_[leasing_];
    for (unsigned i = 0; i < kReplicaPlaces; ++i) {
      if (slice.replicas[i].entry.server != number || !slice.replicas[i].attaching) continue;
      slice.replicas[i].attaching = false;
      lease_answered(leasing_, {.server = number, .slice = leasing_, .replica = i}, AttachOutcome::kLost,
                     ErrorCode::kOk, outbox);
      break;  // each server is asked once
    }
  }
  wake();
  post(lock, outbox);
}

void Core::server_draining(std::uint8_t number) {
  const std::lock_guard lock(mutex_);
  servers_[number].draining = true;
  maybe_empty_ = true;
}

void Core::attached(const AttachCall& call, const Attempt& attempt, AttachOutcome outcome, ErrorCode code) {
  std::unique_lock lock(mutex_);
  Slice& slice = slices_[call.slice];
  Replica& replica = slice.replicas[call.replica];
  Outbox outbox;
  if (slice.id != call.claims.slice || replica.use != call.use || !replica.attaching) {
    // Too late: it was done without.
    if (outcome == AttachOutcome::kCreated && !closing_) outbox.releases.emplace_back(call.server, call.claims.slice);
    return post(lock, outbox);
  }
  replica.attaching = false;
  if (outcome == AttachOutcome::kAttached || outcome == AttachOutcome::kCreated) {
    replica.entry.epoch = attempt.epoch;
    replica.expires = replica.renew_at = {};
    if (attempt.lease_ms != 0) {
      // A lease beyond that is none that ends.
      const auto lease = std::chrono::milliseconds(std::min<std::uint64_t>(attempt.lease_ms, 1ull << 40));
      replica.expires = attempt.sent + lease;
      replica.renew_at = attempt.sent + lease / 3;
    }
  } else if (call.renewal) {
    replica.renew_at = now() + kRenewAgain;
  }
  if (slice.state == SliceState::kLeasing) {
    lease_answered(call.slice, call, outcome, code, outbox);
  } else if (slice.state == SliceState::kOffered) {
    offer_answered(call, outcome, code);
  } else if (replica.entry.state == ReplicaState::kFilling) {
    fill_attached(call, outcome, code, outbox);
  } else if (replica.entry.state == ReplicaState::kInForce) {
    attached_again(call, outcome, code, outbox);
  }
  wake();
  post(lock, outbox);
}

void Core::attached_again(const AttachCall& call, AttachOutcome outcome, ErrorCode code, Outbox& outbox) {
  Replica& replica = slices_[call.slice].replicas[call.replica];
  if (outcome == AttachOutcome::kAttached) {
    replica.attached = true;
    slice_table_.store_replica(call.slice, call.replica, replica.entry);
  } else if (outcome == AttachOutcome::kCreated || (outcome == AttachOutcome::kRefused && is_gone(code))) {
    put_out(call.slice, bit(call.replica), outbox);
  } else if (outcome == AttachOutcome::kRefused) {
    servers_[call.server].why = refusal_text(code);
  }
}

void Core::attach_again(std::uint8_t number, Outbox& outbox) {
  for (std::size_t index = 0; index < slices_.size(); ++index) {
    Slice& slice = slices_[index];
    if (slice.state != SliceState::kReady) continue;
    for (unsigned i = 0; i < kReplicaPlaces; ++i) {
      Replica& replica = slice.replicas[i];
      const bool filling = replica.entry.state == ReplicaState::kFilling;
      if (replica.entry.server != number || replica.attached || replica.attaching ||
          (!filling && replica.entry.state != ReplicaState::kInForce))
        continue;
      replica.attaching = true;
      // What is filling may be made anew; what is in force must be there.
      const std::uint32_t rights = filling ? kOwnRights | protocol::kRightCreate : kOwnRights;
      outbox.attaches.push_back({.server = number,
                                 .slice = index,
                                 .replica = i,
                                 .use = replica.use,
                                 .claims = claims_of(slice, placed() ? replica.entry.epoch : next_epoch(), rights)});
    }
  }
}

void Core::let_go(std::size_t index, unsigned i, ReplicaState then, Outbox& outbox) {
  Slice& slice = slices_[index];
  Replica& replica = slice.replicas[i];
  maybe_empty_ = true;
  --servers_[replica.entry.server].slices;
  const bool ready = slice.state == SliceState::kReady;
  replica.entry.state = ready ? then : ReplicaState::kNone;
  replica = {.entry = replica.entry, .use = ++uses_};
  if (!ready) return;
  slice_table_.store_replica(index, i, replica.entry);
  if (!closing_) outbox.releases.emplace_back(replica.entry.server, slice.id);
}

void Core::put_out(std::size_t index, ReplicaMask which, Outbox& outbox) {
  Slice& slice = slices_[index];
  which &= in_force(slice);
  if (which == 0) return;
  for (unsigned i = 0; i < kReplicaPlaces; ++i) {
    if ((which & bit(i)) == 0) continue;
    let_go(index, i, ReplicaState::kOut, outbox);
    counted_.replicas_dropped += slice.state == SliceState::kReady;
  }
  see_domains(slice);
  if (slice.state != SliceState::kReady || in_force(slice) != 0 || slice.used == 0) return;
  for (std::uint32_t slot = 0; slot < slots_per_slice_; ++slot) {
    const bool lost = std::ranges::all_of(slice.replicas, [&](const Replica& replica) {
      return replica.entry.state != ReplicaState::kFilling || replica.owes(slot);
    });
    if (lost && table_.load(index * slots_per_slice_ + slot).state == SlotState::kLive) ++counted_.lost_pages;
  }
}

void Core::refused(std::size_t index, unsigned replica, std::uint64_t use, ErrorCode code, Outbox& outbox) {
  const Slice& slice = slices_[index];
  if (slice.state != SliceState::kReady || slice.replicas[replica].use != use) return;
  if (code == ErrorCode::kExpired) expire(index, replica, use);
  if (!is_gone(code)) return;
  put_out(index, bit(replica), outbox);
  if (slice.replicas[replica].entry.state == ReplicaState::kFilling) abandon(index, replica, outbox);
}

void Core::give_back(std::size_t index, Outbox& outbox) {
  Slice& slice = slices_[index];
  const ReplicaMask leased = in_force(slice) | filling(slice);
  for (unsigned i = 0; i < kReplicaPlaces; ++i) {
    if ((leased & bit(i)) == 0) continue;
    --servers_[slice.replicas[i].entry.server].slices;
    outbox.releases.emplace_back(slice.replicas[i].entry.server, slice.id);
  }
  slice_table_.clear(index);
  slice = Slice{};
}

// One empty slice is kept for what comes next, if it is a good one.
void Core::give_back_spare(Outbox& outbox) {
  if (!std::exchange(maybe_empty_, false) || placed()) return;
  bool kept = false;
  for (std::size_t index = 0; index < slices_.size(); ++index) {
    const Slice& slice = slices_[index];
    if (slice.state != SliceState::kReady || slice.used != 0) continue;
    const ReplicaMask good = staying(slice, in_force(slice) & answering(slice), now());
    if (!kept && static_cast<unsigned>(std::popcount(good)) >= options_.replicas) {
      kept = true;
    } else {
      give_back(index, outbox);
    }
  }
}

void Core::see_domains(Slice& slice) const {
  std::set<int> domains;
  const ReplicaMask force = in_force(slice);
  for (unsigned i = 0; i < kReplicaPlaces; ++i)
    if ((force & bit(i)) != 0) domains.insert(servers_[slice.replicas[i].entry.server].domain);
  slice.apart = domains.size() == static_cast<std::size_t>(std::popcount(force));
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
  for (Replica& replica : slice.replicas) settle_debt(replica, slot);
  if (--slice.used == 0) maybe_empty_ = true;
}

}  // namespace tidepool::pool::remote
