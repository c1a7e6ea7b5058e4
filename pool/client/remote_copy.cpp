// Pages on their way to replicas that lack them. They are copied as they are sealed: slice, slot and version stay, so a
// seal is good at every replica, and a server refuses what is older than what it has. What is not right is not copied.
#include <algorithm>
#include <array>
#include <cstring>

#include "pool/client/remote_core.h"

namespace tidepool::pool::remote {

using protocol::ErrorCode;
using Phase = CopyFrame::Phase;

bool Core::still(const CopyFrame& frame) const {
  const Slice& slice = slices_[frame.slice];
  return slice.state == SliceState::kReady && slice.id == frame.id && slice.replicas[frame.to].use == frame.to_use &&
         slice.replicas[frame.to].entry.state == ReplicaState::kFilling;
}

// Only this thread of work() moves a frame out of kChecking.
void Core::check_copies() {
  for (CopyFrame& frame : copy_frames_) {
    {
      const std::lock_guard lock(mutex_);
      if (frame.phase != Phase::kRead) continue;
      frame.phase = Phase::kChecking;
    }
    std::array<bool, kFramePages> right{};
    std::array<std::byte, kPageSize> plain;
    for (std::size_t i = 0; i < frame.count && frame.outcome == LinkOutcome::kAnswered; ++i) {
      const CopyFrame::Item& wanted = frame.wanted[i];
      const LinkItem& answer = frame.items[i];
      right[i] = answer.status == ErrorCode::kOk && answer.slot == wanted.slot && answer.version == wanted.version &&
                 answer.length == wanted.form.length &&
                 sealers_->open({frame.id, wanted.slot, wanted.version}, std::span(answer.payload, answer.length),
                                answer.tag, plain.data());
    }
    ::explicit_bzero(plain.data(), plain.size());
    std::unique_lock lock(mutex_);
    Outbox outbox;
    Slice& slice = slices_[frame.slice];
    const bool same_source = slice.id == frame.id && slice.replicas[frame.from].use == frame.from_use;
    if (frame.outcome == LinkOutcome::kRefused && same_source)
      refused(frame.slice, frame.from, frame.from_use, frame.request.refusal, outbox);
    std::size_t kept = 0;
    for (std::size_t i = 0; i < frame.count; ++i) {
      const CopyFrame::Item wanted = frame.wanted[i];
      const std::uint64_t number = frame.slice * slots_per_slice_ + wanted.slot;
      const bool live = slice.id == frame.id && table_.load(number).state == SlotState::kLive &&
                        table_.second(number).load(std::memory_order_acquire) == wanted.version;
      if (live && !right[i] && same_source && frame.outcome == LinkOutcome::kAnswered &&
          frame.items[i].status != ErrorCode::kOverloaded)
        ++servers_[slice.replicas[frame.from].entry.server].wrong_answers;
      if (!live || !right[i]) continue;
      frame.wanted[kept] = wanted;
      frame.items[kept++] = frame.items[i];
    }
    frame.count = kept;
    if (kept == 0 || closing_ || !still(frame) || (writable(slice, now()) & bit(frame.to)) == 0) {
      frame.phase = Phase::kIdle;
    } else {
      frame.phase = Phase::kWriting;
      frame.request.op = LinkOp::kWrite;
      frame.request.items = std::span(frame.items).first(kept);
      frame.request.refusal = ErrorCode::kOk;
      outbox.requests.emplace_back(slice.replicas[frame.to].entry.server, &frame.request);
    }
    post(lock, outbox);
  }
}

void Core::copied(CopyFrame& frame, LinkOutcome outcome) {
  const std::lock_guard lock(mutex_);
  frame.outcome = outcome;
  frame.phase = frame.phase == Phase::kReading ? Phase::kRead : Phase::kWritten;
  wake();
}

// What the replica has now is owed no more. STALE_VERSION: it has that very version, for there is no higher one of a
// page that lives.
void Core::end_copy(CopyFrame& frame, Outbox& outbox) {
  frame.phase = Phase::kIdle;
  if (!still(frame)) return;
  Slice& slice = slices_[frame.slice];
  Replica& replica = slice.replicas[frame.to];
  if (frame.outcome == LinkOutcome::kRefused) {
    const ErrorCode why = frame.request.refusal;
    refused(frame.slice, frame.to, frame.to_use, why, outbox);
    if (why != ErrorCode::kOverloaded && why != ErrorCode::kExpired && still(frame))
      abandon(frame.slice, frame.to, outbox);
    return;
  }
  if (frame.outcome != LinkOutcome::kAnswered) return;
  for (std::size_t i = 0; i < frame.count; ++i) {
    const CopyFrame::Item& item = frame.wanted[i];
    const ErrorCode status = frame.items[i].status;
    if (status == ErrorCode::kExpired) {
      expire(frame.slice, frame.to, frame.to_use);
    } else if (status == ErrorCode::kFull || status == ErrorCode::kOutOfRange) {
      servers_[replica.entry.server].refused_until = now() + options_.refused_pause;
      return abandon(frame.slice, frame.to, outbox);
    }
    if (status != ErrorCode::kOk && status != ErrorCode::kStaleVersion) continue;
    const std::uint64_t number = frame.slice * slots_per_slice_ + item.slot;
    if (table_.load(number).state != SlotState::kLive ||
        table_.second(number).load(std::memory_order_acquire) != item.version)
      continue;
    counted_.rebuilt_pages += status == ErrorCode::kOk && replica.owes(item.slot);
    settle_debt(replica, item.slot);
  }
}

void Core::tend_copies(Outbox& outbox) {
  bool idle = true;
  for (CopyFrame& frame : copy_frames_) {
    if (frame.phase == Phase::kWritten) end_copy(frame, outbox);
    idle = idle && frame.phase == Phase::kIdle;
  }
  put_in_force_what_is_full();
  copying_ = !idle;
  if (filling_.empty() || closing_) {
    if (idle) copy_buffers_.reset();
    return;
  }
  // Whoever waits for a page goes first.
  if (!waiting_demand_.empty()) return;
  for (CopyFrame& frame : copy_frames_) {
    if (frame.phase != Phase::kIdle) continue;
    bool begun = false;
    for (std::size_t tries = filling_.size(); tries > 0 && !begun; --tries) {
      const auto [index, to] = filling_[copy_turn_ % filling_.size()];
      begun = begin_copy(frame, index, to, outbox);
      if (!begun) ++copy_turn_;
    }
    copying_ = copying_ || begun;
  }
}

// False: there is nothing to copy there now, or nobody to have it from.
bool Core::begin_copy(CopyFrame& frame, std::size_t index, unsigned to, Outbox& outbox) {
  Slice& slice = slices_[index];
  Replica& replica = slice.replicas[to];
  if (slice.state != SliceState::kReady || replica.entry.state != ReplicaState::kFilling || replica.owing == 0 ||
      (writable(slice, now()) & bit(to)) == 0)
    return false;
  const ReplicaMask sources = in_force(slice) & answering(slice);
  if (sources == 0) return false;
  if (!copy_buffers_.valid()) {
    auto buffers = Mapping::anonymous(Bytes{kCopyFrames * kFrameBytes});
    if (!buffers) return false;
    copy_buffers_ = std::move(*buffers);
  }
  frame.buffer = copy_buffers_.data() + static_cast<std::size_t>(&frame - copy_frames_.data()) * kFrameBytes;
  // From where the last frame ended; at the end it begins anew, once what is under way has come back.
  std::size_t slot = replica.next_slot;
  std::size_t count = 0;
  while (slot < slots_per_slice_ && count < kFramePages) {
    const std::uint64_t bits = replica.owed[slot / 64] >> slot % 64;
    if (bits == 0) {
      slot = (slot / 64 + 1) * 64;
      continue;
    }
    slot += static_cast<std::size_t>(std::countr_zero(bits));
    const std::uint64_t number = index * slots_per_slice_ + slot;
    const SlotWord found = table_.load(number);
    const auto wanted = static_cast<std::uint32_t>(slot++);
    if (found.state != SlotState::kLive) continue;  // it is being written
    frame.wanted[count] = {wanted, table_.second(number).load(std::memory_order_acquire),
                           StoredForm::unpack(found.crc)};
    frame.items[count] = {.slot = wanted, .payload = frame.buffer + count * kPageSize};
    ++count;
  }
  if (count == 0) {
    const bool others = std::ranges::any_of(copy_frames_, [](const auto& each) { return each.phase != Phase::kIdle; });
    if (!others) {
      replica.next_slot = 0;
      ++replica.rounds;
    }
    return false;
  }
  if (options_.copying != nullptr && !options_.copying->take(Bytes{count * kPageSize}, now())) {
    copying_ = true;
    return false;
  }
  replica.next_slot = slot;
  // Another source with every round: what one of them has wrong, another one may have right.
  unsigned from = first_of(sources);
  for (std::uint64_t skip = replica.rounds % static_cast<unsigned>(std::popcount(sources)); skip > 0; --skip)
    from = first_of(sources & static_cast<ReplicaMask>(~((2u << from) - 1)));
  frame.phase = Phase::kReading;
  frame.count = count;
  frame.slice = index;
  frame.id = slice.id;
  frame.from = from;
  frame.to = to;
  frame.from_use = slice.replicas[from].use;
  frame.to_use = replica.use;
  frame.request.op = LinkOp::kRead;
  frame.request.slice = slice.id;
  frame.request.items = std::span(frame.items).first(count);
  frame.request.refusal = ErrorCode::kOk;
  outbox.requests.emplace_back(slice.replicas[from].entry.server, &frame.request);
  return true;
}

}  // namespace tidepool::pool::remote
