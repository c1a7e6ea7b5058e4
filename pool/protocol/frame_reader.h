// Bytes of a connection as they come, cut anywhere, into frames. Never holds more than one longest frame and a
// quarter of a MiB of what follows it; memory that was never used is not touched, so it costs nothing.
//
//   reader.received(recv(fd, reader.room()...));
//   while ((got = reader.next(frame)) == FrameReader::Got::kFrame) ...
//
// Not thread-safe.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "pool/protocol/codec.h"

namespace tidepool::protocol {

// Shown in place: valid until the reader's next call of room().
struct Frame {
  Header header;
  std::span<const std::byte> head;  // the header as it arrived; the body lies right behind it
  std::span<const std::byte> body;
  std::span<const std::byte> tag;  // kTagBytes if the header says that there is one, else empty
};

class FrameReader {
 public:
  enum class Got {
    kFrame,
    kMore,  // the next frame is not complete
    kBad,   // what came is no frame; there is no way on from here
  };

  // `max_body`: longer ones are bad. At most kMaxBodyBytes.
  explicit FrameReader(std::size_t max_body = kMaxBodyBytes);

  // Where the next bytes go; never empty while next() says kMore. As much as the longest frame needs, or a good deal
  // of what follows a shorter one.
  std::span<std::byte> room();
  void received(std::size_t bytes);  // of room(), from its beginning
  Got next(Frame& frame);
  // Bytes that wait for the rest of their frame, or for next().
  std::size_t pending() const { return end_ - begin_; }
  // How many bytes the frame that has begun lacks, as its header says; 0: not known.
  std::size_t missing() const { return missing_; }
  void clear() { begin_ = end_ = missing_ = 0; }

 private:
  std::size_t max_body_;
  std::size_t capacity_;
  std::unique_ptr<std::byte[]> bytes_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  std::size_t missing_ = 0;
};

}  // namespace tidepool::protocol
