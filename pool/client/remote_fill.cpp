// Replicas that are made anew: of slices that have fewer than wanted, and instead of those on servers that are leaving.
//
// A replica that is filling gets every write from the moment that its slice is attached there. What it lacks is kept as
// a bit per slot, and remote_copy.cpp brings it. It is in force when it lacks nothing; one that is not needed any more
// goes after that, never before.
#include <algorithm>
#include <utility>

#include "pool/client/refusal_text.h"
#include "pool/client/remote_core.h"

namespace tidepool::pool::remote {
namespace {

using protocol::ErrorCode;

// Replicas that are made at other servers at a time. Those that missed a few pages do not count.
constexpr std::size_t kMostFills = 2;
constexpr auto kLookEvery = std::chrono::milliseconds(100);

}  // namespace

bool Core::leaving(const Server& server, MonoTime at) const {
  return server.draining || server.link == nullptr || (!server.up && at - server.down_since > options_.lost_after) ||
         (server.last_resort && enough_others_);
}

ReplicaMask Core::staying(const Slice& slice, ReplicaMask among, MonoTime at) const {
  for (unsigned i = 0; i < kReplicaPlaces; ++i)
    if ((among & bit(i)) != 0 && leaving(servers_[slice.replicas[i].entry.server], at))
      among &= static_cast<ReplicaMask>(~bit(i));
  return among;
}

// A host that ends takes what was left to the last resort with it: no page has only that.
ReplicaMask Core::lasting(const Slice& slice, ReplicaMask among) const {
  for (unsigned i = 0; i < kReplicaPlaces; ++i)
    if ((among & bit(i)) != 0 && servers_[slice.replicas[i].entry.server].last_resort)
      among &= static_cast<ReplicaMask>(~bit(i));
  return among;
}

void Core::look_after_slices(Outbox& outbox) {
  const MonoTime at = now();
  if (at < look_at_ || closing_) return;
  look_at_ = at + kLookEvery;
  enough_others_ = std::cmp_greater_equal(
      std::ranges::count_if(
          servers_, [&](const Server& server) { return !server.last_resort && !server.full && may_lease(server, at); }),
      options_.replicas);
  std::erase_if(filling_, [&](const auto& each) {
    return slices_[each.first].replicas[each.second].entry.state != ReplicaState::kFilling;
  });
  fills_ = static_cast<std::size_t>(std::ranges::count_if(filling_, [&](const auto& each) {
    const Replica& replica = slices_[each.first].replicas[each.second];
    return replica.fresh && servers_[replica.entry.server].up;
  }));
  for (std::size_t index = 0; index < slices_.size(); ++index) {
    if (slices_[index].state != SliceState::kReady) continue;
    if (!placed()) look_after(index, outbox);
    renew_leases(index, outbox);
  }
}

void Core::look_after(std::size_t index, Outbox& outbox) {
  Slice& slice = slices_[index];
  const MonoTime at = now();
  const auto count = [](ReplicaMask mask) { return static_cast<unsigned>(std::popcount(mask)); };
  const ReplicaMask enough = staying(slice, in_force(slice), at);
  if (count(in_force(slice)) > options_.replicas) {
    // The one that is leaving goes, or else one that does not answer, or else any.
    ReplicaMask spare = in_force(slice) & static_cast<ReplicaMask>(~enough);
    if (spare == 0) spare = in_force(slice) & static_cast<ReplicaMask>(~answering(slice));
    if (spare == 0) spare = in_force(slice);
    let_go(index, first_of(spare), ReplicaState::kNone, outbox);
    see_domains(slice);
  }
  const ReplicaMask some = filling(slice);
  const bool readable = (in_force(slice) & answering(slice)) != 0;
  const ReplicaMask useful = staying(slice, some, at);
  for (unsigned i = 0; i < kReplicaPlaces; ++i) {
    if ((some & bit(i)) == 0) continue;
    // While nobody else answers it may be the only one that has a page.
    if (readable && (count(enough) >= options_.replicas || (useful & bit(i)) == 0)) abandon(index, i, outbox);
  }
  if (slice.used == 0 || !readable || at < slice.fill_at || fills_ >= kMostFills) return;
  if (count(enough) + count(useful & filling(slice)) < options_.replicas) begin_fill(index, outbox);
}

void Core::begin_fill(std::size_t index, Outbox& outbox) {
  Slice& slice = slices_[index];
  const MonoTime at = now();
  std::uint64_t there = 0;  // servers that have a replica
  std::vector<int> taken;
  const ReplicaMask some = in_force(slice) | filling(slice);
  for (unsigned i = 0; i < kReplicaPlaces; ++i) {
    if ((some & bit(i)) == 0) continue;
    const Server& server = servers_[slice.replicas[i].entry.server];
    there |= 1ull << slice.replicas[i].entry.server;
    if (!leaving(server, at)) taken.push_back(server.domain);
  }
  const std::vector<std::size_t> chosen = servers_for(1, there, taken, at);
  if (chosen.empty()) return;
  fill(index, static_cast<std::uint8_t>(chosen.front()), next_epoch(), nullptr, outbox);
}

// False: there is no place for it.
bool Core::fill(std::size_t index, std::uint8_t number, std::uint64_t epoch, std::shared_ptr<const Lease> lease,
                Outbox& outbox) {
  Slice& slice = slices_[index];
  // A server has one place in a slice, also when what it had is out.
  const auto free_for = [&](const Replica& replica, ReplicaState state, bool same) {
    return replica.entry.state == state && !replica.attaching && (!same || replica.entry.server == number);
  };
  auto place =
      std::ranges::find_if(slice.replicas, [&](auto& each) { return free_for(each, ReplicaState::kOut, true); });
  for (const ReplicaState state : {ReplicaState::kNone, ReplicaState::kOut})
    if (place == slice.replicas.end())
      place = std::ranges::find_if(slice.replicas, [&](auto& each) { return free_for(each, state, false); });
  if (place == slice.replicas.end()) return false;
  *place = {.entry = {number, ReplicaState::kFilling, epoch}, .use = ++uses_, .attaching = true, .fresh = true};
  ++fills_;
  owe_all(index, *place);
  ++servers_[number].slices;
  const auto i = static_cast<unsigned>(place - slice.replicas.begin());
  slice_table_.store_replica(index, i, place->entry);
  note_filling(index, i);
  outbox.attaches.push_back({.server = number,
                             .slice = index,
                             .replica = i,
                             .use = place->use,
                             .claims = claims_of(slice, epoch, kOwnRights | protocol::kRightCreate),
                             .renewal = false,
                             .lease = std::move(lease)});
  return true;
}

void Core::fill_attached(const AttachCall& call, AttachOutcome outcome, ErrorCode code, Outbox& outbox) {
  Slice& slice = slices_[call.slice];
  Replica& replica = slice.replicas[call.replica];
  Server& server = servers_[call.server];
  if (outcome == AttachOutcome::kAttached || outcome == AttachOutcome::kCreated) {
    // What it had of before is gone.
    if (outcome == AttachOutcome::kCreated) owe_all(call.slice, replica);
    replica.attached = true;
    slice_table_.store_replica(call.slice, call.replica, replica.entry);
    maybe_full_ = true;
    return;
  }
  const bool gone = code == ErrorCode::kNoSuchSlice || code == ErrorCode::kWrongBoot;
  if (call.renewal && !(outcome == AttachOutcome::kRefused && gone)) return;
  if (outcome == AttachOutcome::kRefused && !gone) {
    server.full = code == ErrorCode::kFull;
    server.draining = server.draining || code == ErrorCode::kDrainingNow;
    server.refused_until = now() + options_.refused_pause;
    server.why = refusal_text(code);
  }
  // Is there somebody else to have the pages from? Then it is begun anew, here or elsewhere.
  if (gone || (in_force(slice) & answering(slice)) != 0) abandon(call.slice, call.replica, outbox);
}

void Core::note_filling(std::size_t index, unsigned replica) {
  const std::pair each{index, replica};
  if (std::ranges::find(filling_, each) == filling_.end()) filling_.push_back(each);
}

void Core::begin_repair(std::size_t index, unsigned i) {
  Replica& replica = slices_[index].replicas[i];
  replica.entry.state = ReplicaState::kFilling;
  replica.owed.assign((slots_per_slice_ + 63) / 64, 0);
  replica.owing = 0;
  replica.next_slot = 0;
  slice_table_.store_replica(index, i, replica.entry);
  note_filling(index, i);
  ++counted_.replicas_dropped;
  see_domains(slices_[index]);
}

void Core::abandon(std::size_t index, unsigned i, Outbox& outbox) {
  Slice& slice = slices_[index];
  Replica& replica = slice.replicas[i];
  const std::uint8_t server = replica.entry.server;
  --servers_[server].slices;
  if (!closing_) outbox.releases.emplace_back(server, slice.id);
  replica = {.use = ++uses_};
  slice_table_.store_replica(index, i, replica.entry);
  ++counted_.rebuilds_failed;
  slice.fill_at = now() + options_.refused_pause / 8;
}

void Core::put_in_force_what_is_full() {
  if (!std::exchange(maybe_full_, false)) return;
  look_at_ = {};  // what it replaces may go
  for (const auto& [index, i] : filling_) {
    Slice& slice = slices_[index];
    Replica& replica = slice.replicas[i];
    if (slice.state != SliceState::kReady || replica.entry.state != ReplicaState::kFilling || replica.owing != 0 ||
        !replica.attached)
      continue;
    replica.entry.state = ReplicaState::kInForce;
    replica.owed = {};
    slice_table_.store_replica(index, i, replica.entry);
    ++counted_.replicas_rebuilt;
    see_domains(slice);
  }
}

void Core::owe_all(std::size_t index, Replica& replica) const {
  replica.owed.assign((slots_per_slice_ + 63) / 64, 0);
  replica.owing = 0;
  replica.next_slot = 0;
  for (std::uint32_t slot = 0; slot < slots_per_slice_; ++slot) {
    const SlotState state = table_.load(index * slots_per_slice_ + slot).state;
    if (state == SlotState::kLive || state == SlotState::kStaged) owe(replica, slot);
  }
}

void Core::owe(Replica& replica, std::uint32_t slot) const {
  if (replica.owed.empty() || replica.owes(slot)) return;
  replica.owed[slot / 64] |= 1ull << slot % 64;
  ++replica.owing;
}

void Core::settle_debt(Replica& replica, std::uint32_t slot) {
  if (!replica.owes(slot)) return;
  replica.owed[slot / 64] &= ~(1ull << slot % 64);
  if (--replica.owing == 0) maybe_full_ = true;
}

}  // namespace tidepool::pool::remote
