// Goal: frames come out as they went in, however the bytes between were cut.
#include "pool/protocol/frame_reader.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/unit/pool/protocol/sample_messages.h"

namespace tidepool::protocol {
namespace {

// As much of `bytes` as there is room for; returns how much that was.
std::size_t feed(FrameReader& reader, std::span<const std::byte> bytes) {
  const std::span<std::byte> room = reader.room();
  EXPECT_FALSE(room.empty());
  const std::size_t part = std::min(room.size(), bytes.size());
  std::ranges::copy(bytes.first(part), room.begin());
  reader.received(part);
  return part;
}

// Reads `stream` in parts of `part` bytes and counts the frames of the samples, in their order, again and again.
std::size_t frames_in(const Buffer& stream, std::size_t part, const std::vector<SampleFrame>& samples) {
  FrameReader reader;
  std::size_t seen = 0;
  for (std::size_t at = 0; at < stream.size() && !testing::Test::HasFailure();) {
    at += feed(reader, std::span(stream).subspan(at, std::min(part, stream.size() - at)));
    Frame frame;
    FrameReader::Got got;
    while ((got = reader.next(frame)) == FrameReader::Got::kFrame) {
      const SampleFrame& sample = samples[seen++ % samples.size()];
      EXPECT_TRUE(std::ranges::equal(frame.head, std::span(sample.bytes).first(kHeaderBytes))) << sample.name;
      EXPECT_TRUE(std::ranges::equal(frame.body, sample.body())) << sample.name;
      EXPECT_TRUE(frame.tag.empty());
    }
    EXPECT_EQ(got, FrameReader::Got::kMore);
  }
  EXPECT_EQ(reader.pending(), 0u);
  return seen;
}

TEST(FrameReader, FindsFramesHoweverTheyAreCut) {
  const std::vector<SampleFrame> samples = sample_frames();
  Buffer stream;
  for (const SampleFrame& sample : samples) stream.insert(stream.end(), sample.bytes.begin(), sample.bytes.end());
  for (const std::size_t part : {1u, 2u, 3u, 23u, 24u, 25u, 63u, 1000u, 100'000u}) {
    EXPECT_EQ(frames_in(stream, part, samples), samples.size()) << "parts of " << part;
  }
}

TEST(FrameReader, LongStreamsOfLongFramesFitIntoItsMemory) {
  std::vector<SampleFrame> samples{{"the longest", {}, true}, {"a short one", {}, true}};
  append_write(samples[0].bytes, 1, sample_scope(),
               std::vector<WriteEntry>(kMaxPagesPerFrame, WriteEntry{.length = kSlotBytes}));
  append_payload(samples[0].bytes, std::size_t{kMaxPagesPerFrame} * kSlotBytes);
  append_ping(samples[1].bytes, 1);
  Buffer stream;
  for (int i = 0; i < 20; ++i) {
    for (const SampleFrame& sample : samples) stream.insert(stream.end(), sample.bytes.begin(), sample.bytes.end());
  }
  for (const std::size_t part : {1448u, 65'536u, 300'001u}) EXPECT_EQ(frames_in(stream, part, samples), 40u);
}

TEST(FrameReader, ShowsTheTagThatAHeaderAnnounces) {
  Buffer stream;
  append_header(stream, {.type = MessageType::kPing, .flags = kTagFlag, .body_bytes = 2});
  append_payload(stream, 2);
  for (std::size_t i = 0; i < kTagBytes; ++i) stream.push_back(static_cast<std::byte>(0xa0 + i));
  append_ping(stream, 7);
  FrameReader reader;
  Frame frame;
  feed(reader, std::span(stream).first(kHeaderBytes + 2 + kTagBytes - 1));
  EXPECT_EQ(reader.next(frame), FrameReader::Got::kMore);
  feed(reader, std::span(stream).subspan(kHeaderBytes + 2 + kTagBytes - 1));
  ASSERT_EQ(reader.next(frame), FrameReader::Got::kFrame);
  EXPECT_EQ(frame.body.size(), 2u);
  ASSERT_EQ(frame.tag.size(), kTagBytes);
  EXPECT_EQ(frame.tag[15], std::byte{0xaf});
  ASSERT_EQ(reader.next(frame), FrameReader::Got::kFrame);
  EXPECT_EQ(frame.header.id, 7u);
  EXPECT_TRUE(frame.tag.empty());
}

TEST(FrameReader, WhatIsNoFrameStaysBad) {
  FrameReader reader;
  feed(reader, std::as_bytes(std::span("GET / HTTP/1.1\r\nHost: x\r\n\r\n")));
  Frame frame;
  EXPECT_EQ(reader.next(frame), FrameReader::Got::kBad);
  EXPECT_EQ(reader.next(frame), FrameReader::Got::kBad);
}

TEST(FrameReader, ALimitOfTheReadersOwnHolds) {
  FrameReader reader(100);
  Buffer stream;
  append_header(stream, {.type = MessageType::kHello, .body_bytes = 101});
  feed(reader, stream);
  Frame frame;
  EXPECT_EQ(reader.next(frame), FrameReader::Got::kBad);
}

}  // namespace
}  // namespace tidepool::protocol
