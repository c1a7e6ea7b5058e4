#include "pool/server/client_connection.h"

#include <liburing.h>
#include <sys/socket.h>

#include <cerrno>

namespace tidepool::pool::server {

using protocol::FrameReader;

namespace {

constexpr std::size_t kWorthWaiting = 16u << 10;

}  // namespace

ClientConnection::ClientConnection(UniqueFd socket, const PeerRules& rules, ServerState& state, LoopCounters& counters,
                                   MonoTime now)
    : socket_(std::move(socket)),
      state_(state),
      counters_(counters),
      session_(state, counters, rules),
      out_(session_.credit()),
      began_(now),
      progress_(now) {}

ClientConnection::~ClientConnection() {
  if (counted_pending_) state_.pending.fetch_sub(1);
  state_.connections.fetch_sub(1);
}

bool ClientConnection::wants_receive() const {
  return phase_ == Phase::kOpen && !receiving_ && !waiting_;
}
bool ClientConnection::wants_send() const {
  return phase_ != Phase::kCut && !sending_ && !out_.empty();
}

void ClientConnection::prepare_receive(io_uring_sqe& entry, bool poll_first) {
  const std::span<std::byte> room = reader_.room();
  // The rest of a long frame comes in one piece, however many the sender makes of it.
  const std::size_t missing = reader_.missing();
  const bool whole = missing >= kWorthWaiting && missing <= room.size();
  io_uring_prep_recv(&entry, socket_.get(), room.data(), whole ? missing : room.size(), whole ? MSG_WAITALL : 0);
  // An attempt that is known to find nothing is spared.
  if (poll_first && !more_to_read_) entry.ioprio |= IORING_RECVSEND_POLL_FIRST;
  receiving_ = true;
}

void ClientConnection::prepare_send(io_uring_sqe& entry, MonoTime now) {
  const std::span<const std::byte> bytes = out_.next();
  if (out_.descriptors().empty()) {
    io_uring_prep_send(&entry, socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  } else {
    io_uring_prep_sendmsg(&entry, socket_.get(), pack(bytes), MSG_NOSIGNAL);
  }
  sending_ = true;
  progress_ = now;
}

const msghdr* ClientConnection::pack(std::span<const std::byte> bytes) {
  if (parcel_ == nullptr) parcel_ = std::make_unique<Parcel>();
  Parcel& parcel = *parcel_;
  parcel.bytes = {const_cast<std::byte*>(bytes.data()), bytes.size()};
  parcel.descriptors.clear();
  for (const UniqueFd& each : out_.descriptors()) parcel.descriptors.push_back(each.get());
  parcel.message = {};
  parcel.message.msg_iov = &parcel.bytes;
  parcel.message.msg_iovlen = 1;
  kernel::attach_descriptors(parcel.message, parcel.control, parcel.descriptors);
  return &parcel.message;
}

void ClientConnection::received(int result, bool more) {
  receiving_ = false;
  more_to_read_ = more;
  if (result == -EINTR || result == -EAGAIN) return;
  if (result <= 0) return cut();
  count(counters_.bytes_received, static_cast<std::uint64_t>(result));
  reader_.received(static_cast<std::size_t>(result));
  work();
}

void ClientConnection::sent(int result, MonoTime now) {
  sending_ = false;
  progress_ = now;
  if (result == -EINTR || result == -EAGAIN) return;
  if (result <= 0) return cut();
  count(counters_.bytes_sent, static_cast<std::uint64_t>(result));
  out_.sent(static_cast<std::size_t>(result));
  if (phase_ == Phase::kClosing && out_.empty()) return cut();
  work();
}

void ClientConnection::work() {
  if (phase_ == Phase::kOpen && out_.room().size() >= 2 * Session::kSmallAnswer) follow(session_.announce(out_));
  while (phase_ == Phase::kOpen) {
    if (!waiting_) {
      protocol::Frame frame;
      const FrameReader::Got got = reader_.next(frame);
      if (got == FrameReader::Got::kMore) return;
      if (got == FrameReader::Got::kBad) {
        if (out_.room().size() < Session::kSmallAnswer) return cut();
        return follow(session_.malformed(out_));
      }
      waiting_ = frame;
    }
    if (out_.room().size() < session_.room_for_answer(waiting_->header, out_)) return;
    const protocol::Frame frame = *waiting_;
    waiting_.reset();
    follow(session_.handle(frame, out_));
    note_admission();
  }
}

void ClientConnection::note_admission() {
  if (!counted_pending_ || !session_.admitted()) return;
  counted_pending_ = false;
  state_.pending.fetch_sub(1);
}

void ClientConnection::follow(Session::Next next) {
  if (next == Session::Next::kGoOn) return;
  if (next == Session::Next::kCut || (out_.empty() && !sending_)) return cut();
  phase_ = Phase::kClosing;
}

void ClientConnection::look_at_clock(MonoTime now, const ConnectionLimits& limits) {
  if (phase_ == Phase::kCut) return;
  if (!session_.admitted() && now - began_ > limits.handshake_time) {
    count(counters_.cut_silent);
    return cut();
  }
  if (sending_ && now - progress_ > limits.stall_time) {
    count(counters_.cut_slow);
    return cut();
  }
  work();
}

void ClientConnection::cut() {
  if (phase_ == Phase::kCut) return;
  phase_ = Phase::kCut;
  // What is under way ends with an error, or with less than was asked for.
  ::shutdown(socket_.get(), SHUT_RDWR);
}

bool ClientConnection::finished() const {
  return phase_ == Phase::kCut && !receiving_ && !sending_;
}

}  // namespace tidepool::pool::server
