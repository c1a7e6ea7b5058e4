// Goal: no frame passes but the very one that was sent, in its turn, in its direction.
#include "pool/protocol/frame_guard.h"

#include <gtest/gtest.h>

#include "tests/unit/pool/protocol/sample_messages.h"

namespace tidepool::protocol {
namespace {

FrameGuard guard(std::uint8_t key) {
  auto made = FrameGuard::make(counted_bytes<FrameKey>(key));
  EXPECT_TRUE(made) << made.error().message();
  return std::move(*made);
}

struct Sealed {
  Buffer bytes;
  Tag tag{};
  bool passes(FrameGuard& by) const {
    return by.check(std::span(bytes).first(kHeaderBytes), std::span(bytes).subspan(kHeaderBytes),
                    std::as_bytes(std::span(tag)));
  }
};

Sealed sealed_by(FrameGuard& sender, Buffer bytes) {
  Sealed frame{std::move(bytes), {}};
  EXPECT_TRUE(sender.seal(frame.bytes, frame.tag));
  return frame;
}
Buffer ping(std::uint64_t id) {
  Buffer bytes;
  append_ping(bytes, id);
  return bytes;
}

TEST(FrameGuard, LetsEveryMessagePassInItsTurn) {
  FrameGuard sender = guard(1);
  FrameGuard receiver = guard(1);
  for (const SampleFrame& sample : sample_frames()) {
    const Sealed frame = sealed_by(sender, sample.bytes);
    EXPECT_TRUE(has_tag(*parse_header(frame.bytes)));
    EXPECT_TRUE(frame.passes(receiver)) << sample.name;
  }
}

TEST(FrameGuard, PiecesMeanTheWhole) {
  FrameGuard sender = guard(1);
  FrameGuard receiver = guard(1);
  Buffer head;
  append_read_answer(head, 3, sample_read_answers());
  Buffer payload;
  append_payload(payload, 307);
  const std::array<Piece, 3> rest{Piece(payload).first(300), Piece(), Piece(payload).subspan(300)};
  Sealed frame;
  ASSERT_TRUE(sender.seal(head, rest, frame.tag));
  frame.bytes = head;
  frame.bytes.insert(frame.bytes.end(), payload.begin(), payload.end());
  EXPECT_TRUE(frame.passes(receiver));
}

TEST(FrameGuard, EveryBitThatIsTurnedIsNoticed) {
  FrameGuard sender = guard(1);
  Buffer bytes;
  append_read(bytes, 3, sample_scope(), std::vector<ReadEntry>{{1}});
  const Sealed frame = sealed_by(sender, bytes);
  const std::size_t bits = 8 * (frame.bytes.size() + kTagBytes);
  for (std::size_t bit = 0; bit < bits; ++bit) {
    Sealed changed = frame;
    const auto mask = static_cast<std::uint8_t>(1u << (bit % 8));
    const std::size_t at = bit / 8;
    if (at < changed.bytes.size()) {
      changed.bytes[at] ^= static_cast<std::byte>(mask);
    } else {
      changed.tag[at - changed.bytes.size()] ^= mask;
    }
    FrameGuard receiver = guard(1);
    ASSERT_FALSE(changed.passes(receiver)) << "bit " << bit;
  }
  FrameGuard receiver = guard(1);
  EXPECT_TRUE(frame.passes(receiver));
}

TEST(FrameGuard, RepeatedDroppedAndReorderedFramesAreNoticed) {
  FrameGuard sender = guard(1);
  const Sealed first = sealed_by(sender, ping(1));
  const Sealed second = sealed_by(sender, ping(2));
  FrameGuard repeated = guard(1);
  EXPECT_TRUE(first.passes(repeated));
  EXPECT_FALSE(first.passes(repeated));
  FrameGuard dropped = guard(1);
  EXPECT_FALSE(second.passes(dropped));
  // The same bytes have another tag in another turn.
  const Sealed again = sealed_by(sender, ping(1));
  EXPECT_EQ(again.bytes, first.bytes);
  EXPECT_NE(again.tag, first.tag);
}

TEST(FrameGuard, WhatEndsElsewhereIsNoticed) {
  FrameGuard sender = guard(1);
  const Sealed frame = sealed_by(sender, ping(1));
  Sealed longer = frame;
  longer.bytes.push_back(std::byte{0});
  FrameGuard receiver = guard(1);
  EXPECT_FALSE(longer.passes(receiver));
  FrameGuard untagged = guard(1);
  EXPECT_FALSE(untagged.check(frame.bytes, {}, {}));
}

TEST(FrameGuard, AnotherKeyLetsNothingPass) {
  FrameGuard sender = guard(1);
  FrameGuard other = guard(2);
  EXPECT_FALSE(sealed_by(sender, ping(1)).passes(other));
}

}  // namespace
}  // namespace tidepool::protocol
