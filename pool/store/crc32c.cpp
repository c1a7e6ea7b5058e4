#include "pool/store/crc32c.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace tidepool::pool {
namespace {

constexpr std::uint32_t kPolynomial = 0x82f63b78;  // reflected
using Table = std::array<std::uint32_t, 256>;

constexpr std::array<Table, 8> make_byte_tables() {
  std::array<Table, 8> tables{};
  for (std::uint32_t n = 0; n < 256; ++n) {
    std::uint32_t crc = n;
    for (int bit = 0; bit < 8; ++bit) crc = (crc & 1) != 0 ? (crc >> 1) ^ kPolynomial : crc >> 1;
    tables[0][n] = crc;
  }
  for (std::uint32_t n = 0; n < 256; ++n)
    for (std::size_t k = 1; k < 8; ++k) tables[k][n] = (tables[k - 1][n] >> 8) ^ tables[0][tables[k - 1][n] & 0xff];
  return tables;
}
constexpr std::array<Table, 8> kByteTables = make_byte_tables();

std::uint64_t load_u64(const std::byte* from) {
  std::uint64_t value = 0;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

constexpr std::size_t kCacheLine = 64;

#if defined(__x86_64__)

// Three lanes of this many bytes leave 16 bytes of a page for the plain loop.
constexpr std::size_t kLane = 1360;
static_assert(kLane % 8 == 0 && 3 * kLane <= 4096 && 4096 - 3 * kLane < 3 * 8);

// What `kLane` zero bytes do to a checksum is linear: four lookups, one per byte of it.
constexpr std::array<Table, 4> make_lane_shift() {
  std::array<std::uint32_t, 32> of_bit{};
  for (std::size_t bit = 0; bit < 32; ++bit) {
    std::uint32_t crc = 1u << bit;
    for (std::size_t i = 0; i < kLane; ++i) crc = (crc >> 8) ^ kByteTables[0][crc & 0xff];
    of_bit[bit] = crc;
  }
  std::array<Table, 4> shift{};
  for (std::size_t byte = 0; byte < 4; ++byte)
    for (std::uint32_t value = 0; value < 256; ++value)
      for (std::size_t bit = 0; bit < 8; ++bit)
        if ((value >> bit & 1) != 0) shift[byte][value] ^= of_bit[byte * 8 + bit];
  return shift;
}
constexpr std::array<Table, 4> kLaneShift = make_lane_shift();

std::uint32_t shift_by_lane(std::uint32_t crc) {
  return kLaneShift[0][crc & 0xff] ^ kLaneShift[1][crc >> 8 & 0xff] ^ kLaneShift[2][crc >> 16 & 0xff] ^
         kLaneShift[3][crc >> 24];
}

__attribute__((target("sse4.2"))) std::uint32_t hardware(const std::byte* at, std::size_t left, std::uint32_t seed) {
  std::uint64_t crc = seed ^ 0xffffffffu;
  while (left >= 3 * kLane) {
    prefetch({at, 3 * kLane});
    std::uint64_t second = 0;
    std::uint64_t third = 0;
    for (const std::byte* const end = at + kLane; at != end; at += 8) {
      crc = _mm_crc32_u64(crc, load_u64(at));
      second = _mm_crc32_u64(second, load_u64(at + kLane));
      third = _mm_crc32_u64(third, load_u64(at + 2 * kLane));
    }
    crc = shift_by_lane(static_cast<std::uint32_t>(crc)) ^ second;
    crc = shift_by_lane(static_cast<std::uint32_t>(crc)) ^ third;
    at += 2 * kLane;
    left -= 3 * kLane;
  }
  for (; left >= 8; at += 8, left -= 8) crc = _mm_crc32_u64(crc, load_u64(at));
  auto narrow = static_cast<std::uint32_t>(crc);
  for (; left > 0; ++at, --left) narrow = _mm_crc32_u8(narrow, static_cast<unsigned char>(*at));
  return narrow ^ 0xffffffffu;
}

#endif

}  // namespace

void prefetch(std::span<const std::byte> data) {
  for (std::size_t line = 0; line < data.size(); line += kCacheLine) __builtin_prefetch(data.data() + line);
}

std::uint32_t crc32c_software(std::span<const std::byte> data, std::uint32_t seed) {
  std::uint32_t crc = seed ^ 0xffffffffu;
  const std::byte* at = data.data();
  std::size_t left = data.size();
  for (; left >= 8; at += 8, left -= 8) {
    const std::uint64_t word = load_u64(at) ^ crc;
    crc = 0;
    for (std::size_t k = 0; k < 8; ++k) crc ^= kByteTables[7 - k][word >> (8 * k) & 0xff];
  }
  for (; left > 0; ++at, --left) crc = (crc >> 8) ^ kByteTables[0][(crc ^ static_cast<std::uint32_t>(*at)) & 0xff];
  return crc ^ 0xffffffffu;
}

#if defined(__x86_64__)

bool crc32c_has_hardware() {
  static const bool has = __builtin_cpu_supports("sse4.2") != 0;
  return has;
}

std::uint32_t crc32c_hardware(std::span<const std::byte> data, std::uint32_t seed) {
  return hardware(data.data(), data.size(), seed);
}

#else

bool crc32c_has_hardware() {
  return false;
}

std::uint32_t crc32c_hardware(std::span<const std::byte> data, std::uint32_t seed) {
  return crc32c_software(data, seed);
}

#endif

std::uint32_t crc32c(std::span<const std::byte> data, std::uint32_t seed) {
  return crc32c_has_hardware() ? crc32c_hardware(data, seed) : crc32c_software(data, seed);
}

}  // namespace tidepool::pool
