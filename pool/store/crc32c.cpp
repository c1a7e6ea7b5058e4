#include "pool/store/crc32c.h"

#include <isa-l/crc.h>

#include <algorithm>

namespace tidepool::pool {
namespace {

constexpr std::size_t kCacheLine = 64;
constexpr std::size_t kAtOnce = 1u << 30;  // ISA-L counts in int

}  // namespace

std::uint32_t crc32c(std::span<const std::byte> data, std::uint32_t seed) {
  std::uint32_t crc = ~seed;
  while (!data.empty()) {
    const auto part = data.first(std::min(data.size(), kAtOnce));
    // ISA-L only reads, whatever its signature says.
    auto* at = const_cast<unsigned char*>(reinterpret_cast<const unsigned char*>(part.data()));
    crc = ::crc32_iscsi(at, static_cast<int>(part.size()), crc);
    data = data.subspan(part.size());
  }
  return ~crc;
}

void prefetch(std::span<const std::byte> data) {
  for (std::size_t line = 0; line < data.size(); line += kCacheLine) __builtin_prefetch(data.data() + line);
}

}  // namespace tidepool::pool
