// What memory servers and their clients read from each other: bodies of both directions, whole streams cut anywhere,
// and streams whose frames have tags.
#include <gtest/gtest.h>

#include <algorithm>

#include "pool/protocol/frame_guard.h"
#include "pool/protocol/frame_reader.h"
#include "tests/fuzz/fuzz_driver.h"
#include "tests/unit/pool/protocol/sample_messages.h"

namespace tidepool::protocol {
namespace {

using fuzz::Corpus;
using fuzz::Mutator;

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
std::span<const std::byte> bytes_of(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}
std::vector<std::string> tokens() {
  return {"TDP1",
          std::string(4, '\0'),
          std::string("\x40\0\0\0", 4),
          std::string("\x41\0\0\0", 4),
          std::string("\0\x10", 2),
          std::string("\1\x10", 2),
          std::string(8, '\xff')};
}

template <class Entry>
std::vector<Entry> copied(const EntryView<Entry>& view) {
  std::vector<Entry> entries;
  for (std::size_t i = 0; i < view.size(); ++i) entries.push_back(view[i]);
  return entries;
}
// Walks to the end of all payloads and returns how many bytes they have.
template <class Entry>
std::size_t walked(const PageView<Entry>& pages) {
  std::size_t bytes = 0;
  for (auto walk = pages.walk(); walk.next();) {
    EXPECT_LE(walk.payload().size(), kSlotBytes);
    // Looked at, so that a sanitizer sees where it lies.
    for (const std::byte byte : walk.payload())
      bytes += std::max(std::to_integer<std::size_t>(byte) & 1u, std::size_t{1});
  }
  return bytes;
}

// What is understood has the meaning that it would be said with: said again, it is as long, and understood again.
void expect_same_length(const Buffer& again, std::size_t payload, std::string_view body) {
  ASSERT_EQ(again.size() - kHeaderBytes + payload, body.size());
}

TEST(FuzzMemoryProtocol, RequestsAsAServerReadsThem) {
  Corpus corpus{.inputs = {}, .tokens = tokens(), .longest = 8192};
  for (const SampleFrame& frame : sample_frames()) corpus.inputs.push_back(text_of(frame.body()));
  std::size_t accepted = 0;
  fuzz::fuzz(corpus, 30000, [&](std::string_view input, Mutator&) {
    const auto body = bytes_of(input);
    Buffer again;
    if (const auto hello = parse_hello(body)) {
      ASSERT_LE(hello->lowest_version, hello->highest_version);
    }
    if (const auto attach = parse_attach(body)) {
      ++accepted;
      append_attach(again, 1, *attach);
      ASSERT_EQ(text_of(std::span(again).subspan(kHeaderBytes)), input.substr(0, kAttachBytes));
      again.clear();
    }
    static_cast<void>(parse_release(body));
    if (const auto read = parse_read(body)) {
      ++accepted;
      append_read(again, 1, read->scope, copied(read->entries));
      expect_same_length(again, 0, input);
      again.clear();
    }
    if (const auto write = parse_write(body)) {
      ++accepted;
      append_write(again, 1, write->scope, copied(write->pages.entries()));
      expect_same_length(again, walked(write->pages), input);
      again.clear();
    }
    if (const auto discard = parse_discard(body)) {
      ++accepted;
      append_discard(again, 1, discard->scope, copied(discard->entries));
      expect_same_length(again, 0, input);
    }
  });
  EXPECT_GT(accepted, 100u);
}

TEST(FuzzMemoryProtocol, AnswersAsAClientReadsThem) {
  Corpus corpus{.inputs = {}, .tokens = tokens(), .longest = 8192};
  for (const SampleFrame& frame : sample_frames()) corpus.inputs.push_back(text_of(frame.body()));
  std::size_t accepted = 0;
  fuzz::fuzz(corpus, 30000, [&](std::string_view input, Mutator&) {
    const auto body = bytes_of(input);
    Buffer again;
    if (const auto welcome = parse_welcome(body)) {
      ASSERT_LE(welcome->name.size(), kMaxName);
      ASSERT_GE(welcome->max_pages_per_frame, kMaxPagesPerFrame);
    }
    static_cast<void>(parse_attached(body));
    static_cast<void>(parse_credit(body));
    if (const auto pages = parse_read_answer(body)) {
      ++accepted;
      ASSERT_LE(pages->size(), kMaxPagesPerFrame);
      append_read_answer(again, 1, copied(pages->entries()));
      expect_same_length(again, walked(*pages), input);
      again.clear();
    }
    if (const auto statuses = parse_item_statuses(body)) {
      ++accepted;
      append_item_statuses(again, MessageType::kWrite, 1, copied(*statuses));
      ASSERT_EQ(text_of(std::span(again).subspan(kHeaderBytes + 4, 4)), std::string(4, '\0'));
      expect_same_length(again, 0, input);
    }
  });
  EXPECT_GT(accepted, 100u);
}

// Gives the input to a reader in random parts, and each frame to `take`, until it says no.
void read_in_parts(std::string_view input, Mutator& mutator, const std::function<bool(const Frame&)>& take) {
  FrameReader reader;
  for (std::size_t at = 0; at < input.size();) {
    const std::span<std::byte> room = reader.room();
    ASSERT_FALSE(room.empty());
    const std::size_t part =
        std::min({room.size(), input.size() - at, static_cast<std::size_t>(1 + mutator.number(900))});
    std::memcpy(room.data(), input.data() + at, part);
    reader.received(part);
    at += part;
    Frame frame;
    FrameReader::Got got;
    while ((got = reader.next(frame)) == FrameReader::Got::kFrame) {
      ASSERT_EQ(frame.body.size(), frame.header.body_bytes);
      ASSERT_EQ(frame.tag.size(), has_tag(frame.header) ? kTagBytes : 0u);
      if (!take(frame)) return;
    }
    if (got == FrameReader::Got::kBad) return;
    ASSERT_LE(reader.pending(), kHeaderBytes + kMaxBodyBytes + kTagBytes);
  }
}

TEST(FuzzMemoryProtocol, StreamsCutAnywhere) {
  Corpus corpus{.inputs = {}, .tokens = tokens(), .longest = 16384};
  std::string all;
  for (const SampleFrame& frame : sample_frames()) all += text_of(frame.bytes);
  corpus.inputs = {all, all + all, all.substr(all.size() / 2) + all};
  std::size_t understood_frames = 0;
  fuzz::fuzz(corpus, 10000, [&](std::string_view input, Mutator& mutator) {
    std::string joined;
    read_in_parts(input, mutator, [&](const Frame& frame) {
      understood_frames += understood(frame.header, frame.body) ? 1 : 0;
      joined += text_of(frame.head) + text_of(frame.body) + text_of(frame.tag);
      return true;
    });
    // What was found is the beginning of what came, and nothing of it was lost.
    ASSERT_EQ(input.substr(0, joined.size()), joined);
  });
  EXPECT_GT(understood_frames, 1000u);
}

// However a stream with tags was changed: what passes is the beginning of what was sent.
TEST(FuzzMemoryProtocol, StreamsWithTags) {
  const FrameKey key = counted_bytes<FrameKey>(17);
  auto sender = FrameGuard::make(key);
  ASSERT_TRUE(sender);
  std::vector<std::string> sent;
  std::string all;
  for (SampleFrame& frame : sample_frames()) {
    Tag tag{};
    ASSERT_TRUE(sender->seal(frame.bytes, tag));
    sent.push_back(text_of(frame.bytes) + text_of(std::as_bytes(std::span(tag))));
    all += sent.back();
  }
  const Corpus corpus{.inputs = {all, sent[4] + sent[5]}, .tokens = sent, .longest = 16384};
  std::size_t passed = 0;
  std::size_t refused = 0;
  fuzz::fuzz(corpus, 10000, [&](std::string_view input, Mutator& mutator) {
    auto receiver = FrameGuard::make(key);
    ASSERT_TRUE(receiver);
    std::size_t next = 0;
    read_in_parts(input, mutator, [&](const Frame& frame) {
      if (!receiver->check(frame.head, frame.body, frame.tag)) return ++refused, false;
      ++passed;
      EXPECT_LT(next, sent.size());
      if (next >= sent.size()) return false;
      EXPECT_EQ(text_of(frame.head) + text_of(frame.body) + text_of(frame.tag), sent[next]);
      ++next;
      return true;
    });
  });
  EXPECT_GT(passed, 1000u);
  EXPECT_GT(refused, 1000u);
}

}  // namespace
}  // namespace tidepool::protocol
