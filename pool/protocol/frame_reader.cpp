#include "pool/protocol/frame_reader.h"

#include <algorithm>
#include <cassert>

namespace tidepool::protocol {
namespace {

// Room behind the longest frame, so that one receive takes many small ones.
constexpr std::size_t kReadAhead = 256u << 10;
// Less room than this at the end is not worth a receive.
constexpr std::size_t kLeastRoom = 16u << 10;

}  // namespace

FrameReader::FrameReader(std::size_t max_body)
    : max_body_(std::min(max_body, kMaxBodyBytes)),
      capacity_(kHeaderBytes + max_body_ + kTagBytes + kReadAhead),
      bytes_(new std::byte[capacity_]) {}

std::span<std::byte> FrameReader::room() {
  if (begin_ == end_) begin_ = end_ = 0;
  const std::size_t longest = kHeaderBytes + max_body_ + kTagBytes;
  // The frame that has begun must fit, and what is moved is moved rarely.
  if (begin_ > 0 && (capacity_ - begin_ < longest || capacity_ - end_ < kLeastRoom)) {
    std::memmove(bytes_.get(), bytes_.get() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  // Not more than one longest frame at a time: in a stream of such, what is received ends where they end, and nothing
  // has to be moved.
  return {bytes_.get() + end_, std::min(capacity_ - end_, longest - (end_ - begin_))};
}

void FrameReader::received(std::size_t bytes) {
  assert(bytes <= capacity_ - end_);
  end_ += bytes;
  missing_ -= std::min(missing_, bytes);
}

FrameReader::Got FrameReader::next(Frame& frame) {
  const std::span<const std::byte> all(bytes_.get() + begin_, end_ - begin_);
  missing_ = 0;
  if (all.size() < kHeaderBytes) return Got::kMore;
  const auto header = parse_header(all);
  if (!header || header->body_bytes > max_body_) return Got::kBad;
  const std::size_t tag_bytes = has_tag(*header) ? kTagBytes : 0;
  const std::size_t whole = kHeaderBytes + header->body_bytes + tag_bytes;
  if (all.size() < whole) {
    missing_ = whole - all.size();
    return Got::kMore;
  }
  frame.header = *header;
  frame.head = all.first(kHeaderBytes);
  frame.body = all.subspan(kHeaderBytes, header->body_bytes);
  frame.tag = all.subspan(kHeaderBytes + header->body_bytes, tag_bytes);
  begin_ += whole;
  return Got::kFrame;
}

}  // namespace tidepool::protocol
