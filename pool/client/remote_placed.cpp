// Slices that a controller gives and wants back: offered, confirmed, emptied, given back; replicas that it asks for.
#include <algorithm>

#include "pool/client/refusal_text.h"
#include "pool/client/remote_core.h"

namespace tidepool::pool::remote {

using protocol::ErrorCode;

namespace {

Failure no_slice(protocol::SliceId slice, const char* why) {
  return failure(std::errc::no_such_file_or_directory, "use",
                 "slice " + std::to_string(static_cast<std::uint64_t>(slice)), why);
}

}  // namespace

// The number of the server, with a link to it from now on.
Result<std::uint8_t> Core::server_for(const GrantedReplica& granted) {
  Link* link = nullptr;
  std::uint8_t found = 0;
  {
    const std::lock_guard lock(mutex_);
    for (const Server& server : servers_) {
      if (server.name != granted.server || server.link == nullptr) continue;
      link = server.link.get();
      found = static_cast<std::uint8_t>(&server - servers_.data());
    }
  }
  if (link != nullptr) {
    if (auto moved = link->move_to(granted.address); !moved) return Failure{moved.error()};
    return found;
  }
  auto made = options_.placed(granted);
  if (!made) return Failure{made.error()};
  std::unique_lock lock(mutex_);
  if (auto added = add_server(std::move(*made)); !added) return Failure{added.error()};
  auto number = slice_table_.number_of(granted.server);
  if (!number) return number;
  Server& server = servers_[*number];
  server.down_since = now();
  if (auto joined = join_answers(server); !joined) return Failure{joined.error()};
  lock.unlock();
  listen(*number);
  return number;
}

std::size_t Core::index_of(protocol::SliceId slice) const {
  return static_cast<std::size_t>(
      std::ranges::find_if(slices_,
                           [&](const Slice& each) { return each.state != SliceState::kNone && each.id == slice; }) -
      slices_.begin());
}

// One that is degraded is better than none, unless a replica would miss what others wait for.
Core::Room Core::find_granted(std::size_t& slice, MonoTime at) {
  for (const bool all_reachable : {true, false}) {
    const std::size_t index = best_slice(false, all_reachable, at);
    if (index == slices_.size()) continue;
    slice = current_ = index;
    return Room::kFound;
  }
  for (const Slice& each : slices_)
    if (each.state == SliceState::kReady && !each.closing && each.used < slots_per_slice_) return Room::kUnavailable;
  return Room::kFull;
}

Result<> Core::offer(const GrantedSlice& granted) {
  std::vector<std::uint8_t> servers;
  for (const GrantedReplica& replica : granted.replicas) {
    auto number = server_for(replica);
    if (!number) return Failure{number.error()};
    servers.push_back(*number);
  }
  std::unique_lock lock(mutex_);
  if (index_of(granted.slice) != slices_.size()) return {};
  if (servers.empty() || servers.size() > kMostReplicas)
    return no_slice(granted.slice, "it has no replica, or too many");
  const auto free = std::ranges::find(slices_, SliceState::kNone, &Slice::state);
  if (closing_ || free == slices_.end()) return no_slice(granted.slice, "there is no room for another one");
  Outbox outbox;
  *free = Slice{};
  free->state = SliceState::kOffered;
  free->id = granted.slice;
  for (unsigned i = 0; i < servers.size(); ++i) {
    const Lease& lease = granted.replicas[i].lease;
    free->replicas[i] = {.entry = {servers[i], ReplicaState::kNone, static_cast<std::uint64_t>(lease.claims.epoch)},
                         .use = ++uses_,
                         .attaching = true};
    outbox.attaches.push_back({.server = servers[i],
                               .slice = static_cast<std::size_t>(free - slices_.begin()),
                               .replica = i,
                               .use = free->replicas[i].use,
                               .claims = claims_of(*free, static_cast<std::uint64_t>(lease.claims.epoch), kOwnRights),
                               .renewal = false,
                               .lease = std::make_shared<const Lease>(lease)});
  }
  post(lock, outbox);
  return {};
}

void Core::offer_answered(const AttachCall& call, AttachOutcome outcome, ErrorCode code) {
  Slice& slice = slices_[call.slice];
  Replica& replica = slice.replicas[call.replica];
  if (outcome == AttachOutcome::kAttached || outcome == AttachOutcome::kCreated) {
    replica.entry.state = ReplicaState::kInForce;
    replica.attached = true;
    ++servers_[call.server].slices;
    return;
  }
  slice.refused = true;
  if (outcome == AttachOutcome::kRefused) servers_[call.server].why = refusal_text(code);
}

void Core::confirm(protocol::SliceId id) {
  const std::lock_guard lock(mutex_);
  const std::size_t index = index_of(id);
  if (index == slices_.size() || slices_[index].state != SliceState::kOffered) return;
  // A server that went since then has nothing that is missed.
  if (in_force(slices_[index]) != 0) make_ready(index);
  wake();
}

void Core::withdraw(protocol::SliceId id) {
  std::unique_lock lock(mutex_);
  const std::size_t index = index_of(id);
  if (index == slices_.size() || slices_[index].state != SliceState::kOffered) return;
  Outbox outbox;
  give_back(index, outbox);
  post(lock, outbox);
}

std::vector<SliceReport> Core::slices() const {
  const std::lock_guard lock(mutex_);
  std::vector<SliceReport> reports;
  for (const Slice& slice : slices_) {
    if (slice.state == SliceState::kNone) continue;
    SliceReport& report = reports.emplace_back();
    report.slice = slice.id;
    report.pages = slice.used;
    bool attached = true;
    for (const Replica& replica : slice.replicas) {
      attached = attached && !replica.attaching;
      if (replica.entry.state == ReplicaState::kNone) continue;
      report.replicas.push_back({servers_[replica.entry.server].name, replica.entry.epoch,
                                 replica.entry.state == ReplicaState::kInForce,
                                 replica.entry.state == ReplicaState::kFilling});
    }
    if (slice.state == SliceState::kReady) {
      report.state = slice.closing ? SliceReport::State::kClosing : SliceReport::State::kReady;
    } else if (slice.refused || in_force(slice) == 0) {
      report.state = slice.refused || attached ? SliceReport::State::kRefused : SliceReport::State::kOffered;
    } else {
      report.state = attached ? SliceReport::State::kAttached : SliceReport::State::kOffered;
    }
  }
  return reports;
}

void Core::keep_slices(std::size_t most) {
  const std::lock_guard lock(mutex_);
  std::vector<Slice*> ready;
  for (Slice& slice : slices_)
    if (slice.state == SliceState::kReady) ready.push_back(&slice);
  // What is closing already stays so as long as it may: its pages are on their way.
  std::ranges::sort(ready, [](const Slice* one, const Slice* other) {
    return one->closing != other->closing ? !one->closing : one->used > other->used;
  });
  for (std::size_t i = 0; i < ready.size(); ++i) ready[i]->closing = i >= most;
  wake();
}

std::function<bool(Location)> Core::leaving() const {
  std::vector<bool> closing(slices_.size());
  {
    const std::lock_guard lock(mutex_);
    for (std::size_t i = 0; i < slices_.size(); ++i) closing[i] = slices_[i].closing && slices_[i].used != 0;
  }
  if (std::ranges::find(closing, true) == closing.end()) return {};
  return [closing = std::move(closing), slots = slots_per_slice_](Location location) {
    const std::size_t index = slot_of(location) / slots;
    return index < closing.size() && closing[index];
  };
}

// Before the first slice there is room for one: the page that finds none says that this VM wants some.
std::optional<Bytes> Core::leased_room() const {
  if (!placed()) return std::nullopt;
  std::uint64_t slots = 0;
  bool any = false;
  const std::lock_guard lock(mutex_);
  for (const Slice& slice : slices_) {
    any = any || slice.state != SliceState::kNone;
    if (slice.state == SliceState::kReady && !slice.closing) slots += slots_per_slice_ - slice.used;
  }
  if (!any && counted_.full_writes == 0) slots = slots_per_slice_;
  return Bytes{slots * kPageSize};
}

std::vector<protocol::SliceId> Core::give_back_empty(std::size_t spare) {
  std::unique_lock lock(mutex_);
  Outbox outbox;
  std::vector<protocol::SliceId> gone;
  for (std::size_t index = 0; index < slices_.size(); ++index) {
    const Slice& slice = slices_[index];
    if (slice.state != SliceState::kReady || slice.used != 0) continue;
    if (!slice.closing && spare > 0) {
      --spare;
      continue;
    }
    gone.push_back(slice.id);
    give_back(index, outbox);
  }
  post(lock, outbox);
  return gone;
}

Result<> Core::add_replica(protocol::SliceId id, const GrantedReplica& granted) {
  auto number = server_for(granted);
  if (!number) return Failure{number.error()};
  std::unique_lock lock(mutex_);
  const std::size_t index = index_of(id);
  if (index == slices_.size() || slices_[index].state != SliceState::kReady)
    return no_slice(id, "this holder has none of that name");
  const Slice& slice = slices_[index];
  const auto epoch = static_cast<std::uint64_t>(granted.lease.claims.epoch);
  Outbox outbox;
  for (unsigned i = 0; i < kReplicaPlaces; ++i) {
    const ReplicaEntry& entry = slice.replicas[i].entry;
    if (entry.server != *number || entry.state == ReplicaState::kNone || entry.state == ReplicaState::kOut) continue;
    if (entry.epoch >= epoch) return {};
    // What it has of an earlier lease is nothing that anybody counts on any more.
    if (entry.state == ReplicaState::kInForce) return no_slice(id, "the server has it, in an earlier lease");
    abandon(index, i, outbox);
  }
  const bool begun = fill(index, *number, epoch, std::make_shared<const Lease>(granted.lease), outbox);
  post(lock, outbox);
  if (!begun) return no_slice(id, "it has as many replicas as there can be");
  return {};
}

Result<> Core::expect_boot(const std::string& server, const protocol::BootId& boot, const std::string& address) {
  Link* link = nullptr;
  {
    const std::lock_guard lock(mutex_);
    for (const Server& each : servers_)
      if (each.name == server) link = each.link.get();
  }
  if (link == nullptr) return {};
  link->expect_boot(boot);
  return link->move_to(address);
}

bool Core::drop_replica(protocol::SliceId id, const std::string& server) {
  std::unique_lock lock(mutex_);
  const std::size_t index = index_of(id);
  if (index == slices_.size() || slices_[index].state != SliceState::kReady) return true;
  Slice& slice = slices_[index];
  Outbox outbox;
  bool gone = true;
  for (unsigned i = 0; i < kReplicaPlaces; ++i) {
    const ReplicaEntry& entry = slice.replicas[i].entry;
    if (entry.state == ReplicaState::kNone || servers_[entry.server].name != server) continue;
    if (entry.state == ReplicaState::kFilling && in_force(slice) != 0) {
      abandon(index, i, outbox);
    } else if (entry.state == ReplicaState::kInForce && (in_force(slice) & ~bit(i)) != 0) {
      let_go(index, i, ReplicaState::kNone, outbox);
      see_domains(slice);
    } else if (entry.state != ReplicaState::kOut) {
      gone = false;
    }
  }
  post(lock, outbox);
  return gone;
}

}  // namespace tidepool::pool::remote
