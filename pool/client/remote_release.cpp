// Pages that nobody owns any more, what there is to say of the store, and what a successor finds of it.
#include <algorithm>
#include <array>

#include "pool/client/remote_core.h"

namespace tidepool::pool::remote {
namespace {

// Beyond that a server learns of a freed page when its slot is written again.
constexpr std::size_t kMostDiscards = 16384;

}  // namespace

void Core::release(std::span<const Location> locations) {
  const std::lock_guard lock(mutex_);
  for (const Location location : locations) {
    const DropResult dropped = table_.drop(location, SlotState::kFree);
    if (dropped == DropResult::kRefused) ++counted_.refused_releases;
    if (dropped != DropResult::kLast) continue;
    --pages_;
    const std::size_t index = slot_of(location) / slots_per_slice_;
    const auto slot = static_cast<std::uint32_t>(slot_of(location) % slots_per_slice_);
    // Its version is taken before the slot can be given again: late as it may come, it never hits a later page.
    if (discards_.size() < kMostDiscards)
      discards_.push_back({index, slices_[index].id, slot, secret_->next_version()});
    free_slot(index, slot);
  }
}

void Core::send_discards(Outbox& outbox) {
  while (!discards_.empty() && !free_discard_frames_.empty()) {
    DiscardFrame& frame = *free_discard_frames_.back();
    const Discard last = discards_.back();
    std::size_t count = 0;
    while (!discards_.empty() && discards_.back().id == last.id && count < kFramePages) {
      const Discard discard = discards_.back();
      discards_.pop_back();
      const Slice& slice = slices_[discard.slice];
      const bool still_free = slice.state == SliceState::kReady && slice.id == discard.id &&
                              (slice.free[discard.slot / 64] >> discard.slot % 64 & 1) != 0;
      if (!still_free || discard.version == 0) continue;
      for (auto& items : frame.items) items[count] = {.slot = discard.slot, .version = discard.version};
      ++count;
    }
    const Slice& slice = slices_[last.slice];
    const ReplicaMask asked = count == 0 ? ReplicaMask{0} : reachable(slice);
    if (asked == 0) continue;
    free_discard_frames_.pop_back();
    frame.outstanding = static_cast<unsigned>(std::popcount(asked));
    for (unsigned i = 0; i < kMostReplicas; ++i) {
      if ((asked & bit(i)) == 0) continue;
      frame.requests[i].slice = slice.id;
      frame.requests[i].items = std::span(frame.items[i]).first(count);
      outbox.discards.emplace_back(slice.replicas[i].entry.server, &frame.requests[i]);
    }
  }
}

void Core::give_back_all() {
  std::unique_lock lock(mutex_);
  Outbox outbox;
  for (std::size_t index = 0; index < slices_.size(); ++index) {
    if (slices_[index].state != SliceState::kReady) continue;
    for (std::uint64_t number = index * slots_per_slice_; number < (index + 1) * slots_per_slice_; ++number) {
      const SlotWord word = table_.load(number);
      if (word.state == SlotState::kFree) continue;
      table_.word(number).store(SlotWord{.generation = static_cast<std::uint8_t>(word.generation + 1)}.pack(),
                                std::memory_order_release);
      if (word.state == SlotState::kLive) --pages_;
    }
    give_back(index, outbox);
  }
  discards_.clear();
  post(lock, outbox);
}

void Core::discarded(DiscardFrame& frame) {
  const std::lock_guard lock(mutex_);
  if (--frame.outstanding != 0) return;
  free_discard_frames_.push_back(&frame);
  if (!discards_.empty()) wake();
}

Bytes Core::process_memory() const {
  Bytes sum{slices_.size() * sizeof(Slice) + write_frames_.size() * sizeof(WriteFrame) +
            read_requests_.size() * sizeof(ReadRequest) + read_jobs_.size() * sizeof(ReadJob) +
            discards_.capacity() * sizeof(Discard)};
  for (const Slice& slice : slices_) sum += Bytes{slice.free.size() * 8};
  for (const auto& codec : codecs_)
    if (codec != nullptr) sum += codec->memory();
  return sum + touched_;
}

StoreUsage Core::usage() const {
  const Bytes tables = table_.populated() + slice_table_.populated();
  const std::lock_guard lock(mutex_);
  StoreUsage usage;
  usage.capacity = Bytes{table_.header().data_bytes};
  usage.process_memory = process_memory();
  usage.metadata = tables + usage.process_memory;
  usage.pages = PageCount{pages_};
  usage.used = to_bytes(usage.pages) + usage.metadata;
  return usage;
}

RemoteFigures Core::figures() const {
  std::vector<RemoteServerFigures> servers;
  for (const Server& server : servers_) {
    if (server.name.empty()) continue;
    RemoteServerFigures figures{.server = server.name, .link = {}};
    // Without the lock: a link has one of its own.
    if (server.link != nullptr) figures.link = server.link->figures();
    servers.push_back(std::move(figures));
  }
  const std::lock_guard lock(mutex_);
  RemoteFigures sum = counted_;
  std::size_t at = 0;
  for (const Server& server : servers_) {
    if (server.name.empty()) continue;
    RemoteServerFigures& figures = servers[at++];
    figures.up = server.up;
    figures.draining = server.draining;
    figures.why = server.link == nullptr ? "it is not configured" : server.why;
    figures.slices = server.slices;
    figures.wrong_answers = server.wrong_answers;
    figures.hedges = server.hedges;
    figures.boots = server.boots;
  }
  sum.servers = std::move(servers);
  for (const Slice& slice : slices_) {
    if (slice.state != SliceState::kReady) continue;
    const auto replicas = static_cast<unsigned>(std::popcount(in_force(slice)));
    ++sum.slices;
    sum.degraded_slices += replicas < options_.replicas;
    sum.lost_slices += replicas == 0;
    sum.close_slices += !slice.apart;
  }
  sum.queued_pages = queued_pages_;
  sum.under_way_pages = under_way_pages_;
  return sum;
}

// Nothing that stands in the tables is believed further than it makes sense. A page that was being written is nobody's:
// its writer is gone.
void Core::recover_slot(std::uint64_t number, std::array<bool, StoredForm::kLastCodec + 1>& codecs) {
  SlotWord word = table_.load(number);
  Slice& slice = slices_[number / slots_per_slice_];
  const auto slot = static_cast<std::uint32_t>(number % slots_per_slice_);
  if (word.state == SlotState::kLive) {
    const StoredForm form = StoredForm::unpack(word.crc);
    const std::uint64_t version = table_.second(number).load(std::memory_order_relaxed);
    if (word.plausible() && form.plausible(word.crc) && version != 0 && version <= secret_->highest_inherited() &&
        slice.state == SliceState::kReady) {
      codecs[form.codec] = true;
      ++pages_;
    } else {
      word = {.state = SlotState::kBad};
    }
  } else if (!word.plausible()) {
    word = {.state = SlotState::kBad};
  } else if (word.state != SlotState::kBad) {
    if (word.state == SlotState::kStaged) ++word.generation;
    word = {.generation = word.generation};
  }
  table_.word(number).store(word.pack(), std::memory_order_relaxed);
  counted_.bad_entries += word.state == SlotState::kBad;
  if (word.state == SlotState::kFree || slice.state != SliceState::kReady) return;
  slice.free[slot / 64] &= ~(1ull << slot % 64);
  ++slice.used;
}

Result<> Core::recover() {
  const std::uint64_t words = (slots_per_slice_ + 63) / 64;
  for (std::size_t index = 0; index < slices_.size(); ++index) {
    SliceEntry entry;
    if (!slice_table_.load(index, entry)) continue;
    if (!slice_table_.plausible(entry)) {
      slice_table_.clear(index);
      ++counted_.bad_entries;
      continue;
    }
    Slice& slice = slices_[index];
    slice.state = SliceState::kReady;
    slice.id = entry.id;
    slice.free.assign(words, ~0ull);
    if (slots_per_slice_ % 64 != 0) slice.free.back() = (1ull << slots_per_slice_ % 64) - 1;
    std::vector<int> domains;
    for (unsigned i = 0; i < kMostReplicas; ++i) {
      slice.replicas[i].entry = entry.replicas[i];
      if (entry.replicas[i].state != ReplicaState::kInForce) continue;
      ++servers_[entry.replicas[i].server].slices;
      const int domain = servers_[entry.replicas[i].server].domain;
      slice.apart = slice.apart && std::ranges::find(domains, domain) == domains.end();
      domains.push_back(domain);
    }
  }
  std::array<bool, StoredForm::kLastCodec + 1> codecs{};
  table_.for_each_touched([&](std::uint64_t first, std::uint64_t end) {
    for (std::uint64_t number = first; number < end; ++number) recover_slot(number, codecs);
  });
  for (std::uint8_t kind = 1; kind <= StoredForm::kLastCodec; ++kind) {
    if (!codecs[kind]) continue;
    if (auto made = ensure_codec(kind, 0); !made) return made;
  }
  return {};
}

}  // namespace tidepool::pool::remote
