// Pages that nobody owns any more, and what a successor finds of the store.
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
    const ReplicaMask asked = count == 0 ? ReplicaMask{0} : writable(slice, now());
    if (asked == 0) continue;
    free_discard_frames_.pop_back();
    frame.outstanding = static_cast<unsigned>(std::popcount(asked));
    for (unsigned i = 0; i < kReplicaPlaces; ++i) {
      if ((asked & bit(i)) == 0) continue;
      frame.requests[i].slice = slice.id;
      frame.requests[i].items = std::span(frame.items[i]).first(count);
      outbox.requests.emplace_back(slice.replicas[i].entry.server, &frame.requests[i]);
    }
  }
}

void Core::give_back_all() {
  std::unique_lock lock(mutex_);
  Outbox outbox;
  for (std::size_t index = 0; index < slices_.size(); ++index) {
    if (slices_[index].state == SliceState::kOffered) give_back(index, outbox);
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
    for (unsigned i = 0; i < kReplicaPlaces; ++i) {
      const ReplicaEntry& left = entry.replicas[i];
      slice.replicas[i].entry = left;
      if (left.state == ReplicaState::kNone) continue;
      slice.replicas[i].use = ++uses_;
      if (left.state == ReplicaState::kOut) continue;
      ++servers_[left.server].slices;
      if (left.state == ReplicaState::kFilling) note_filling(index, i);
    }
    see_domains(slice);
  }
  std::array<bool, StoredForm::kLastCodec + 1> codecs{};
  table_.for_each_touched([&](std::uint64_t first, std::uint64_t end) {
    for (std::uint64_t number = first; number < end; ++number) recover_slot(number, codecs);
  });
  for (const auto& [index, replica] : filling_) owe_all(index, slices_[index].replicas[replica]);
  for (std::uint8_t kind = 1; kind <= StoredForm::kLastCodec; ++kind) {
    if (!codecs[kind]) continue;
    if (auto made = ensure_codec(kind, 0); !made) return made;
  }
  return {};
}

}  // namespace tidepool::pool::remote
