// One of every message, as frames; for tests of what reads them.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "pool/protocol/codec.h"

namespace tidepool::protocol {

template <class Bytes>
Bytes counted_bytes(std::uint8_t first) {
  Bytes bytes{};
  for (auto& byte : bytes) byte = first++;
  return bytes;
}

inline Claims sample_claims() {
  return {.slice = SliceId{0x1122334455667788},
          .holder = counted_bytes<HolderId>(3),
          .epoch = LeaseEpoch{7},
          .slots = 16384,
          .rights = kRightRead | kRightWrite | kRightCreate,
          .lease_ms = 90'000};
}
inline Scope sample_scope() {
  return {.slice = SliceId{0x1122334455667788}, .epoch = LeaseEpoch{7}, .boot = counted_bytes<BootId>(40)};
}
inline Hello sample_hello() {
  return {.features = kFeatureAuthenticatedFrames, .random = counted_bytes<Random>(1)};
}
inline Welcome sample_welcome() {
  return {.features = kFeatureAuthenticatedFrames,
          .random = counted_bytes<Random>(99),
          .boot = counted_bytes<BootId>(40),
          .max_pages_per_frame = 96,
          .credit_pages = 256,
          .name = "shelf-3"};
}
inline std::vector<ReadAnswer> sample_read_answers() {
  return {{.slot = 5, .version = 1ull << 50, .length = 300, .tag = counted_bytes<Tag>(9)},
          {.slot = 6, .status = ErrorCode::kEmpty},
          {.slot = 9, .version = 2, .length = 7, .tag = counted_bytes<Tag>(77)}};
}
inline std::vector<WriteEntry> sample_writes() {
  return {{.slot = 1, .version = 11, .length = 100, .tag = counted_bytes<Tag>(5)},
          {.slot = 70'000, .version = 12, .length = 4, .tag = counted_bytes<Tag>(6)}};
}

inline void append_payload(Buffer& out, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; ++i) out.push_back(static_cast<std::byte>(i * 7 + 1));
}

struct SampleFrame {
  std::string name;
  Buffer bytes;
  bool exact = false;  // nothing may follow in the body
  std::span<const std::byte> body() const { return std::span(bytes).subspan(kHeaderBytes); }
};

inline std::vector<SampleFrame> sample_frames() {
  std::vector<SampleFrame> frames;
  const auto add = [&](std::string name, bool exact, auto append, std::size_t payload = 0) {
    SampleFrame frame{std::move(name), {}, exact};
    append(frame.bytes);
    append_payload(frame.bytes, payload);
    frames.push_back(std::move(frame));
  };
  const std::vector<ReadEntry> reads{{1}, {2}, {70'000}};
  const std::vector<DiscardEntry> discards{{.slot = 3, .version = 9}, {.slot = 4, .version = 10}};
  const std::vector<ItemStatus> statuses{{.slot = 3}, {.slot = 4, .status = ErrorCode::kStaleVersion}};
  add("HELLO", false, [](Buffer& out) { append_hello(out, 1, sample_hello()); });
  add("WELCOME", false, [](Buffer& out) { append_welcome(out, 1, sample_welcome()); });
  add("ATTACH", false, [](Buffer& out) { append_attach(out, 2, {sample_claims(), counted_bytes<Proof>(8)}); });
  add("ATTACHED", false, [](Buffer& out) {
    append_attached(out, 2, {.slice = SliceId{5}, .epoch = LeaseEpoch{7}, .slots = 16384, .created = true});
  });
  add("READ", true, [&](Buffer& out) { append_read(out, 3, sample_scope(), reads); });
  add(
      "READ answer", true, [](Buffer& out) { append_read_answer(out, 3, sample_read_answers()); }, 307);
  add(
      "WRITE", true, [](Buffer& out) { append_write(out, 4, sample_scope(), sample_writes()); }, 104);
  add("WRITE answer", true, [&](Buffer& out) { append_item_statuses(out, MessageType::kWrite, 4, statuses); });
  add("DISCARD", true, [&](Buffer& out) { append_discard(out, 5, sample_scope(), discards); });
  add("DISCARD answer", true, [&](Buffer& out) { append_item_statuses(out, MessageType::kDiscard, 5, statuses); });
  add("RELEASE", false, [](Buffer& out) { append_release(out, 6, sample_scope()); });
  add("CREDIT", false, [](Buffer& out) { append_credit(out, {64}); });
  return frames;
}

// Whether the parser of a frame's type understands this body.
inline bool understood(const Header& header, std::span<const std::byte> body) {
  const bool answer = is_answer(header);
  switch (header.type) {
    case MessageType::kHello:
      return parse_hello(body).has_value();
    case MessageType::kWelcome:
      return parse_welcome(body).has_value();
    case MessageType::kAttach:
      return answer ? parse_attached(body).has_value() : parse_attach(body).has_value();
    case MessageType::kRead:
      return answer ? parse_read_answer(body).has_value() : parse_read(body).has_value();
    case MessageType::kWrite:
      return answer ? parse_item_statuses(body).has_value() : parse_write(body).has_value();
    case MessageType::kDiscard:
      return answer ? parse_item_statuses(body).has_value() : parse_discard(body).has_value();
    case MessageType::kRelease:
      return parse_release(body).has_value();
    case MessageType::kCredit:
      return parse_credit(body).has_value();
    case MessageType::kPing:
    case MessageType::kDraining:
      return true;
  }
  return false;
}

}  // namespace tidepool::protocol
