// The blocks of a trace: a kind, two lengths and a zstd frame with its checksum. Internal to telemetry/trace.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/units.h"

namespace tidepool::telemetry {

inline constexpr std::string_view kTraceMagic = "TDPTRACE";
inline constexpr std::uint32_t kTraceVersion = 1;
inline constexpr std::size_t kTracePrefix = 16;  // magic, version, page size
inline constexpr std::size_t kBlockHead = 12;    // kind, packed length, content length

enum class BlockKind : std::uint32_t { kDescription = 1, kSamples = 2, kEnd = 3 };

// Of a block's content before compression. A description of kMostTracedObjects fits.
inline constexpr std::size_t kMostBlockContent = 2 << 20;
// How long a block of so much content can be in the file at most, its head included.
std::size_t longest_block(std::size_t content);

// Integers are little-endian; varints have seven bits per byte, the lowest first, bit 7 says that more follow.
void put_u32(std::string& into, std::uint32_t value);
void put_varint(std::string& into, std::uint64_t value);
// Small negative numbers are short, too: 0, -1, 1, -2, ...
void put_signed(std::string& into, std::int64_t value);

// Takes values off the front of bytes that nobody vouches for. After the first one that is missing or too long nothing
// is taken any more, and failed() says so.
class ByteCursor {
 public:
  explicit ByteCursor(std::string_view bytes) : rest_(bytes) {}
  std::uint32_t u32();
  std::uint64_t varint();
  std::int64_t signed_varint();
  std::string_view bytes(std::uint64_t count);
  bool at_end() const { return rest_.empty(); }
  bool failed() const { return failed_; }
  void fail() { failed_ = true, rest_ = {}; }

 private:
  std::string_view rest_;
  bool failed_ = false;
};

// Packs and unpacks the contents of blocks. Keeps zstd's memory between blocks.
class BlockCodec {
 public:
  BlockCodec();
  ~BlockCodec();
  BlockCodec(BlockCodec&&) noexcept;
  BlockCodec& operator=(BlockCodec&&) noexcept;

  // A whole block as it stands in the file.
  Result<std::string> pack(BlockKind kind, std::string_view content);
  // The content; nothing when it is not what was packed.
  std::optional<std::string> unpack(std::string_view packed, std::size_t content_length);

 private:
  struct Contexts;
  std::unique_ptr<Contexts> contexts_;
};

}  // namespace tidepool::telemetry
