// The messages of messages.h as bytes, and back: docs/protocol.md has the tables.
//
// Appenders put a frame without its tag at the end of a buffer that the caller keeps and clears, so that nothing is
// allocated once it has grown. Frames with pages end before the payloads: these follow on the wire, in the order of the
// entries, from wherever they lie. Appenders expect what messages.h allows (1 to kMaxPagesPerFrame entries, lengths up
// to kSlotBytes).
//
// Parsers take a body as it arrived and are total. They accept fixed messages that are longer than they know (a later
// version's additions), and messages with pages only when every byte is accounted for. Views show the bytes that were
// parsed and live no longer than these. All functions are thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <vector>

#include "pool/protocol/messages.h"

namespace tidepool::protocol {

using Buffer = std::vector<std::byte>;

inline constexpr std::size_t kHelloBytes = 40;
inline constexpr std::size_t kWelcomeBytes = 64;  // and the name
inline constexpr std::size_t kAttachBytes = kClaimsBytes + 32;
inline constexpr std::size_t kAttachedBytes = 24;
inline constexpr std::size_t kScopeBytes = 32;
inline constexpr std::size_t kCountBytes = 8;  // the number of entries, in front of them
inline constexpr std::size_t kCreditBytes = 8;
inline constexpr std::size_t kReadEntryBytes = 4;
inline constexpr std::size_t kReadAnswerBytes = 32;
inline constexpr std::size_t kWriteEntryBytes = 32;
inline constexpr std::size_t kDiscardEntryBytes = 16;
inline constexpr std::size_t kItemStatusBytes = 8;
// The longest body there is: a WRITE of all pages.
inline constexpr std::size_t kMaxBodyBytes =
    kScopeBytes + kCountBytes + kMaxPagesPerFrame * (kWriteEntryBytes + kSlotBytes);

// --- headers

void append_header(Buffer& out, const Header& header);
// Nothing: not a frame of this protocol, or longer than any may be. The type may be one that is not known.
std::optional<Header> parse_header(std::span<const std::byte> bytes);
inline bool is_answer(const Header& header) {
  return (header.flags & kAnswerFlag) != 0;
}
inline bool has_tag(const Header& header) {
  return (header.flags & kTagFlag) != 0;
}

// --- connections and slices

void append_hello(Buffer& out, std::uint64_t id, const Hello& hello);
void append_welcome(Buffer& out, std::uint64_t id, const Welcome& welcome);  // the answer to HELLO
void append_attach(Buffer& out, std::uint64_t id, const Attach& attach);
void append_attached(Buffer& out, std::uint64_t id, const Attached& attached);  // the answer to ATTACH
void append_release(Buffer& out, std::uint64_t id, const Scope& scope);
void append_ping(Buffer& out, std::uint64_t id);
void append_credit(Buffer& out, const Credit& credit);
void append_draining(Buffer& out);
// The answer to RELEASE and PING when all is well (kOk), and to any request when not; it has no body.
void append_answer(Buffer& out, MessageType type, std::uint64_t id, ErrorCode status);

std::optional<Hello> parse_hello(std::span<const std::byte> body);
std::optional<Welcome> parse_welcome(std::span<const std::byte> body);
std::optional<Attach> parse_attach(std::span<const std::byte> body);
std::optional<Attached> parse_attached(std::span<const std::byte> body);
std::optional<Scope> parse_release(std::span<const std::byte> body);
std::optional<Credit> parse_credit(std::span<const std::byte> body);

// What a token's secret and an ATTACH's proof are made from.
std::array<std::byte, kClaimsBytes> claims_bytes(const Claims& claims);

// --- pages

// Entries of one kind, in place. Reading one decodes it.
template <class Entry>
class EntryView {
 public:
  EntryView() = default;
  explicit EntryView(std::span<const std::byte> bytes) : bytes_(bytes) {}
  std::size_t size() const;
  Entry operator[](std::size_t index) const;  // index < size()

 private:
  std::span<const std::byte> bytes_;
};

// Entries with their payloads behind them. For a walk through both:
//   for (auto walk = message.pages.walk(); walk.next();) use(walk.entry(), walk.payload());
template <class Entry>
class PageView {
 public:
  class Walk {
   public:
    Walk(EntryView<Entry> entries, std::span<const std::byte> payloads) : entries_(entries), rest_(payloads) {}
    bool next() {
      if (index_ == entries_.size()) return false;
      entry_ = entries_[index_++];
      payload_ = rest_.first(entry_.length);
      rest_ = rest_.subspan(entry_.length);
      return true;
    }
    const Entry& entry() const { return entry_; }
    std::span<const std::byte> payload() const { return payload_; }

   private:
    EntryView<Entry> entries_;
    std::span<const std::byte> rest_;
    std::size_t index_ = 0;
    Entry entry_;
    std::span<const std::byte> payload_;
  };

  PageView() = default;
  // The parsers have checked that the lengths of the entries add up to the payloads.
  PageView(EntryView<Entry> entries, std::span<const std::byte> payloads) : entries_(entries), payloads_(payloads) {}
  std::size_t size() const { return entries_.size(); }
  const EntryView<Entry>& entries() const { return entries_; }
  Walk walk() const { return Walk(entries_, payloads_); }

 private:
  EntryView<Entry> entries_;
  std::span<const std::byte> payloads_;
};

struct ReadMessage {
  Scope scope;
  EntryView<ReadEntry> entries;
};
struct WriteMessage {
  Scope scope;
  PageView<WriteEntry> pages;
};
struct DiscardMessage {
  Scope scope;
  EntryView<DiscardEntry> entries;
};

void append_read(Buffer& out, std::uint64_t id, const Scope& scope, std::span<const ReadEntry> entries);
// Without the payloads, which follow. An entry that is not kOk has length 0.
void append_read_answer(Buffer& out, std::uint64_t id, std::span<const ReadAnswer> entries);
// Without the payloads, which follow.
void append_write(Buffer& out, std::uint64_t id, const Scope& scope, std::span<const WriteEntry> entries);
void append_discard(Buffer& out, std::uint64_t id, const Scope& scope, std::span<const DiscardEntry> entries);
// The answer to WRITE and DISCARD.
void append_item_statuses(Buffer& out, MessageType type, std::uint64_t id, std::span<const ItemStatus> items);

std::optional<ReadMessage> parse_read(std::span<const std::byte> body);
std::optional<PageView<ReadAnswer>> parse_read_answer(std::span<const std::byte> body);
std::optional<WriteMessage> parse_write(std::span<const std::byte> body);
std::optional<DiscardMessage> parse_discard(std::span<const std::byte> body);
std::optional<EntryView<ItemStatus>> parse_item_statuses(std::span<const std::byte> body);

}  // namespace tidepool::protocol
