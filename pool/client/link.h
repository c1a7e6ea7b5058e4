// The way to one memory server, as the remote store sees it. Implemented by server_link.h over sockets; by a simulated
// network in tests.
//
// A request, its items and their payloads belong to the link from submit to done. Every request is answered exactly
// once, also when the connection is lost, the server says nonsense or the link is closed. A link reconnects by itself;
// requests are not repeated: their owner knows whether they may be.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "base/clock.h"
#include "pool/protocol/messages.h"
#include "pool/store/page_store.h"

namespace tidepool::pool {

enum class LinkOp : std::uint8_t { kRead, kWrite, kDiscard };

enum class LinkOutcome : std::uint8_t {
  kAnswered,   // each item has a status of its own
  kRefused,    // the request as a whole: `refusal` says why
  kLost,       // no connection, or lost before the answer came: it may have been done or not
  kLate,       // no answer within the link's patience; it may still be done
  kCancelled,  // was not sent
};

struct LinkItem {
  std::uint32_t slot = 0;
  std::uint64_t version = 0;     // read: out
  std::uint16_t length = 0;      // of the payload; read: out, at most protocol::kSlotBytes
  protocol::Tag tag{};           // read: out
  std::byte* payload = nullptr;  // kSlotBytes of room; not used by a discard
  protocol::ErrorCode status = protocol::ErrorCode::kOk;
};

struct LinkRequest {
  LinkOp op = LinkOp::kRead;
  protocol::SliceId slice{};
  std::span<LinkItem> items;              // at most protocol::kMaxPagesPerFrame
  Priority priority = Priority::kDemand;  // demand has a connection of its own
  // Any thread, once; may submit other requests.
  std::function<void(LinkRequest&, LinkOutcome)> done;
  protocol::ErrorCode refusal = protocol::ErrorCode::kOk;
  MonoTime sent_at{};
};

enum class LinkState : std::uint8_t {
  kConnecting,
  kUp,
  kLost,  // was up, or could not be reached; it goes on trying
};

// What a client knows of a slice that it leased: enough to attach it again after a reconnect.
struct Lease {
  protocol::Claims claims;
  std::array<std::uint8_t, 32> secret{};
};

enum class AttachOutcome : std::uint8_t { kAttached, kCreated, kRefused, kLost };

// About one link. Any thread, never two at a time for one link; must not block.
struct LinkEvents {
  // The server answers. `same_boot`: it is the one that was known before, and has what it had; otherwise every slice
  // is gone from it.
  std::function<void(bool same_boot)> up;
  std::function<void(const std::string& why)> down;
  std::function<void()> draining;
};

struct LinkFigures {
  LinkState state = LinkState::kConnecting;
  std::string why;              // not up: the last error
  Nanoseconds typical_read{0};  // median of recent demand reads, from sending to answer; 0: none yet
  Nanoseconds slow_read{0};     // their 95th percentile: what is later than that may be hedged
  std::uint64_t requests = 0;   // since start, by answer
  std::uint64_t lost = 0;
  std::uint64_t late = 0;
  std::uint64_t refused = 0;
  std::uint64_t bad_frames = 0;  // that closed a connection
  std::uint64_t from_files = 0;  // of `requests`, reads of a slice that the server handed over
  std::uint64_t pages_under_way = 0;
  std::uint64_t bytes_sent = 0;
  std::uint64_t bytes_received = 0;
};

class Link {
 public:
  virtual ~Link() = default;

  virtual const std::string& server() const = 0;  // its configured name
  virtual void listen(LinkEvents events) = 0;     // before the first request

  // Remembered, and attached anew on every reconnect to the same boot. Answers once.
  virtual void attach(const Lease& lease, std::function<void(AttachOutcome, protocol::ErrorCode)> done) = 0;
  // The server is of this boot now, by the word of who knows: leases of another one are forgotten as soon as this one
  // answers, whatever its keys are. Any thread.
  virtual void expect_boot(const protocol::BootId&) {}
  // It is to be reached there from now on, by the word of who knows; a session elsewhere ends. The same address again:
  // nothing. Any thread. Errors: that is no address.
  virtual Result<> move_to(const std::string&) { return {}; }
  // Gives the slice back to the server. Best effort when the server is away.
  virtual void release(protocol::SliceId slice) = 0;

  // Never blocks: sends what the server's credit allows and keeps the rest in order of priority.
  virtual void submit(LinkRequest& request) = 0;
  // True when it had not been sent: done is called with kCancelled before this returns.
  virtual bool cancel(LinkRequest& request) = 0;

  // Readable when answers to demand reads may be there; the same descriptor for the link's whole life. take_answers
  // completes what has come, on the calling thread, and never waits. Any thread may call it; a thread of the link's own
  // does so when nobody else has for a while.
  virtual int answers_descriptor() const = 0;
  virtual void take_answers() = 0;

  virtual LinkFigures figures() const = 0;
};

}  // namespace tidepool::pool
