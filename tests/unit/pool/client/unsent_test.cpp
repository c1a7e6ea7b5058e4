// Goal: whatever the socket takes at a time, and whenever an owner wants its memory back, the bytes of all frames come
// out once and in order.
#include "pool/client/unsent.h"

#include <gtest/gtest.h>

#include <array>
#include <random>
#include <vector>

namespace tidepool::pool {
namespace {

using Bytes = std::vector<std::byte>;

Bytes some(std::mt19937_64& random, std::size_t most) {
  Bytes bytes(random() % (most + 1));
  for (std::byte& each : bytes) each = static_cast<std::byte>(random());
  return bytes;
}

// Takes as much as it likes, as a socket does.
Bytes take(Unsent& unsent, std::size_t most) {
  std::array<iovec, Unsent::kMostParts> parts{};
  const std::size_t count = unsent.parts(parts);
  Bytes taken;
  for (std::size_t i = 0; i < count; ++i) {
    const auto* const bytes = static_cast<const std::byte*>(parts[i].iov_base);
    const std::size_t part = std::min(parts[i].iov_len, most - taken.size());
    taken.insert(taken.end(), bytes, bytes + part);
  }
  unsent.sent(taken.size());
  return taken;
}

TEST(Unsent, GivesEveryByteOnceAndInOrder) {
  const std::uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 500; ++round) {
    Unsent unsent;
    Bytes expected, came;
    std::vector<Bytes> payloads;  // the owner's memory
    const auto hold = [&](std::size_t pieces, const void* owner) {
      const Bytes head = some(random, 100), tail = some(random, 16);
      payloads.resize(pieces);
      std::vector<protocol::Piece> lent;
      Bytes whole = head;
      for (Bytes& payload : payloads) {
        payload = some(random, 300);
        lent.emplace_back(payload);
        whole.insert(whole.end(), payload.begin(), payload.end());
      }
      whole.insert(whole.end(), tail.begin(), tail.end());
      // The socket takes some of it at once, if nothing is in front.
      const std::size_t sent = unsent.empty() ? random() % (whole.size() + 1) : 0;
      came.insert(came.end(), whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(sent));
      expected.insert(expected.end(), whole.begin(), whole.end());
      unsent.hold(head, lent, tail, sent, owner);
    };
    hold(random() % 5, &payloads);
    while (!unsent.empty()) {
      switch (random() % 4) {
        case 0:
          if (expected.size() < 5000) {
            // The link's own frames come behind; another request's only when there is nothing left.
            std::vector<Bytes> aside = std::move(payloads);
            hold(0, nullptr);
            payloads = std::move(aside);
          }
          break;
        case 1:
          if (unsent.owner() == &payloads) {
            unsent.give_back();
            EXPECT_EQ(unsent.owner(), nullptr);
            for (Bytes& payload : payloads) std::ranges::fill(payload, std::byte{0xee});
          }
          break;
        default:
          const Bytes part = take(unsent, random() % 700);
          came.insert(came.end(), part.begin(), part.end());
      }
    }
    EXPECT_EQ(unsent.owner(), nullptr);
    ASSERT_EQ(came, expected);
  }
}

}  // namespace
}  // namespace tidepool::pool
