#include "telemetry/trace/trace_block.h"

#include <zstd.h>

namespace tidepool::telemetry {
namespace {

constexpr int kLevel = 3;  // zstd's own default: its cost is far below that of the look that made the samples
constexpr unsigned kVarintBits = 7;
constexpr unsigned kLastShift = 63;  // of a tenth byte, which has one bit to give

}  // namespace

std::size_t longest_block(std::size_t content) {
  return kBlockHead + ZSTD_compressBound(content);
}

void put_u32(std::string& into, std::uint32_t value) {
  for (unsigned shift = 0; shift < 32; shift += 8) into += static_cast<char>(value >> shift & 0xff);
}

void put_varint(std::string& into, std::uint64_t value) {
  for (; value >= 1u << kVarintBits; value >>= kVarintBits) into += static_cast<char>((value & 0x7f) | 0x80);
  into += static_cast<char>(value);
}

void put_signed(std::string& into, std::int64_t value) {
  const auto bits = static_cast<std::uint64_t>(value);
  put_varint(into, value < 0 ? ~(bits << 1) : bits << 1);
}

std::string_view ByteCursor::bytes(std::uint64_t count) {
  if (count > rest_.size()) {
    fail();
    return {};
  }
  const std::string_view taken = rest_.substr(0, static_cast<std::size_t>(count));
  rest_.remove_prefix(taken.size());
  return taken;
}

std::uint32_t ByteCursor::u32() {
  std::uint32_t value = 0;
  unsigned shift = 0;
  for (const char byte : bytes(4)) {
    value |= static_cast<std::uint32_t>(static_cast<unsigned char>(byte)) << shift;
    shift += 8;
  }
  return value;
}

std::uint64_t ByteCursor::varint() {
  std::uint64_t value = 0;
  for (unsigned shift = 0; shift <= kLastShift; shift += kVarintBits) {
    const std::string_view next = bytes(1);
    if (failed_) return 0;
    const auto byte = static_cast<unsigned char>(next.front());
    if (shift == kLastShift && byte > 1) break;
    value |= std::uint64_t{byte & 0x7fu} << shift;
    if (byte < 0x80) return value;
  }
  fail();
  return 0;
}

std::int64_t ByteCursor::signed_varint() {
  const std::uint64_t bits = varint();
  return static_cast<std::int64_t>((bits & 1) != 0 ? ~(bits >> 1) : bits >> 1);
}

struct BlockCodec::Contexts {
  std::unique_ptr<ZSTD_CCtx, std::size_t (*)(ZSTD_CCtx*)> pack{nullptr, ZSTD_freeCCtx};
  std::unique_ptr<ZSTD_DCtx, std::size_t (*)(ZSTD_DCtx*)> unpack{nullptr, ZSTD_freeDCtx};
};

BlockCodec::BlockCodec() : contexts_(std::make_unique<Contexts>()) {}
BlockCodec::~BlockCodec() = default;
BlockCodec::BlockCodec(BlockCodec&&) noexcept = default;
BlockCodec& BlockCodec::operator=(BlockCodec&&) noexcept = default;

Result<std::string> BlockCodec::pack(BlockKind kind, std::string_view content) {
  auto& context = contexts_->pack;
  if (context == nullptr) context.reset(ZSTD_createCCtx());
  if (context == nullptr) return failure(std::errc::not_enough_memory, "compress", "a block of a trace");
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_compressionLevel, kLevel);
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_checksumFlag, 1);
  std::string packed(ZSTD_compressBound(content.size()), '\0');
  const std::size_t length =
      ZSTD_compress2(context.get(), packed.data(), packed.size(), content.data(), content.size());
  if (ZSTD_isError(length) != 0)
    return failure(std::errc::io_error, "compress", "a block of a trace", ZSTD_getErrorName(length));
  std::string block;
  block.reserve(kBlockHead + length);
  put_u32(block, static_cast<std::uint32_t>(kind));
  put_u32(block, static_cast<std::uint32_t>(length));
  put_u32(block, static_cast<std::uint32_t>(content.size()));
  block.append(packed, 0, length);
  return block;
}

std::optional<std::string> BlockCodec::unpack(std::string_view packed, std::size_t content_length) {
  auto& context = contexts_->unpack;
  if (context == nullptr) context.reset(ZSTD_createDCtx());
  if (context == nullptr) return std::nullopt;
  std::string content(content_length, '\0');
  const std::size_t length =
      ZSTD_decompressDCtx(context.get(), content.data(), content.size(), packed.data(), packed.size());
  if (ZSTD_isError(length) != 0 || length != content_length) return std::nullopt;
  return content;
}

}  // namespace tidepool::telemetry
