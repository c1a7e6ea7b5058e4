// What a memory server says to one client: frames in, frames out, no I/O. docs/protocol.md has the rules.
//
// Not thread-safe; belongs to the loop of its connection.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <unordered_map>

#include "pool/protocol/codec.h"
#include "pool/protocol/frame_guard.h"
#include "pool/protocol/frame_reader.h"
#include "pool/protocol/handshake.h"
#include "pool/server/outbox.h"
#include "pool/server/server_state.h"

namespace tidepool::pool::server {

// What holds for all connections to one listening socket.
struct PeerRules {
  bool must_authenticate = true;  // a client that does not want tags behind its frames is refused
  bool takes_files = false;       // descriptors reach it
};

class Session {
 public:
  enum class Next : std::uint8_t {
    kGoOn,
    kClose,  // once what is in the outbox was sent
    kCut,    // at once
  };

  Session(ServerState& state, LoopCounters& counters, const PeerRules& rules);

  // Room that the answer may need in the outbox; there must be as much when handle() is called.
  std::size_t room_for_answer(const protocol::Header& header, const Outbox& out) const;
  static constexpr std::size_t kSmallAnswer = 1024;

  Next handle(const protocol::Frame& frame, Outbox& out);
  // What the server says unasked and has not said yet; needs kSmallAnswer of room.
  Next announce(Outbox& out);
  // The stream has come to something that is no frame.
  Next malformed(Outbox& out);

  bool admitted() const { return admitted_; }  // it has proven a token
  std::uint32_t credit() const { return credit_; }

 private:
  struct Attachment {
    std::shared_ptr<Slice> slice;
    protocol::LeaseEpoch epoch{};
    std::uint32_t rights = 0;
  };
  struct Reached {
    protocol::ErrorCode status;
    Slice* slice;
  };

  Next take_hello(const protocol::Frame& frame, Outbox& out);
  Next take_attach(const protocol::Frame& frame, Outbox& out);
  Next attach(const protocol::Attach& attach, std::uint64_t id, Outbox& out);
  Next take_read(const protocol::Frame& frame, Outbox& out);
  Next take_write(const protocol::Frame& frame, Outbox& out);
  Next take_discard(const protocol::Frame& frame, Outbox& out);
  Next take_release(const protocol::Frame& frame, Outbox& out);
  Next dispatch(const protocol::Frame& frame, Outbox& out);

  bool begin_tags(const protocol::LeaseSecret& secret);
  Reached reach(const protocol::Scope& scope, std::uint32_t right);
  Next refuse(const protocol::Frame& frame, protocol::ErrorCode why, Outbox& out);
  Next refuse_malformed(const protocol::Frame& frame, Outbox& out);
  // Sends what was put into head_.
  Next reply(Outbox& out);
  // Tag behind a frame of `bytes` that lies in the outbox's room.
  Next finish(Outbox& out, std::size_t bytes, std::uint32_t pages);

  ServerState& state_;
  LoopCounters& counters_;
  const PeerRules rules_;
  const std::uint32_t credit_;  // granted at first: what the outbox has room for
  std::uint32_t announced_credit_;
  bool announced_draining_ = false;
  bool welcomed_ = false;
  bool tags_ = false;   // agreed on
  bool files_ = false;  // likewise
  bool admitted_ = false;
  unsigned bad_tokens_ = 0;
  protocol::Random client_random_{};
  protocol::Random server_random_{};
  protocol::TranscriptDigest transcript_{};
  std::optional<protocol::FrameGuard> from_client_;
  std::optional<protocol::FrameGuard> to_client_;
  std::unordered_map<std::uint64_t, Attachment> attached_;
  protocol::Buffer head_;  // of the answer that is being made
};

}  // namespace tidepool::pool::server
