// A client of a memory server that says what a test wants it to say, one thing at a time, over a real socket.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "pool/protocol/codec.h"
#include "pool/protocol/frame_guard.h"
#include "pool/protocol/frame_reader.h"
#include "pool/protocol/handshake.h"

namespace tidepool::pool::server::testing {

inline constexpr std::uint32_t kEveryRight =
    protocol::kRightRead | protocol::kRightWrite | protocol::kRightRelease | protocol::kRightCreate;

protocol::Claims claims_for(std::uint64_t slice, std::uint8_t holder, std::uint32_t slots = 256,
                            std::uint64_t epoch = 1);
std::vector<std::byte> page_with(std::uint64_t seed, std::size_t bytes = protocol::kSlotBytes);

struct Message {
  protocol::Header header;
  std::vector<std::byte> body;
  bool tagged = false;
};

struct PageAnswer {
  protocol::ReadAnswer answer;
  std::vector<std::byte> content;
};

class MemdClient {
 public:
  // "unix:PATH" or "tcp:127.0.0.1:PORT". Not valid() when nobody listens.
  explicit MemdClient(const std::string& address, const protocol::ServerKey& key);
  bool valid() const { return fd_.valid(); }
  int fd() const { return fd_.get(); }

  // Each answers with the status of the answer; nothing when the connection ended instead.
  using Status = std::optional<protocol::ErrorCode>;
  Status hello(std::uint32_t features = protocol::kFeatureAuthenticatedFrames);
  Status attach(const protocol::Claims& claims);
  // hello and attach.
  Status open(const protocol::Claims& claims);
  Status write(const protocol::Claims& of, std::uint32_t slot, std::uint64_t version, std::span<const std::byte> page);
  Status read(const protocol::Claims& of, std::uint32_t slot, PageAnswer& page);
  Status discard(const protocol::Claims& of, std::uint32_t slot, std::uint64_t version);
  Status release(const protocol::Claims& of);
  Status ping();

  // Without waiting for answers.
  void send_read(const protocol::Claims& of, std::span<const protocol::ReadEntry> slots);
  // `frame` and what follows it, with a tag if there are any.
  bool send(protocol::Buffer frame);
  bool send_bytes(std::span<const std::byte> bytes);
  // The next frame; nothing when the connection ends or says what cannot be.
  std::optional<Message> receive();
  // The answer to the request `id`; what is said unasked is kept in `unasked`.
  std::optional<Message> await_answer(std::uint64_t id);
  // True when the server ends the connection, whatever it says before.
  bool await_end();

  protocol::Scope scope(const protocol::Claims& of) const { return {of.slice, of.epoch, boot}; }
  std::uint64_t next_id() { return ++id_; }
  static std::optional<PageAnswer> first_page(const Message& message);

  protocol::Welcome welcome;
  protocol::BootId boot{};
  bool created = false;  // by the last attach
  std::vector<Message> unasked;

 private:
  Status first_status(std::uint64_t id);

  protocol::ServerKey key_;
  UniqueFd fd_;
  protocol::FrameReader reader_;
  std::uint64_t id_ = 0;
  bool tags_ = false;
  protocol::Random random_{};
  protocol::TranscriptDigest transcript_{};
  std::optional<protocol::FrameGuard> to_server_;
  std::optional<protocol::FrameGuard> from_server_;
};

}  // namespace tidepool::pool::server::testing
