// Connection: the way out.
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "pool/client/connection.h"

namespace tidepool::pool {
namespace {

using protocol::ErrorCode;
using protocol::kMaxPagesPerFrame;
using protocol::MessageType;

// Of kMaxUncreditedRequests, kept free of discards for ATTACH, RELEASE and PING.
constexpr std::size_t kForTheLink = 34;

MessageType type_of(LinkOp op) {
  switch (op) {
    case LinkOp::kRead:
      return MessageType::kRead;
    case LinkOp::kWrite:
      return MessageType::kWrite;
    case LinkOp::kDiscard:
      return MessageType::kDiscard;
  }
  return MessageType::kPing;
}
std::uint32_t credit_of(const LinkRequest& request) {
  return request.op == LinkOp::kDiscard ? 0 : static_cast<std::uint32_t>(request.items.size());
}
// Kept back at most: whoever takes them has something to do meanwhile.
constexpr std::size_t kMostKeptBack = 16;

bool makes_sense(const LinkRequest& request) {
  return !request.items.empty() && request.items.size() <= kMaxPagesPerFrame &&
         (request.op != LinkOp::kWrite ||
          std::ranges::all_of(request.items, [](const LinkItem& item) { return item.length <= protocol::kSlotBytes; }));
}

}  // namespace

thread_local Connection::Together* Connection::Together::innermost_ = nullptr;

Connection::Together::Together(Connection& connection) : connection_(connection), outer_(innermost_) {
  innermost_ = this;
}

Connection::Together::~Together() {
  innermost_ = outer_;
  if (!kept_) return;
  const std::lock_guard lock(connection_.mutex_);
  if (connection_.kept_back_ != 0 && !connection_.broken_) connection_.flush();
}

bool Connection::keep_back() const {
  Together* const together = Together::innermost_;
  if (together == nullptr || &together->connection_ != this) return false;
  return together->kept_ = true;
}

void Connection::submit(LinkRequest& request) {
  Endings endings;
  {
    const std::lock_guard lock(mutex_);
    const auto refuse = [&](ErrorCode why) {
      request.refusal = why;
      endings.add(request, LinkOutcome::kRefused);
    };
    request.sent_at = monotonic_now();
    if (!serving_) {
      endings.add(request, LinkOutcome::kLost);
    } else if (!makes_sense(request)) {
      refuse(ErrorCode::kMalformed);
    } else if (!slices_.contains(request.slice)) {
      refuse(ErrorCode::kNoSuchSlice);
    } else if (queue_.lets_pass(request.priority) && may_send(request)) {
      send(request);
    } else if (!queue_.push(request)) {
      refuse(ErrorCode::kOverloaded);
    }
  }
  endings.tell(counters_);
}

bool Connection::may_send(const LinkRequest& request) const {
  if (broken_ || (!unsent_.empty() && kept_back_ == 0) || table_.full()) return false;
  const std::uint32_t pages = credit_of(request);
  if (pages == 0) return table_.without_credit() + kForTheLink < protocol::kMaxUncreditedRequests;
  return table_.credit_pages() + pages <= credit_;
}

void Connection::send_from_queue() {
  while (!queue_.empty() && may_send(queue_.front())) {
    LinkRequest& request = queue_.front();
    queue_.pop();
    send(request);
  }
}

RequestTable::Id Connection::enter(const SentRequest& sent) {
  if (table_.size() == 0) due_since_ = sent.sent_at;
  return table_.add(sent);
}

void Connection::send(LinkRequest& request) {
  request.sent_at = monotonic_now();
  const RequestTable::Id id = enter({.type = type_of(request.op),
                                     .request = &request,
                                     .credit_pages = credit_of(request),
                                     .sent_at = request.sent_at});
  const auto lease = slices_.find(request.slice);
  // One that waited while its slice was given back goes out all the same, and is refused by the server.
  const protocol::Scope scope{request.slice, lease == slices_.end() ? protocol::LeaseEpoch{} : lease->second,
                              greeting_.welcome.boot};
  const std::size_t count = request.items.size();
  std::array<protocol::Piece, kMaxPagesPerFrame> payloads;
  std::size_t pieces = 0;
  scratch_.clear();
  switch (request.op) {
    case LinkOp::kRead: {
      std::array<protocol::ReadEntry, kMaxPagesPerFrame> entries;
      for (std::size_t i = 0; i < count; ++i) entries[i] = {request.items[i].slot};
      protocol::append_read(scratch_, id, scope, std::span(entries).first(count));
      break;
    }
    case LinkOp::kWrite: {
      std::array<protocol::WriteEntry, kMaxPagesPerFrame> entries;
      for (std::size_t i = 0; i < count; ++i) {
        const LinkItem& item = request.items[i];
        entries[i] = {.slot = item.slot, .version = item.version, .length = item.length, .tag = item.tag};
        payloads[pieces++] = {item.payload, item.length};
      }
      protocol::append_write(scratch_, id, scope, std::span(entries).first(count));
      break;
    }
    case LinkOp::kDiscard: {
      std::array<protocol::DiscardEntry, kMaxPagesPerFrame> entries;
      for (std::size_t i = 0; i < count; ++i) entries[i] = {request.items[i].slot, request.items[i].version};
      protocol::append_discard(scratch_, id, scope, std::span(entries).first(count));
      break;
    }
  }
  transmit(std::span(payloads).first(pieces), &request);
}

void Connection::transmit(std::span<const protocol::Piece> payloads, const LinkRequest* owner) {
  if (broken_) return;
  protocol::Tag tag{};
  if (keyed_ && !outgoing_->seal(scratch_, payloads, tag)) return broke("a frame could not be authenticated");
  const std::span<const std::byte> tag_bytes = std::as_bytes(std::span(tag)).first(keyed_ ? tag.size() : 0);
  if (payloads.empty() && (unsent_.empty() || kept_back_ != 0) && keep_back()) {
    unsent_.hold(scratch_, {}, tag_bytes, 0, nullptr);
    if (++kept_back_ == kMostKeptBack) flush();
    return;
  }
  if (kept_back_ != 0) flush();
  if (broken_) return;
  std::size_t sent = 0;
  if (unsent_.empty()) {
    std::array<iovec, Unsent::kMostParts> parts{};
    std::size_t count = 0;
    const auto add = [&](std::span<const std::byte> bytes) {
      if (!bytes.empty()) parts[count++] = {const_cast<std::byte*>(bytes.data()), bytes.size()};
    };
    add(scratch_);
    for (const protocol::Piece payload : payloads) add(payload);
    add(tag_bytes);
    const auto taken = put(std::span(parts).first(count));
    if (!taken) return;
    sent = *taken;
  }
  unsent_.hold(scratch_, payloads, tag_bytes, sent, owner);
  arm();
}

// What the socket takes of it now; nothing when the connection broke.
std::optional<std::size_t> Connection::put(std::span<iovec> parts) {
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = parts.size();
  ssize_t taken = -1;
  do {
    taken = ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  } while (taken < 0 && errno == EINTR);
  if (taken < 0 && errno != EAGAIN) {
    broke(std::string("cannot send: ") + std::strerror(errno));
    return std::nullopt;
  }
  const std::size_t sent = taken < 0 ? 0 : static_cast<std::size_t>(taken);
  counters_.bytes_sent += sent;
  return sent;
}

void Connection::flush() {
  kept_back_ = 0;
  std::array<iovec, Unsent::kMostParts> parts{};
  while (!unsent_.empty()) {
    const auto sent = put(std::span(parts).first(unsent_.parts(parts)));
    if (!sent) return;
    if (*sent == 0) break;
    unsent_.sent(*sent);
  }
  arm();
}

void Connection::take_leave(const LinkRequest* request) {
  if (request != nullptr && unsent_.owner() == request) unsent_.give_back();
}

void Connection::arm() {
  const std::uint32_t wanted = events_ | (unsent_.empty() ? 0u : static_cast<std::uint32_t>(EPOLLOUT));
  if (wanted == armed_) return;
  epoll_event event{.events = wanted, .data = {.u64 = key_}};
  if (::epoll_ctl(epoll_, EPOLL_CTL_MOD, socket_.get(), &event) != 0)
    return broke(std::string("its socket cannot be watched: ") + std::strerror(errno));
  armed_ = wanted;
}

}  // namespace tidepool::pool
