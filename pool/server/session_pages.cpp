// The requests of a session that touch pages, or give a slice back.
#include <array>
#include <cassert>
#include <cstring>

#include "pool/server/session.h"

namespace tidepool::pool::server {

using protocol::ErrorCode;
using protocol::Frame;
using protocol::MessageType;

namespace {

// Of one request; at most kMaxPagesPerFrame by the parsers.
class Statuses {
 public:
  explicit Statuses(LoopCounters& counters) : counters_(counters) {}
  void add(std::uint32_t slot, ErrorCode status) {
    count(counters_.answers[static_cast<std::size_t>(status)]);
    items_[size_++] = {slot, status};
    if (status == ErrorCode::kOk) ++done_;
  }
  std::span<const protocol::ItemStatus> items() const { return {items_.data(), size_}; }
  std::uint64_t done() const { return done_; }

 private:
  LoopCounters& counters_;
  std::array<protocol::ItemStatus, protocol::kMaxPagesPerFrame> items_;
  std::size_t size_ = 0;
  std::uint64_t done_ = 0;
};

}  // namespace

// Payloads are copied once, from the slice to where they are sent from: a page that is on its way out must not change
// under its tag, whoever writes to the slot meanwhile.
Session::Next Session::take_read(const Frame& frame, Outbox& out) {
  const auto request = protocol::parse_read(frame.body);
  if (!request) return refuse_malformed(frame, out);
  const Reached reached = reach(request->scope, protocol::kRightRead);
  if (reached.status != ErrorCode::kOk) return refuse(frame, reached.status, out);
  const std::size_t pages = request->entries.size();
  if (out.waiting_pages() + pages > credit_) return refuse(frame, ErrorCode::kOverloaded, out);

  const std::size_t head_bytes = protocol::kHeaderBytes + protocol::kCountBytes + pages * protocol::kReadAnswerBytes;
  const std::span<std::byte> room = out.room();
  if (room.size() < head_bytes + pages * protocol::kSlotBytes + protocol::kTagBytes) return Next::kCut;
  std::array<protocol::ReadAnswer, protocol::kMaxPagesPerFrame> answers;
  std::size_t at = head_bytes;
  std::uint64_t read = 0;
  for (std::size_t i = 0; i < pages; ++i) {
    answers[i] = reached.slice->read(request->scope.epoch, request->entries[i].slot, room.data() + at);
    at += answers[i].length;
    count(counters_.answers[static_cast<std::size_t>(answers[i].status)]);
    if (answers[i].status == ErrorCode::kOk) ++read;
  }
  count(counters_.pages_read, read);
  head_.clear();
  protocol::append_read_answer(head_, frame.header.id, std::span(answers).first(pages));
  assert(head_.size() == head_bytes);
  std::memcpy(room.data(), head_.data(), head_bytes);
  return finish(out, at, static_cast<std::uint32_t>(pages));
}

Session::Next Session::take_write(const Frame& frame, Outbox& out) {
  const auto request = protocol::parse_write(frame.body);
  if (!request) return refuse_malformed(frame, out);
  const Reached reached = reach(request->scope, protocol::kRightWrite);
  if (reached.status != ErrorCode::kOk) return refuse(frame, reached.status, out);
  Statuses statuses(counters_);
  for (auto walk = request->pages.walk(); walk.next();)
    statuses.add(walk.entry().slot, reached.slice->write(request->scope.epoch, walk.entry(), walk.payload().data()));
  count(counters_.pages_written, statuses.done());
  head_.clear();
  protocol::append_item_statuses(head_, MessageType::kWrite, frame.header.id, statuses.items());
  return reply(out);
}

Session::Next Session::take_discard(const Frame& frame, Outbox& out) {
  const auto request = protocol::parse_discard(frame.body);
  if (!request) return refuse_malformed(frame, out);
  const Reached reached = reach(request->scope, protocol::kRightWrite);
  if (reached.status != ErrorCode::kOk) return refuse(frame, reached.status, out);
  Statuses statuses(counters_);
  for (std::size_t i = 0; i < request->entries.size(); ++i) {
    const protocol::DiscardEntry entry = request->entries[i];
    statuses.add(entry.slot, reached.slice->discard(request->scope.epoch, entry));
  }
  count(counters_.pages_discarded, statuses.done());
  head_.clear();
  protocol::append_item_statuses(head_, MessageType::kDiscard, frame.header.id, statuses.items());
  return reply(out);
}

Session::Next Session::take_release(const Frame& frame, Outbox& out) {
  const auto scope = protocol::parse_release(frame.body);
  if (!scope) return refuse_malformed(frame, out);
  const Reached reached = reach(*scope, protocol::kRightRelease);
  if (reached.status != ErrorCode::kOk) return refuse(frame, reached.status, out);
  const ErrorCode status = state_.store->release(*reached.slice, scope->epoch);
  if (status == ErrorCode::kOk) {
    attached_.erase(static_cast<std::uint64_t>(scope->slice));
    state_.wake_scrubber();
  }
  return refuse(frame, status, out);
}

}  // namespace tidepool::pool::server
