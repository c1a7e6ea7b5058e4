// The tag behind a frame: GMAC (AES-256-GCM over nothing but authenticated data) with the frame's number in its
// direction as nonce. A frame that was altered, repeated, left out, moved, or turned back to its sender does not pass.
//
// Each connection has two guards, one per direction, each with a key of its own (handshake.h); both sides count the
// frames with tags from 0. Made once; sealing and checking allocate nothing. Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/result.h"
#include "pool/protocol/aes_gcm.h"
#include "pool/protocol/handshake.h"
#include "pool/protocol/messages.h"

namespace tidepool::protocol {

class FrameGuard {
 public:
  static Result<FrameGuard> make(const FrameKey& key);

  // `head` is the frame's header and as much of its body as lies behind it, `rest` the other pieces of the body in
  // order. Sets kTagFlag in the header. False when the cipher fails: the frame must not be sent.
  [[nodiscard]] bool seal(std::span<std::byte> head, std::span<const Piece> rest, Tag& tag);
  [[nodiscard]] bool seal(std::span<std::byte> head, Tag& tag) { return seal(head, {}, tag); }

  // Whether the frame in `pieces` (header and body) is the one that comes next. When it is not, neither the frame nor
  // anything after it means anything: the connection is to be closed.
  [[nodiscard]] bool check(std::span<const Piece> pieces, std::span<const std::byte> tag);
  [[nodiscard]] bool check(Piece head, Piece body, std::span<const std::byte> tag) {
    const std::array<Piece, 2> pieces{head, body};
    return check(pieces, tag);
  }

 private:
  explicit FrameGuard(std::unique_ptr<AesGcm> cipher) : cipher_(std::move(cipher)) {}
  bool next_tag(std::span<const Piece> first, std::span<const Piece> rest, Tag& tag);

  std::unique_ptr<AesGcm> cipher_;
  std::uint64_t frames_ = 0;
};

}  // namespace tidepool::protocol
