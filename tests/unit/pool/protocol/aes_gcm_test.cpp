// Goal: whichever library does it, the same bytes come out, and nothing opens but what was sealed.
#include "pool/protocol/aes_gcm.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace tidepool::protocol {
namespace {

using Bytes = std::vector<std::byte>;

AesKey key_of(std::uint8_t first) {
  AesKey key;
  for (std::size_t i = 0; i < key.size(); ++i) key[i] = static_cast<std::uint8_t>(first + i);
  return key;
}
Bytes random_bytes(std::mt19937_64& random, std::size_t count) {
  Bytes bytes(count);
  for (std::byte& each : bytes) each = static_cast<std::byte>(random());
  return bytes;
}
AesGcm::Nonce random_nonce(std::mt19937_64& random) {
  AesGcm::Nonce nonce;
  for (std::uint8_t& each : nonce) each = static_cast<std::uint8_t>(random());
  return nonce;
}
std::size_t some_length(std::mt19937_64& random) {
  return random() % 3 == 0 ? 4096 : random() % 300;
}
std::unique_ptr<AesGcm> plain_one(const AesKey& key) {
  auto made = make_plain_aes_gcm(key);
  EXPECT_TRUE(made) << made.error().message();
  return std::move(*made);
}

// Test case 14 of "The Galois/Counter Mode of Operation" (McGrew, Viega).
TEST(AesGcm, GivesThePublishedTag) {
  auto cipher = make_aes_gcm({});
  ASSERT_TRUE(cipher);
  std::array<std::byte, 16> text{};
  Tag tag{};
  ASSERT_TRUE((*cipher)->seal({}, {}, text, text.data(), tag));
  const std::array<std::uint8_t, 4> first{0xce, 0xa7, 0x40, 0x3d};
  EXPECT_TRUE(std::ranges::equal(std::span(text).first(4), std::as_bytes(std::span(first))));
  EXPECT_EQ(tag, (Tag{0xd0, 0xd1, 0xc8, 0xa7, 0x99, 0x99, 0x6b, 0xf0, 0x26, 0x5b, 0x98, 0xb5, 0xd4, 0x8a, 0xb9, 0x19}));
}

TEST(AesGcm, WideAndPlainAgree) {
  const auto wide = make_wide_aes_gcm(key_of(7));
  if (wide == nullptr) GTEST_SKIP() << "no ipsec-mb in this build, or no VAES in this processor";
  const auto plain = plain_one(key_of(7));
  const std::uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 500; ++round) {
    const AesGcm::Nonce nonce = random_nonce(random);
    const Bytes associated = random_bytes(random, some_length(random));
    const Bytes text = random_bytes(random, some_length(random));
    Bytes one(text.size()), other(text.size()), opened(text.size());
    Tag tag{}, same{};
    ASSERT_TRUE(plain->seal(nonce, associated, text, one.data(), tag));
    ASSERT_TRUE(wide->seal(nonce, associated, text, other.data(), same));
    ASSERT_EQ(one, other);
    ASSERT_EQ(tag, same);
    ASSERT_TRUE(wide->open(nonce, associated, one, tag, opened.data()));
    ASSERT_EQ(opened, text);
    ASSERT_TRUE(plain->open(nonce, associated, other, same, opened.data()));
    ASSERT_EQ(opened, text);
  }
}

TEST(AesGcm, TheTagOfPiecesIsThatOfTheWhole) {
  const std::uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  const auto reference = plain_one(key_of(1));
  auto made = make_aes_gcm(key_of(1));
  ASSERT_TRUE(made);
  for (int round = 0; round < 300; ++round) {
    const AesGcm::Nonce nonce = random_nonce(random);
    const Bytes whole = random_bytes(random, random() % 9000);
    std::vector<Piece> pieces;
    for (std::size_t at = 0; at < whole.size();) {
      const std::size_t length = std::min(whole.size() - at, random() % 2 == 0 ? random() % 40 : random() % 5000);
      pieces.push_back(Piece(whole).subspan(at, length));
      at += length;
    }
    const std::size_t first = pieces.empty() ? 0 : random() % pieces.size();
    const std::array<Piece, 1> all{whole};
    Tag expected{}, tag{};
    ASSERT_TRUE(reference->authenticate(nonce, all, {}, expected));
    ASSERT_TRUE((*made)->authenticate(nonce, std::span(pieces).first(first), std::span(pieces).subspan(first), tag));
    ASSERT_EQ(tag, expected);
    Tag sealed{};
    std::byte nothing{};
    ASSERT_TRUE(reference->seal(nonce, whole, {}, &nothing, sealed));
    ASSERT_EQ(sealed, expected) << "GMAC is GCM without a text";
  }
}

TEST(AesGcm, OpensNothingElseAndLeavesNoText) {
  const std::uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  auto made = make_aes_gcm(key_of(3));
  ASSERT_TRUE(made);
  AesGcm& cipher = **made;
  for (int round = 0; round < 300; ++round) {
    AesGcm::Nonce nonce = random_nonce(random);
    Bytes associated = random_bytes(random, 1 + some_length(random));
    Bytes sealed = random_bytes(random, 1 + some_length(random));
    Tag tag{};
    ASSERT_TRUE(cipher.seal(nonce, associated, sealed, sealed.data(), tag));
    const auto flip = [&](std::byte& in) { in ^= static_cast<std::byte>(1u << random() % 8); };
    switch (random() % 4) {
      case 0:
        flip(sealed[random() % sealed.size()]);
        break;
      case 1:
        flip(associated[random() % associated.size()]);
        break;
      case 2:
        tag[random() % tag.size()] ^= 1;
        break;
      default:
        nonce[random() % nonce.size()] ^= 1;
    }
    Bytes text(sealed.size(), std::byte{0xff});
    ASSERT_FALSE(cipher.open(nonce, associated, sealed, tag, text.data()));
    ASSERT_EQ(text, Bytes(sealed.size()));
  }
}

}  // namespace
}  // namespace tidepool::protocol
