// Goal: what is sent is what is understood, and nothing else is.
#include <gtest/gtest.h>

#include "tests/unit/pool/protocol/sample_messages.h"

namespace tidepool::protocol {
namespace {

Header header_of(const Buffer& frame) {
  const auto header = parse_header(frame);
  EXPECT_TRUE(header);
  EXPECT_EQ(header->body_bytes, frame.size() - kHeaderBytes);
  return header.value_or(Header{});
}
std::span<const std::byte> body_of(const Buffer& frame) {
  return std::span(frame).subspan(kHeaderBytes);
}

TEST(Codec, AHeaderComesBackAsItWas) {
  Buffer bytes;
  append_header(bytes,
                {.type = MessageType{900}, .flags = 0x8003, .body_bytes = 17, .status = ErrorCode{77}, .id = ~0ull});
  ASSERT_EQ(bytes.size(), kHeaderBytes);
  const auto header = parse_header(bytes);
  ASSERT_TRUE(header);
  EXPECT_EQ(header->type, MessageType{900});
  EXPECT_EQ(header->flags, 0x8003);
  EXPECT_EQ(header->body_bytes, 17u);
  EXPECT_EQ(header->status, ErrorCode{77});
  EXPECT_EQ(header->id, ~0ull);
  EXPECT_TRUE(is_answer(*header));
  EXPECT_TRUE(has_tag(*header));
}

TEST(Codec, ABodyThatNoFrameMayHaveIsNoFrame) {
  Buffer bytes;
  append_header(bytes, {.type = MessageType::kWrite, .body_bytes = kMaxBodyBytes});
  EXPECT_TRUE(parse_header(bytes));
  bytes.clear();
  append_header(bytes, {.type = MessageType::kWrite, .body_bytes = kMaxBodyBytes + 1});
  EXPECT_FALSE(parse_header(bytes));
  bytes.clear();
  append_header(bytes, {.type = MessageType::kPing});
  bytes[0] ^= std::byte{1};
  EXPECT_FALSE(parse_header(bytes));
}

TEST(Codec, GreetingsComeBackAsTheyWere) {
  Buffer frame;
  append_hello(frame, 9, sample_hello());
  const auto hello = parse_hello(body_of(frame));
  ASSERT_TRUE(hello);
  EXPECT_EQ(header_of(frame).id, 9u);
  EXPECT_EQ(hello->lowest_version, kVersion);
  EXPECT_EQ(hello->highest_version, kVersion);
  EXPECT_EQ(hello->features, kFeatureAuthenticatedFrames);
  EXPECT_EQ(hello->random, sample_hello().random);

  frame.clear();
  append_welcome(frame, 9, sample_welcome());
  EXPECT_TRUE(is_answer(header_of(frame)));
  const auto welcome = parse_welcome(body_of(frame));
  ASSERT_TRUE(welcome);
  EXPECT_EQ(welcome->version, kVersion);
  EXPECT_EQ(welcome->features, kFeatureAuthenticatedFrames);
  EXPECT_EQ(welcome->random, sample_welcome().random);
  EXPECT_EQ(welcome->boot, sample_welcome().boot);
  EXPECT_EQ(welcome->max_pages_per_frame, 96u);
  EXPECT_EQ(welcome->credit_pages, 256u);
  EXPECT_EQ(welcome->name, "shelf-3");
}

TEST(Codec, ANameIsCutWhereItMayEnd) {
  Welcome welcome = sample_welcome();
  welcome.name.assign(3 * kMaxName, 'n');
  Buffer frame;
  append_welcome(frame, 1, welcome);
  const auto back = parse_welcome(body_of(frame));
  ASSERT_TRUE(back);
  EXPECT_EQ(back->name, std::string(kMaxName, 'n'));
}

TEST(Codec, AttachingComesBackAsItWas) {
  Buffer frame;
  append_attach(frame, 2, {sample_claims(), counted_bytes<Proof>(8)});
  const auto attach = parse_attach(body_of(frame));
  ASSERT_TRUE(attach);
  EXPECT_EQ(attach->claims, sample_claims());
  EXPECT_EQ(attach->proof, counted_bytes<Proof>(8));

  for (const bool created : {false, true}) {
    frame.clear();
    append_attached(frame, 2, {.slice = SliceId{5}, .epoch = LeaseEpoch{6}, .slots = 7, .created = created});
    const auto attached = parse_attached(body_of(frame));
    ASSERT_TRUE(attached);
    EXPECT_EQ(attached->slice, SliceId{5});
    EXPECT_EQ(attached->epoch, LeaseEpoch{6});
    EXPECT_EQ(attached->slots, 7u);
    EXPECT_EQ(attached->created, created);
  }
}

TEST(Codec, ReadsComeBackAsTheyWere) {
  Buffer frame;
  const std::vector<ReadEntry> slots{{1}, {2}, {70'000}};
  append_read(frame, 3, sample_scope(), slots);
  const auto read = parse_read(body_of(frame));
  ASSERT_TRUE(read);
  EXPECT_EQ(read->scope, sample_scope());
  ASSERT_EQ(read->entries.size(), slots.size());
  for (std::size_t i = 0; i < slots.size(); ++i) EXPECT_EQ(read->entries[i].slot, slots[i].slot);

  frame.clear();
  append_read_answer(frame, 3, sample_read_answers());
  append_payload(frame, 307);
  const auto answer = parse_read_answer(body_of(frame));
  ASSERT_TRUE(answer);
  ASSERT_EQ(answer->size(), 3u);
  auto walk = answer->walk();
  std::size_t seen = 0;
  std::size_t offset = 0;
  while (walk.next()) {
    const ReadAnswer wanted = sample_read_answers()[seen++];
    EXPECT_EQ(walk.entry().slot, wanted.slot);
    EXPECT_EQ(walk.entry().status, wanted.status);
    EXPECT_EQ(walk.entry().version, wanted.version);
    EXPECT_EQ(walk.entry().tag, wanted.tag);
    ASSERT_EQ(walk.payload().size(), wanted.length);
    for (const std::byte byte : walk.payload()) EXPECT_EQ(byte, static_cast<std::byte>(offset++ * 7 + 1));
  }
  EXPECT_EQ(seen, 3u);
  EXPECT_EQ(offset, 307u);
}

TEST(Codec, WritesAndDiscardsComeBackAsTheyWere) {
  Buffer frame;
  append_write(frame, 4, sample_scope(), sample_writes());
  append_payload(frame, 104);
  const auto write = parse_write(body_of(frame));
  ASSERT_TRUE(write);
  EXPECT_EQ(write->scope, sample_scope());
  ASSERT_EQ(write->pages.size(), 2u);
  std::size_t seen = 0;
  for (auto walk = write->pages.walk(); walk.next(); ++seen) {
    EXPECT_EQ(walk.entry().slot, sample_writes()[seen].slot);
    EXPECT_EQ(walk.entry().version, sample_writes()[seen].version);
    EXPECT_EQ(walk.entry().tag, sample_writes()[seen].tag);
    EXPECT_EQ(walk.payload().size(), sample_writes()[seen].length);
  }

  frame.clear();
  append_discard(frame, 5, sample_scope(), std::vector<DiscardEntry>{{.slot = 3, .version = 9}});
  const auto discard = parse_discard(body_of(frame));
  ASSERT_TRUE(discard);
  ASSERT_EQ(discard->entries.size(), 1u);
  EXPECT_EQ(discard->entries[0].slot, 3u);
  EXPECT_EQ(discard->entries[0].version, 9u);

  frame.clear();
  append_item_statuses(frame, MessageType::kDiscard, 5,
                       std::vector<ItemStatus>{{.slot = 3, .status = ErrorCode::kStaleVersion}});
  EXPECT_EQ(header_of(frame).type, MessageType::kDiscard);
  const auto statuses = parse_item_statuses(body_of(frame));
  ASSERT_TRUE(statuses);
  ASSERT_EQ(statuses->size(), 1u);
  EXPECT_EQ((*statuses)[0].slot, 3u);
  EXPECT_EQ((*statuses)[0].status, ErrorCode::kStaleVersion);
}

TEST(Codec, EveryMessageThatIsCutShortIsRefused) {
  for (const SampleFrame& frame : sample_frames()) {
    const Header header = header_of(frame.bytes);
    ASSERT_TRUE(understood(header, frame.body())) << frame.name;
    for (std::size_t bytes = 0; bytes < kHeaderBytes; ++bytes) {
      EXPECT_FALSE(parse_header(std::span(frame.bytes).first(bytes))) << frame.name;
    }
    for (std::size_t bytes = 0; bytes < frame.body().size(); ++bytes) {
      // In memory of just this size, so that a sanitizer sees a step beyond.
      const Buffer cut(frame.body().begin(), frame.body().begin() + static_cast<std::ptrdiff_t>(bytes));
      EXPECT_FALSE(understood(header, cut)) << frame.name << " of " << bytes << " bytes";
    }
  }
}

TEST(Codec, FixedMessagesMayGrowAndThoseWithPagesMayNot) {
  for (const SampleFrame& frame : sample_frames()) {
    Buffer longer(frame.body().begin(), frame.body().end());
    longer.resize(longer.size() + 5, std::byte{0xee});
    EXPECT_EQ(understood(header_of(frame.bytes), longer), !frame.exact) << frame.name;
  }
}

TEST(Codec, CountsOutOfBoundsAreRefused) {
  for (const SampleFrame& frame : sample_frames()) {
    if (!frame.exact) continue;
    const Header header = header_of(frame.bytes);
    const std::size_t at = is_answer(header) ? 0 : kScopeBytes;
    for (const std::uint32_t count : {0u, kMaxPagesPerFrame + 1, 0x7fffffffu, 0x80000000u, 0xffffffffu}) {
      // Enough behind it for as many as a frame could hold.
      Buffer body(frame.body().begin(), frame.body().end());
      body.resize(kMaxBodyBytes);
      std::memcpy(body.data() + at, &count, sizeof count);
      EXPECT_FALSE(understood(header, body)) << frame.name << " with " << count << " entries";
    }
  }
}

TEST(Codec, LengthsThatDoNotAddUpAreRefused) {
  std::vector<ReadAnswer> answers = sample_read_answers();
  const auto accepted = [&](std::size_t payload) {
    Buffer frame;
    append_read_answer(frame, 3, answers);
    append_payload(frame, payload);
    return parse_read_answer(body_of(frame)).has_value();
  };
  EXPECT_TRUE(accepted(307));
  EXPECT_FALSE(accepted(306));
  EXPECT_FALSE(accepted(308));
  answers[1].length = 1;  // of an item that has nothing
  EXPECT_FALSE(accepted(308));
  answers = {{.slot = 5, .length = kSlotBytes}};
  EXPECT_TRUE(accepted(kSlotBytes));
  answers[0].length = kSlotBytes + 1;
  EXPECT_FALSE(accepted(kSlotBytes + 1));
}

TEST(Codec, TheLongestWriteFits) {
  std::vector<WriteEntry> entries(kMaxPagesPerFrame, {.length = kSlotBytes});
  Buffer frame;
  append_write(frame, 1, sample_scope(), entries);
  append_payload(frame, std::size_t{kMaxPagesPerFrame} * kSlotBytes);
  ASSERT_EQ(frame.size(), kHeaderBytes + kMaxBodyBytes);
  const auto write = parse_write(body_of(frame));
  ASSERT_TRUE(write);
  EXPECT_EQ(write->pages.size(), kMaxPagesPerFrame);
}

TEST(Codec, AppendsWithoutAllocatingOnceABufferHasGrown) {
  Buffer frame;
  append_read_answer(frame, 1, sample_read_answers());
  const std::byte* const memory = frame.data();
  for (int i = 0; i < 100; ++i) {
    frame.clear();
    append_read_answer(frame, 1, sample_read_answers());
    ASSERT_EQ(frame.data(), memory);
  }
}

TEST(Codec, EveryErrorSaysWhatItIs) {
  for (std::uint32_t code = 0; code <= static_cast<std::uint32_t>(ErrorCode::kUnsupported); ++code) {
    EXPECT_FALSE(describe(ErrorCode{code}).starts_with("error ")) << code;
  }
  EXPECT_EQ(describe(ErrorCode{4711}), "error 4711");
}

}  // namespace
}  // namespace tidepool::protocol
