#include "pool/store/crc32c.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <random>
#include <string_view>
#include <vector>

namespace tidepool::pool {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// RFC 3720 appendix B.4, and the check value of the CRC catalogue.
struct Vector {
  std::vector<std::byte> data;
  std::uint32_t crc;
};
std::vector<Vector> known_vectors() {
  std::vector<std::byte> rising(32);
  std::vector<std::byte> falling(32);
  for (std::size_t i = 0; i < 32; ++i) {
    rising[i] = static_cast<std::byte>(i);
    falling[i] = static_cast<std::byte>(31 - i);
  }
  const auto digits = bytes_of("123456789");
  return {{std::vector<std::byte>(32), 0x8a9136aa},
          {std::vector<std::byte>(32, std::byte{0xff}), 0x62a8ab43},
          {rising, 0x46dd794e},
          {falling, 0x113fdb5c},
          {{digits.begin(), digits.end()}, 0xe3069283},
          {{}, 0}};
}

TEST(Crc32c, GivesThePublishedValues) {
  for (const Vector& vector : known_vectors()) EXPECT_EQ(crc32c(vector.data), vector.crc);
}

// Bit by bit, as the polynomial is defined.
std::uint32_t by_definition(std::span<const std::byte> data, std::uint32_t seed) {
  constexpr std::uint32_t kReflectedPolynomial = 0x82f63b78;
  std::uint32_t crc = ~seed;
  for (const std::byte byte : data) {
    crc ^= static_cast<std::uint32_t>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = (crc & 1) != 0 ? (crc >> 1) ^ kReflectedPolynomial : crc >> 1;
  }
  return ~crc;
}

TEST(Crc32c, IsWhatItIsDefinedToBeAtEveryLengthAndAlignment) {
  std::mt19937 random(7);
  std::vector<std::byte> data(3 * 4096 + 64);
  for (std::byte& byte : data) byte = static_cast<std::byte>(random());
  for (std::size_t length = 0; length < 9000; length += length < 600 ? 1 : 61) {
    const std::size_t offset = length % 17;
    const auto part = std::span(data).subspan(offset, length);
    const auto seed = static_cast<std::uint32_t>(random());
    ASSERT_EQ(crc32c(part, seed), by_definition(part, seed)) << "length " << length;
  }
}

TEST(Crc32c, ContinuesWhereItLeftOff) {
  std::vector<std::byte> data(10000, std::byte{0x5a});
  data[9999] = std::byte{1};
  const auto whole = std::span<const std::byte>(data);
  for (const std::size_t cut : {0u, 1u, 4080u, 4096u, 9999u})
    EXPECT_EQ(crc32c(whole.subspan(cut), crc32c(whole.first(cut))), crc32c(whole));
}

TEST(Crc32c, NoticesASingleFlippedBitAnywhereInAPage) {
  std::array<std::byte, 4096> page{};
  const std::uint32_t sound = crc32c(page);
  for (std::size_t bit = 0; bit < page.size() * 8; bit += 13) {
    page[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
    ASSERT_NE(crc32c(page), sound);
    page[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
  }
}

}  // namespace
}  // namespace tidepool::pool
