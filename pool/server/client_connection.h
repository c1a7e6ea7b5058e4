// One client's connection in its loop: when to receive, when to send, when to give up.
//
// At most one receive and one send are under way. Nothing is received while answers wait for a client that does not
// read them. Not thread-safe.
#pragma once

#include <sys/socket.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/unique_fd.h"
#include "kmod-interfaces/fd_passing.h"
#include "pool/server/session.h"

struct io_uring_sqe;

namespace tidepool::pool::server {

struct ConnectionLimits {
  std::chrono::milliseconds handshake_time{10000};  // to show a token
  std::chrono::milliseconds stall_time{30000};      // to read some of the answers
};

class ClientConnection {
 public:
  ClientConnection(UniqueFd socket, const PeerRules& rules, ServerState& state, LoopCounters& counters, MonoTime now);
  ~ClientConnection();
  ClientConnection(const ClientConnection&) = delete;
  ClientConnection& operator=(const ClientConnection&) = delete;

  // What to submit now; each answers false when there is nothing. Afterwards that operation is under way.
  bool wants_receive() const;
  bool wants_send() const;
  // `poll_first`: the kernel can be told that there is nothing to read yet.
  void prepare_receive(io_uring_sqe& entry, bool poll_first);
  void prepare_send(io_uring_sqe& entry, MonoTime now);
  // The operation has ended; `result` as io_uring tells it. `more`: the socket has more to read already.
  void received(int result, bool more);
  void sent(int result, MonoTime now);

  // Answers what has come, as far as there is room.
  void work();
  // Ends it when its time is over.
  void look_at_clock(MonoTime now, const ConnectionLimits& limits);
  // Ends it: what is under way is cut off.
  void cut();
  // Nothing is under way and nothing will be.
  bool finished() const;

  bool touched = false;  // for its loop

 private:
  enum class Phase : std::uint8_t { kOpen, kClosing, kCut };

  const msghdr* pack(std::span<const std::byte> bytes);
  void follow(Session::Next next);
  void note_admission();

  UniqueFd socket_;
  ServerState& state_;
  LoopCounters& counters_;
  Session session_;
  Outbox out_;
  protocol::FrameReader reader_;
  std::optional<protocol::Frame> waiting_;  // read, and without room for its answer
  // A message with descriptors, while it is being sent.
  struct Parcel {
    msghdr message{};
    iovec bytes{};
    alignas(cmsghdr) std::array<std::byte, kernel::control_bytes(protocol::kMaxUncreditedRequests)> control{};
    std::vector<int> descriptors;
  };
  std::unique_ptr<Parcel> parcel_;
  Phase phase_ = Phase::kOpen;
  bool receiving_ = false;
  bool sending_ = false;
  bool more_to_read_ = true;
  bool counted_pending_ = true;
  MonoTime began_;
  MonoTime progress_;  // of the send that is under way
};

}  // namespace tidepool::pool::server
