// Goal: whatever a client does, it does it to itself: others are served, and memory stays within the configuration.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <random>

#include "pool/server/outbox.h"
#include "tests/integration/memd/memd_process.h"

namespace tidepool::pool::server {
namespace {

using namespace testing;
using protocol::ErrorCode;
using tests::await;

class HostileClients : public ::testing::Test {
 protected:
  void begin(const MemdSettings& settings = {}) {
    memd_ = std::make_unique<MemdProcess>(settings);
    ASSERT_TRUE(memd_->start());
    witness_ = std::make_unique<MemdClient>(memd_->connect_tcp());
    ASSERT_EQ(witness_->open(slice_), ErrorCode::kOk);
    ASSERT_EQ(witness_->write(slice_, 0, 1, page_with(1)), ErrorCode::kOk);
  }
  // Somebody else is served as ever.
  void expect_unharmed() {
    PageAnswer page;
    ASSERT_EQ(witness_->read(slice_, 0, page), ErrorCode::kOk);
    EXPECT_EQ(page.content, page_with(1));
  }

  std::unique_ptr<MemdProcess> memd_;
  std::unique_ptr<MemdClient> witness_;
  const protocol::Claims slice_ = claims_for(1, 1);
};

std::vector<std::byte> garbage(std::mt19937_64& random, std::size_t bytes) {
  std::vector<std::byte> result(bytes);
  for (std::byte& each : result) each = static_cast<std::byte>(random());
  return result;
}

TEST_F(HostileClients, GarbageEndsTheirConnectionOnly) {
  begin();
  std::mt19937_64 random(20261127);
  for (int round = 0; round < 60; ++round) {
    MemdClient client = round % 2 == 0 ? memd_->connect_unix() : memd_->connect_tcp();
    ASSERT_TRUE(client.valid());
    if (round % 3 == 1) {
      ASSERT_EQ(client.hello(), ErrorCode::kOk);
    }
    if (round % 3 == 2) {
      ASSERT_EQ(client.open(claims_for(2, 2)), ErrorCode::kOk);
    }
    client.send_bytes(garbage(random, 24 + random() % 5000));
    EXPECT_TRUE(client.await_end()) << "round " << round;
  }
  expect_unharmed();
  EXPECT_GE(memd_->metric("tidepool_memd_connections_cut_total{reason=\"bad_frame\"}"), 60);
  EXPECT_TRUE(await([&] { return memd_->metric("tidepool_memd_connections") == 1; }));
}

TEST_F(HostileClients, ValidHeadersWithGarbageBodiesAreAnsweredAndEnd) {
  begin(MemdSettings{{"authenticate_unix", "false"}});
  std::mt19937_64 random(7);
  for (std::uint16_t type = 0; type < 20; ++type) {
    for (const std::uint32_t bytes : {0u, 1u, 31u, 40u, 41u, 72u, 500u}) {
      MemdClient client = memd_->connect_unix();
      ASSERT_EQ(client.hello(0), ErrorCode::kOk);
      ASSERT_EQ(client.attach(claims_for(2, 2)), ErrorCode::kOk);
      protocol::Buffer frame;
      protocol::Header header;
      header.type = protocol::MessageType{type};
      header.body_bytes = bytes;
      header.id = 77;
      protocol::append_header(frame, header);
      const auto body = garbage(random, bytes);
      frame.insert(frame.end(), body.begin(), body.end());
      ASSERT_TRUE(client.send_bytes(frame));
      const auto answer = client.receive();
      ASSERT_TRUE(answer) << "type " << type << ", bytes " << bytes;
      if (answer->header.status == ErrorCode::kMalformed) {
        EXPECT_TRUE(client.await_end()) << "type " << type << ", bytes " << bytes;
      } else {
        EXPECT_EQ(client.ping(), ErrorCode::kOk) << "type " << type << ", bytes " << bytes;
      }
    }
  }
  expect_unharmed();
}

TEST_F(HostileClients, HalfAFrameHoldsUpNobody) {
  begin(MemdSettings{{"limits.handshake_time", "\"1s\""}});
  MemdClient silent = memd_->connect_tcp();
  MemdClient half_hello = memd_->connect_unix();
  const std::array<std::byte, 10> some{std::byte{0x54}, std::byte{0x44}, std::byte{0x50}, std::byte{0x31}};
  ASSERT_TRUE(half_hello.send_bytes(some));
  MemdClient half_write = memd_->connect_tcp();
  const protocol::Claims other = claims_for(2, 2);
  ASSERT_EQ(half_write.open(other), ErrorCode::kOk);
  protocol::Buffer frame;
  const protocol::WriteEntry entry{0, 1, protocol::kSlotBytes, {}};
  protocol::append_write(frame, half_write.next_id(), half_write.scope(other), std::span(&entry, 1));
  ASSERT_TRUE(half_write.send_bytes(frame));  // and no payload
  expect_unharmed();
  EXPECT_TRUE(silent.await_end()) << "no token in time";
  EXPECT_TRUE(half_hello.await_end());
  EXPECT_EQ(memd_->metric("tidepool_memd_connections_cut_total{reason=\"silent\"}"), 2);
  // Cut in the middle: nothing of it is done.
  ::shutdown(half_write.fd(), SHUT_RDWR);
  ASSERT_TRUE(await([&] { return memd_->metric("tidepool_memd_connections") == 1; }));
  MemdClient after = memd_->connect_tcp();
  ASSERT_EQ(after.open(other), ErrorCode::kOk);
  PageAnswer page;
  EXPECT_EQ(after.read(other, 0, page), ErrorCode::kEmpty);
  expect_unharmed();
}

// Sends READs of 64 pages until the socket takes no more; returns how many went out.
int flood(MemdClient& client, const protocol::Claims& slice) {
  std::vector<protocol::ReadEntry> slots;
  for (std::uint32_t slot = 0; slot < protocol::kMaxPagesPerFrame; ++slot) slots.push_back({slot});
  const timeval short_patience{1, 0};
  ::setsockopt(client.fd(), SOL_SOCKET, SO_SNDTIMEO, &short_patience, sizeof short_patience);
  int sent = 0;
  protocol::Buffer frame;
  protocol::append_read(frame, 5, client.scope(slice), slots);
  while (sent < 100'000 && client.send_bytes(frame)) ++sent;
  return sent;
}

TEST_F(HostileClients, WhoDoesNotReadIsNotReadFromAndCutInTheEnd) {
  begin(MemdSettings{{"authenticate_unix", "false"}, {"limits.stall_time", "\"2s\""}});
  const protocol::Claims other = claims_for(2, 2);
  MemdClient client = memd_->connect_unix();
  ASSERT_EQ(client.hello(0), ErrorCode::kOk);
  ASSERT_EQ(client.attach(other), ErrorCode::kOk);
  for (std::uint32_t slot = 0; slot < protocol::kMaxPagesPerFrame; ++slot)
    ASSERT_EQ(client.write(other, slot, 1, page_with(slot)), ErrorCode::kOk);
  const std::uint64_t before = memd_->own_memory();
  EXPECT_LT(flood(client, other), 100'000) << "the server went on reading";
  EXPECT_GT(memd_->metric("tidepool_memd_refused_total{code=\"overloaded\"}"), 0);
  EXPECT_LT(memd_->own_memory(), before + Outbox::most_bytes(128) + (std::size_t{16} << 20));
  expect_unharmed();
  EXPECT_TRUE(await([&] { return memd_->metric("tidepool_memd_connections_cut_total{reason=\"slow\"}") == 1; }));
  expect_unharmed();
}

TEST_F(HostileClients, WhoAsksForMoreThanTheCreditIsToldSoAndServedAfterwards) {
  begin(MemdSettings{{"authenticate_unix", "false"}});
  const protocol::Claims other = claims_for(2, 2);
  MemdClient client = memd_->connect_unix();
  ASSERT_EQ(client.hello(0), ErrorCode::kOk);
  ASSERT_EQ(client.attach(other), ErrorCode::kOk);
  for (std::uint32_t slot = 0; slot < protocol::kMaxPagesPerFrame; ++slot)
    ASSERT_EQ(client.write(other, slot, 1, page_with(slot)), ErrorCode::kOk);
  const int sent = flood(client, other);
  int overloaded = 0;
  for (int i = 0; i < sent; ++i) {
    const auto answer = client.receive();
    ASSERT_TRUE(answer) << i << " of " << sent;
    if (answer->header.status == ErrorCode::kOverloaded) {
      ++overloaded;
      continue;
    }
    ASSERT_EQ(answer->header.status, ErrorCode::kOk);
    const auto page = MemdClient::first_page(*answer);
    ASSERT_TRUE(page);
    ASSERT_EQ(page->content, page_with(0));
  }
  EXPECT_GT(overloaded, 0);
}

TEST_F(HostileClients, ConnectionsBeyondALimitAreTurnedAway) {
  begin(MemdSettings{{"limits.connections", "8"}, {"limits.pending", "4"}});
  std::vector<std::unique_ptr<MemdClient>> clients;
  for (int i = 0; i < 4; ++i) {
    clients.push_back(std::make_unique<MemdClient>(memd_->connect_tcp()));
    ASSERT_EQ(clients.back()->hello(), ErrorCode::kOk);
  }
  EXPECT_TRUE(memd_->connect_tcp().await_end()) << "too many that have shown nothing";
  for (const auto& each : clients) ASSERT_EQ(each->attach(slice_), ErrorCode::kOk);
  for (int i = 0; i < 3; ++i) {
    clients.push_back(std::make_unique<MemdClient>(memd_->connect_unix()));
    ASSERT_EQ(clients.back()->open(slice_), ErrorCode::kOk) << i;
  }
  EXPECT_TRUE(memd_->connect_unix().await_end()) << "too many";
  EXPECT_EQ(memd_->metric("tidepool_memd_connections_refused_total"), 2);
  clients.pop_back();
  EXPECT_TRUE(await([&] { return memd_->metric("tidepool_memd_connections") == 7; }));
  EXPECT_EQ(memd_->connect_unix().hello(), ErrorCode::kOk);
  expect_unharmed();
}

TEST_F(HostileClients, SixtyFourConnectionsAndAThousandSlicesFitIntoWhatIsConfigured) {
  // 1,000 slices of one chunk each, and as much again that is not lent.
  begin(MemdSettings{{"memory.capacity", "\"512MiB\""}, {"slices.most", "1000"}});
  constexpr std::size_t kConnections = 64;
  constexpr std::uint64_t kSlices = 999;  // and that of the witness
  std::vector<std::unique_ptr<MemdClient>> clients;
  for (std::size_t i = 0; i < kConnections; ++i) {
    clients.push_back(std::make_unique<MemdClient>(i % 2 == 0 ? memd_->connect_unix() : memd_->connect_tcp()));
    ASSERT_EQ(clients.back()->hello(), ErrorCode::kOk);
  }
  const auto claims_of = [](std::uint64_t i) {
    return claims_for(100 + i, static_cast<std::uint8_t>(1 + i % kConnections), 64);
  };
  for (std::uint64_t i = 0; i < kSlices; ++i) {
    MemdClient& client = *clients[i % kConnections];
    ASSERT_EQ(client.attach(claims_of(i)), ErrorCode::kOk) << i;
    ASSERT_EQ(client.write(claims_of(i), 63, 1, page_with(i)), ErrorCode::kOk) << i;
  }
  EXPECT_EQ(clients[0]->attach(claims_for(5000, 1, 1)), ErrorCode::kFull);
  for (std::uint64_t i = 0; i < kSlices; ++i) {
    PageAnswer page;
    ASSERT_EQ(clients[i % kConnections]->read(claims_of(i), 63, page), ErrorCode::kOk) << i;
    ASSERT_EQ(page.content, page_with(i)) << i;
  }
  EXPECT_EQ(memd_->metric("tidepool_memd_slices"), 1000);
  EXPECT_EQ(memd_->metric("tidepool_memd_connections"), 65);
  EXPECT_LE(memd_->donated_memory(), std::uint64_t{512} << 20);
  // Buffers of all connections at their largest, marks, and the program itself.
  EXPECT_LT(memd_->own_memory(),
            65 * (Outbox::most_bytes(128) + (std::size_t{600} << 10)) + (std::uint64_t{512} << 20) / 100 + (64u << 20));
  expect_unharmed();
}

}  // namespace
}  // namespace tidepool::pool::server
