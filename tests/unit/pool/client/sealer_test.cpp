// A server may do to a sealed page what it likes: only what was sealed for that place and that time opens.
#include "pool/client/sealer.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <random>
#include <vector>

#include "tests/unit/pool/store/store_kit.h"

namespace tidepool::pool {
namespace {

using testing::make_page;
using testing::Page;

SealKey key_of(std::uint8_t seed) {
  SealKey key;
  for (std::size_t i = 0; i < key.size(); ++i) key[i] = static_cast<std::uint8_t>(seed * 31 + i);
  return key;
}

std::unique_ptr<Sealer> sealer_of(std::uint8_t seed) {
  auto sealer = make_sealer(key_of(seed));
  EXPECT_TRUE(sealer);
  return std::move(*sealer);
}

struct Sealed {
  SealPlace place;
  std::vector<std::byte> bytes;
  protocol::Tag tag{};
  Page plain;
};

Sealed seal(Sealer& sealer, const SealPlace& place, const Page& page, std::size_t length = kPageSize) {
  Sealed sealed{place, std::vector<std::byte>(length), {}, page};
  EXPECT_TRUE(sealer.seal(place, std::span(page.bytes).first(length), sealed.bytes.data(), sealed.tag));
  return sealed;
}

bool opens(Sealer& sealer, const SealPlace& place, const Sealed& sealed, Page* plain = nullptr) {
  Page own;
  const bool opened = sealer.open(place, sealed.bytes, sealed.tag, own.bytes.data());
  if (plain != nullptr) *plain = own;
  if (!opened) {
    for (std::size_t i = 0; i < sealed.bytes.size(); ++i)
      EXPECT_EQ(own.bytes[i], std::byte{0}) << "text of a page that did not open is left at " << i;
  }
  return opened;
}

TEST(Sealer, GivesBackWhatItSealed) {
  const auto sealer = sealer_of(1);
  for (const std::size_t length : {std::size_t{1}, std::size_t{17}, std::size_t{2049}, std::size_t{kPageSize}}) {
    const Sealed sealed = seal(*sealer, {protocol::SliceId{7}, 5, 1000 + length}, make_page(length), length);
    Page plain;
    ASSERT_TRUE(opens(*sealer, sealed.place, sealed, &plain));
    EXPECT_EQ(std::memcmp(plain.bytes.data(), sealed.plain.bytes.data(), length), 0);
    EXPECT_TRUE(length <= 16 || std::memcmp(sealed.bytes.data(), sealed.plain.bytes.data(), length) != 0);
  }
}

TEST(Sealer, SealsAndOpensInPlace) {
  const auto sealer = sealer_of(1);
  const Page page = make_page(3);
  Page work = page;
  protocol::Tag tag{};
  const SealPlace place{protocol::SliceId{1}, 2, 3};
  ASSERT_TRUE(sealer->seal(place, work.bytes, work.bytes.data(), tag));
  ASSERT_TRUE(sealer->open(place, work.bytes, tag, work.bytes.data()));
  EXPECT_EQ(work, page);
}

// Computed with another library: whoever has the key can read a page without this program.
TEST(Sealer, IsAes256GcmWithTheVersionAsNonce) {
  const auto sealer = make_sealer(SealKey{});
  ASSERT_TRUE(sealer);
  protocol::Tag tag{};
  std::array<std::byte, 16> sealed{};
  ASSERT_TRUE((*sealer)->seal({protocol::SliceId{0x0102030405060708}, 0x0a0b0c0d, 0x1112131415161718},
                              std::array<std::byte, 16>{}, sealed.data(), tag));
  const std::array<std::uint8_t, 16> text{0x5b, 0x09, 0xde, 0x69, 0x26, 0xd7, 0x84, 0x14,
                                          0x41, 0x35, 0x10, 0x1f, 0x35, 0x57, 0x6d, 0x00};
  const std::array<std::uint8_t, 16> mark{0x18, 0xf8, 0xdb, 0xb6, 0xfd, 0x40, 0x05, 0xb0,
                                          0x0d, 0xff, 0xd9, 0xe7, 0x92, 0x01, 0x44, 0x86};
  EXPECT_EQ(std::memcmp(sealed.data(), text.data(), 16), 0);
  EXPECT_EQ(tag, mark);
}

TEST(Sealer, RefusesVersionNoughtAndTooLongPages) {
  const auto sealer = sealer_of(1);
  std::vector<std::byte> page(kPageSize + 1);
  protocol::Tag tag{};
  EXPECT_FALSE(sealer->seal({protocol::SliceId{1}, 0, 0}, page, page.data(), tag));
  EXPECT_FALSE(sealer->seal({protocol::SliceId{1}, 0, 1}, page, page.data(), tag));
  EXPECT_FALSE(sealer->open({protocol::SliceId{1}, 0, 1}, page, tag, page.data()));
}

TEST(Sealer, NoOtherKeyOpens) {
  const Sealed sealed = seal(*sealer_of(1), {protocol::SliceId{7}, 5, 9}, make_page(1));
  EXPECT_FALSE(opens(*sealer_of(2), sealed.place, sealed));
}

TEST(Sealer, DetectsEveryTampering) {
  const std::uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  const auto sealer = sealer_of(9);
  // Two slices of sixteen slots, written over and over; what a server has seen of a slot, it keeps.
  std::map<std::pair<std::uint64_t, std::uint32_t>, std::vector<Sealed>> seen;
  std::uint64_t version = 1ull << kCounterBits;
  const auto any = [&](std::uint64_t below) { return random() % below; };
  const auto write = [&](std::uint64_t slice, std::uint32_t slot) {
    const std::size_t length = any(2) == 0 ? kPageSize : 1 + any(kPageSize);
    seen[{slice, slot}].push_back(
        seal(*sealer, {protocol::SliceId{slice}, slot, ++version}, make_page(random()), length));
  };
  for (std::uint64_t slice = 1; slice <= 2; ++slice)
    for (std::uint32_t slot = 0; slot < 16; ++slot) write(slice, slot), write(slice, slot);
  for (int round = 0; round < 4000; ++round) {
    write(1 + any(2), static_cast<std::uint32_t>(any(16)));
    auto& history = seen[{1 + any(2), static_cast<std::uint32_t>(any(16))}];
    const Sealed& expected = history.back();
    ASSERT_TRUE(opens(*sealer, expected.place, expected));
    Sealed answer = expected;
    switch (any(6)) {
      case 0:  // a bit of the page
        answer.bytes[any(answer.bytes.size())] ^= std::byte{static_cast<std::uint8_t>(1u << any(8))};
        break;
      case 1:  // a bit of the tag
        answer.tag[any(answer.tag.size())] ^= static_cast<std::uint8_t>(1u << any(8));
        break;
      case 2: {  // another slot's page
        const auto& other = seen[{1 + any(2), static_cast<std::uint32_t>(any(16))}];
        if (&other == &history) continue;
        answer = other.back();
        break;
      }
      case 3:  // an older version of the same slot
        answer = history[any(history.size() - 1)];
        break;
      case 4:  // cut short
        answer.bytes.resize(any(answer.bytes.size()));
        break;
      case 5:  // another page's tag
        answer.tag = history[any(history.size() - 1)].tag;
        break;
    }
    ASSERT_FALSE(opens(*sealer, expected.place, answer)) << "round " << round;
  }
}

TEST(Sealer, BindsSliceSlotAndVersionEach) {
  const auto sealer = sealer_of(4);
  const Sealed sealed = seal(*sealer, {protocol::SliceId{7}, 5, 9}, make_page(1));
  EXPECT_FALSE(opens(*sealer, {protocol::SliceId{8}, 5, 9}, sealed));
  EXPECT_FALSE(opens(*sealer, {protocol::SliceId{7}, 6, 9}, sealed));
  EXPECT_FALSE(opens(*sealer, {protocol::SliceId{7}, 5, 10}, sealed));
  EXPECT_TRUE(opens(*sealer, {protocol::SliceId{7}, 5, 9}, sealed));
}

}  // namespace
}  // namespace tidepool::pool
