// The way out: slots are given, pages are sealed into frames, every replica in force is asked, and what all of them
// have is live.
#include <algorithm>

#include "pool/client/remote_core.h"

namespace tidepool::pool::remote {
namespace {

using protocol::ErrorCode;

// Compression that saves less is not worth its time on the way home.
constexpr std::size_t kMostCompressed = kPageSize - 512;

bool refusable(const WriteItem& item) {
  return item.buffer == nullptr || item.location != kNoLocation;
}

}  // namespace

void Core::unstage(std::span<WriteItem> items) {
  for (WriteItem& item : items) {
    item.buffer = nullptr;
    item.location = kNoLocation;
  }
}

void Core::submit_write(WriteBatch& batch) {
  std::unique_lock lock(mutex_);
  Outbox outbox;
  if (free_write_states_.empty())
    free_write_states_.push_back(write_states_.emplace_back(std::make_unique<WriteState>()).get());
  WriteState* state = free_write_states_.back();
  free_write_states_.pop_back();
  *state = {.batch = &batch, .next = 0, .remaining = batch.items.size() + 1};
  writes_.push_back(state);
  queued_pages_ += batch.items.size();
  for (WriteItem& item : batch.items) item.status = PageStatus::kPending;
  write_queue_.push_back(state);
  pump_writes(outbox);
  // One more than there are items, so that none of them ends the batch before all were looked at.
  if (--state->remaining == 0) {
    std::erase(writes_, state);
    std::erase(write_queue_, state);
    outbox.written.push(state);
  }
  post(lock, outbox);
}

// One item has its status; the last one ends the batch.
void Core::answer(WriteState* state, WriteItem& item, PageStatus status, Outbox& outbox) {
  item.status = status;
  if (status != PageStatus::kOk) item.location = kNoLocation;
  if (--state->remaining != 0) return;
  std::erase(writes_, state);
  std::erase(write_queue_, state);
  outbox.written.push(state);
}

// All of the oldest batch that has no slot yet.
void Core::fail_front(PageStatus status, Outbox& outbox) {
  WriteState* state = write_queue_.front();
  write_queue_.pop_front();
  const auto items = state->batch->items;
  while (state->next < items.size()) {
    WriteItem& item = items[state->next++];
    --queued_pages_;
    if (refusable(item)) {
      ++counted_.refused_writes;
      answer(state, item, PageStatus::kUnavailable, outbox);
    } else {
      answer(state, item, status, outbox);
    }
  }
}

void Core::pump_writes(Outbox& outbox) {
  while (!write_queue_.empty()) {
    if (write_queue_.front()->next == write_queue_.front()->batch->items.size()) {
      write_queue_.pop_front();
      continue;
    }
    if (free_frames_.empty()) return;
    std::size_t slice = 0;
    const MonoTime at = now();
    switch (find_room(slice, at, outbox)) {
      case Room::kWait:
        return;
      case Room::kFull:
        counted_.full_writes += write_queue_.front()->batch->items.size() - write_queue_.front()->next;
        fail_front(PageStatus::kFull, outbox);
        continue;
      case Room::kUnavailable:
        fail_front(PageStatus::kUnavailable, outbox);
        continue;
      case Room::kFound:
        break;
    }
    WriteFrame& frame = *free_frames_.back();
    frame.slice = slice;
    if (!fill_frame(frame, at, outbox)) continue;
    free_frames_.pop_back();
    outbox.frames.push(&frame);
  }
}

// As many pages as there are, go into one frame and have room in the slice. False when there were none.
bool Core::fill_frame(WriteFrame& frame, MonoTime at, Outbox& outbox) {
  Slice& slice = slices_[frame.slice];
  frame.id = slice.id;
  frame.asked = writable(slice, at);
  for (unsigned i = 0; i < kReplicaPlaces; ++i) {
    frame.servers[i] = slice.replicas[i].entry.server;
    frame.uses[i] = slice.replicas[i].use;
  }
  frame.outstanding = static_cast<unsigned>(std::popcount(frame.asked));
  frame.count = 0;
  frame.ended = false;
  while (!write_queue_.empty() && frame.count < kFramePages && slice.used < slots_per_slice_) {
    WriteState* state = write_queue_.front();
    if (state->next == state->batch->items.size()) {
      write_queue_.pop_front();
      continue;
    }
    WriteItem& item = state->batch->items[state->next++];
    --queued_pages_;
    if (refusable(item)) {
      ++counted_.refused_writes;
      answer(state, item, PageStatus::kUnavailable, outbox);
      continue;
    }
    const std::uint32_t slot = take_slot(slice);
    const std::uint64_t number = frame.slice * slots_per_slice_ + slot;
    SlotWord word{.generation = table_.load(number).generation, .state = SlotState::kStaged};
    // While a page is staged, its second word says where its buffer is to be found.
    table_.second(number).store(frame.number * kFramePages + frame.count, std::memory_order_release);
    table_.word(number).store(word.pack(), std::memory_order_release);
    item.location = make_location(number, word.generation);
    frame.items[frame.count++] = {.state = state, .item = &item, .slot = slot, .version = secret_->next_version()};
  }
  under_way_pages_ += frame.count;
  if (frame.count > frame.touched) {
    touched_ += Bytes{(frame.count - frame.touched) * kPageSize};
    frame.touched = frame.count;
  }
  return frame.count != 0;
}

// The page's stored form, sealed, at `to`.
void Core::make_ready(WriteFrame::Item& item, protocol::SliceId slice, std::byte* to) {
  const std::byte* from = item.item->buffer;
  item.form = {};
  if (options_.codec) {
    const auto kind = static_cast<std::uint8_t>(*options_.codec);
    const std::size_t size = codecs_[kind]->compress(from, std::span(to, kMostCompressed));
    if (size != 0) {
      item.form = {static_cast<std::uint16_t>(size), kind};
      from = to;
    }
  }
  item.sealed = sealers_->seal({slice, item.slot, item.version}, std::span(from, item.form.length), to, item.tag);
}

// Without the lock: until its last request is answered, a frame belongs to whoever took it from the outbox.
void Core::send_frame(WriteFrame* frame) {
  for (std::size_t i = 0; i < frame->count; ++i) {
    make_ready(frame->items[i], frame->id, frame->buffer + i * kPageSize);
  }
  std::size_t sealed = 0;
  for (unsigned replica = 0; replica < kReplicaPlaces; ++replica) {
    if ((frame->asked & bit(replica)) == 0) continue;
    WriteFrame::Sending& sending = frame->sendings[replica];
    sealed = 0;
    for (std::size_t i = 0; i < frame->count; ++i) {
      const WriteFrame::Item& item = frame->items[i];
      if (!item.sealed) continue;
      sending.of[sealed] = static_cast<std::uint8_t>(i);
      sending.items[sealed++] = {.slot = item.slot,
                                 .version = item.version,
                                 .length = item.form.length,
                                 .tag = item.tag,
                                 .payload = frame->buffer + i * kPageSize};
    }
    LinkRequest& request = sending.request;
    request.op = LinkOp::kWrite;
    request.slice = frame->id;
    request.items = std::span(sending.items).first(sealed);
    request.priority = Priority::kWriteBack;
    request.refusal = ErrorCode::kOk;
  }
  // From the first submit on, the frame may end at any moment after the last one.
  const ReplicaMask asked = frame->asked;
  for (unsigned replica = 0; replica < kReplicaPlaces; ++replica) {
    if ((asked & bit(replica)) == 0) continue;
    if (sealed == 0) {
      written(*frame, replica, LinkOutcome::kLost);
    } else {
      servers_[frame->servers[replica]].link->submit(frame->sendings[replica].request);
    }
  }
}

void Core::written(WriteFrame& frame, unsigned replica, LinkOutcome outcome) {
  std::unique_lock lock(mutex_);
  Outbox outbox;
  WriteFrame::Sending& sending = frame.sendings[replica];
  const Replica& place = slices_[frame.slice].replicas[replica];
  // One that is filling is told of what is written, and nothing depends on it.
  const bool counts = place.use == frame.uses[replica] && place.entry.state == ReplicaState::kInForce;
  for (std::size_t i = 0; i < sending.request.items.size(); ++i) {
    WriteFrame::Item& item = frame.items[sending.of[i]];
    if (outcome == LinkOutcome::kCancelled) item.withdrawn = PageStatus::kCancelled;
    // It has too much to do, or waits for its lease: no reason to do without it from now on.
    const ErrorCode said = outcome == LinkOutcome::kRefused ? sending.request.refusal : sending.items[i].status;
    const bool answers = outcome == LinkOutcome::kRefused || outcome == LinkOutcome::kAnswered;
    if (answers && said == ErrorCode::kExpired) expire(frame.slice, replica, frame.uses[replica]);
    if (answers && counts && (said == ErrorCode::kOverloaded || said == ErrorCode::kExpired))
      item.withdrawn = PageStatus::kUnavailable;
    if (outcome == LinkOutcome::kAnswered && sending.items[i].status == ErrorCode::kOk)
      item.acknowledged |= bit(replica);
  }
  if (outcome == LinkOutcome::kRefused) {
    refused(frame.slice, replica, frame.uses[replica], sending.request.refusal, outbox);
    if (counts && sending.request.refusal != ErrorCode::kOverloaded && sending.request.refusal != ErrorCode::kExpired)
      slices_[frame.slice].refused_until = now() + options_.refused_pause;
  }
  if (--frame.outstanding == 0) {
    end_frame(frame, outbox);
    // Sealing what comes next is not for the thread that brings answers.
    if (!write_queue_.empty()) wake();
  }
  post(lock, outbox);
}

// A page is live when every replica in force has it. Those that have it not are no longer in force until they do,
// unless nobody has it: then it was never written.
void Core::end_frame(WriteFrame& frame, Outbox& outbox) {
  Slice& slice = slices_[frame.slice];
  for (std::size_t i = 0; i < frame.count; ++i) {
    const WriteFrame::Item& item = frame.items[i];
    const std::uint64_t number = frame.slice * slots_per_slice_ + item.slot;
    SlotWord word = table_.load(number);
    ReplicaMask acknowledged = item.acknowledged;
    for (unsigned k = 0; k < kReplicaPlaces; ++k)
      if (slice.replicas[k].use != frame.uses[k]) acknowledged &= static_cast<ReplicaMask>(~bit(k));
    const ReplicaMask have = acknowledged & in_force(slice);
    if (item.withdrawn != PageStatus::kPending || have == 0) {
      word = {.generation = static_cast<std::uint8_t>(word.generation + 1)};
      table_.word(number).store(word.pack(), std::memory_order_release);
      free_slot(frame.slice, item.slot);
      answer(item.state, *item.item, item.withdrawn != PageStatus::kPending ? item.withdrawn : PageStatus::kUnavailable,
             outbox);
      continue;
    }
    for (unsigned k = 0; k < kReplicaPlaces; ++k) {
      Replica& replica = slice.replicas[k];
      if ((acknowledged & bit(k)) != 0) {
        settle_debt(replica, item.slot);
        continue;
      }
      if (replica.entry.state == ReplicaState::kInForce) begin_repair(frame.slice, k);
      if (replica.entry.state == ReplicaState::kFilling) owe(replica, item.slot);
    }
    // The version before the word: whoever finds the entry finds all of it.
    table_.second(number).store(item.version, std::memory_order_release);
    word = {.crc = item.form.pack(), .references = 1, .generation = word.generation, .state = SlotState::kLive};
    table_.word(number).store(word.pack(), std::memory_order_release);
    ++pages_;
    answer(item.state, *item.item, PageStatus::kOk, outbox);
  }
  under_way_pages_ -= frame.count;
  frame.ended = true;
  recycle(frame);
}

void Core::recycle(WriteFrame& frame) {
  if (frame.ended && frame.pins == 0) free_frames_.push_back(&frame);
}

void Core::cancel(WriteBatch& batch) {
  std::unique_lock lock(mutex_);
  Outbox outbox;
  const auto found = std::ranges::find(writes_, &batch, &WriteState::batch);
  if (found == writes_.end()) return;
  WriteState* state = *found;
  // Frames that hold nothing else and have not been sent come back whole.
  std::vector<WriteFrame*> own;
  for (const auto& frame : write_frames_) {
    if (frame->count == 0 || frame->ended || frame->outstanding == 0) continue;
    const auto items = std::span(frame->items).first(frame->count);
    if (!std::ranges::all_of(items, [&](const WriteFrame::Item& item) { return item.state == state; })) continue;
    ++frame->pins;
    own.push_back(frame.get());
  }
  // What has no slot yet.
  std::erase(write_queue_, state);
  ++state->remaining;
  while (state->next < batch.items.size()) {
    --queued_pages_;
    answer(state, batch.items[state->next++], PageStatus::kCancelled, outbox);
  }
  if (--state->remaining == 0) {
    std::erase(writes_, state);
    outbox.written.push(state);
  }
  post(lock, outbox);
  if (own.empty()) return;
  lock.unlock();
  for (WriteFrame* frame : own) {
    const ReplicaMask asked = frame->asked;
    for (unsigned replica = 0; replica < kReplicaPlaces; ++replica) {
      if ((asked & bit(replica)) != 0) servers_[frame->servers[replica]].link->cancel(frame->sendings[replica].request);
    }
  }
  lock.lock();
  for (WriteFrame* frame : own) {
    --frame->pins;
    recycle(*frame);
  }
}

}  // namespace tidepool::pool::remote
