// Goal: a real memory server keeps pages for those who hold a token, and for nobody else.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "tests/integration/memd/memd_process.h"

namespace tidepool::pool::server {
namespace {

using namespace testing;
using protocol::ErrorCode;

class MemdOver : public ::testing::TestWithParam<const char*> {
 protected:
  MemdClient connect() const { return GetParam() == std::string("unix") ? memd.connect_unix() : memd.connect_tcp(); }
  MemdProcess memd;
};

INSTANTIATE_TEST_SUITE_P(Transports, MemdOver, ::testing::Values("unix", "tcp"),
                         [](const auto& each) { return std::string(each.param); });

TEST_P(MemdOver, KeepsPagesInTheirVersions) {
  ASSERT_TRUE(memd.start());
  MemdClient client = connect();
  const protocol::Claims slice = claims_for(1, 1);
  ASSERT_EQ(client.open(slice), ErrorCode::kOk);
  EXPECT_TRUE(client.created);
  EXPECT_EQ(client.welcome.name, "test");
  EXPECT_GE(client.welcome.credit_pages, protocol::kMaxPagesPerFrame);
  PageAnswer page;
  EXPECT_EQ(client.read(slice, 0, page), ErrorCode::kEmpty);
  for (std::uint32_t slot = 0; slot < 256; ++slot)
    ASSERT_EQ(client.write(slice, slot, 10 + slot, page_with(slot, 4096 - slot)), ErrorCode::kOk);
  for (std::uint32_t slot = 0; slot < 256; ++slot) {
    ASSERT_EQ(client.read(slice, slot, page), ErrorCode::kOk);
    ASSERT_EQ(page.content, page_with(slot, 4096 - slot)) << slot;
    ASSERT_EQ(page.answer.version, 10 + slot);
    ASSERT_EQ(page.answer.tag[0], static_cast<std::uint8_t>(10 + slot));
  }
  EXPECT_EQ(client.write(slice, 3, 13, page_with(0)), ErrorCode::kStaleVersion);
  EXPECT_EQ(client.write(slice, 256, 1, page_with(0)), ErrorCode::kOutOfRange);
  EXPECT_EQ(client.discard(slice, 3, 14), ErrorCode::kOk);
  EXPECT_EQ(client.read(slice, 3, page), ErrorCode::kEmpty);
  EXPECT_EQ(client.ping(), ErrorCode::kOk);
  EXPECT_EQ(memd.metric("tidepool_memd_pages_total{op=\"write\"}"), 256);
  EXPECT_EQ(memd.metric("tidepool_memd_stored_pages"), 255);
  // Another connection of the same holder finds them.
  MemdClient second = connect();
  ASSERT_EQ(second.open(slice), ErrorCode::kOk);
  EXPECT_FALSE(second.created);
  ASSERT_EQ(second.read(slice, 7, page), ErrorCode::kOk);
  EXPECT_EQ(page.content, page_with(7, 4096 - 7));
}

TEST_P(MemdOver, AnswersWholeBatchesInOrder) {
  ASSERT_TRUE(memd.start());
  MemdClient client = connect();
  const protocol::Claims slice = claims_for(1, 1);
  ASSERT_EQ(client.open(slice), ErrorCode::kOk);
  std::vector<protocol::WriteEntry> entries;
  std::vector<protocol::ReadEntry> wanted;
  protocol::Buffer frame;
  for (std::uint32_t slot = 0; slot < protocol::kMaxPagesPerFrame; ++slot) {
    entries.push_back({slot, 1, protocol::kSlotBytes, {}});
    wanted.push_back({slot});
  }
  const std::uint64_t id = client.next_id();
  protocol::append_write(frame, id, client.scope(slice), entries);
  for (std::uint32_t slot = 0; slot < protocol::kMaxPagesPerFrame; ++slot) {
    const auto page = page_with(slot);
    frame.insert(frame.end(), page.begin(), page.end());
  }
  ASSERT_TRUE(client.send(frame));
  const auto written = client.await_answer(id);
  ASSERT_TRUE(written);
  const auto statuses = protocol::parse_item_statuses(written->body);
  ASSERT_TRUE(statuses && statuses->size() == protocol::kMaxPagesPerFrame);
  for (std::size_t i = 0; i < statuses->size(); ++i) ASSERT_EQ((*statuses)[i].status, ErrorCode::kOk);
  for (int round = 0; round < 50; ++round) {  // the credit, again and again
    client.send_read(slice, wanted);
    client.send_read(slice, wanted);
    for (int i = 0; i < 2; ++i) {
      const auto answer = client.receive();
      ASSERT_TRUE(answer && answer->header.status == ErrorCode::kOk);
      const auto pages = protocol::parse_read_answer(answer->body);
      ASSERT_TRUE(pages && pages->size() == wanted.size());
      std::uint32_t slot = 0;
      for (auto walk = pages->walk(); walk.next(); ++slot) {
        ASSERT_EQ(walk.entry().slot, slot);
        ASSERT_TRUE(std::ranges::equal(walk.payload(), page_with(slot)));
      }
    }
  }
}

TEST_P(MemdOver, GivesNothingWithoutAToken) {
  ASSERT_TRUE(memd.start());
  const protocol::Claims slice = claims_for(1, 1);
  MemdClient owner = connect();
  ASSERT_EQ(owner.open(slice), ErrorCode::kOk);
  ASSERT_EQ(owner.write(slice, 0, 1, page_with(1)), ErrorCode::kOk);

  PageAnswer page;
  MemdClient nobody = connect();
  ASSERT_EQ(nobody.hello(), ErrorCode::kOk);
  EXPECT_EQ(nobody.read(slice, 0, page), ErrorCode::kDenied);
  EXPECT_EQ(nobody.write(slice, 0, 2, page_with(2)), ErrorCode::kDenied);
  EXPECT_EQ(nobody.discard(slice, 0, 2), ErrorCode::kDenied);
  EXPECT_EQ(nobody.release(slice), ErrorCode::kDenied);
  EXPECT_EQ(nobody.ping(), ErrorCode::kDenied);

  protocol::ServerKey wrong = memd.key();
  wrong[31] ^= 1;
  MemdClient forger(GetParam() == std::string("unix") ? memd.unix_address() : memd.tcp_address(), wrong);
  ASSERT_EQ(forger.hello(), ErrorCode::kOk);
  EXPECT_EQ(forger.attach(slice), ErrorCode::kDenied);
  EXPECT_EQ(forger.read(slice, 0, page), ErrorCode::kDenied);
  while (forger.attach(slice) == ErrorCode::kDenied) {
  }
  EXPECT_TRUE(forger.await_end()) << "guessing comes to an end";
  EXPECT_EQ(memd.metric("tidepool_memd_bad_tokens_total"), 8);

  // A token for another slice reaches that one and no other; nobody else's token reaches this one.
  const protocol::Claims other = claims_for(2, 2);
  MemdClient stranger = connect();
  ASSERT_EQ(stranger.open(other), ErrorCode::kOk);
  EXPECT_EQ(stranger.read(slice, 0, page), ErrorCode::kNoSuchSlice);
  EXPECT_EQ(stranger.attach(claims_for(1, 2)), ErrorCode::kDenied);
  EXPECT_EQ(stranger.attach(claims_for(1, 2, 256, 99)), ErrorCode::kDenied);
  EXPECT_EQ(stranger.read(slice, 0, page), ErrorCode::kNoSuchSlice);

  // A right that the token does not have.
  protocol::Claims reader_claims = slice;
  reader_claims.rights = protocol::kRightRead;
  MemdClient reader = connect();
  ASSERT_EQ(reader.open(reader_claims), ErrorCode::kOk);
  EXPECT_EQ(reader.read(slice, 0, page), ErrorCode::kOk);
  EXPECT_EQ(reader.write(slice, 0, 9, page_with(9)), ErrorCode::kDenied);
  EXPECT_EQ(reader.release(slice), ErrorCode::kDenied);
  ASSERT_EQ(owner.read(slice, 0, page), ErrorCode::kOk);
  EXPECT_EQ(page.content, page_with(1));
}

TEST_P(MemdOver, RefusesFramesThatSomebodyTouched) {
  ASSERT_TRUE(memd.start());
  const protocol::Claims slice = claims_for(1, 1);
  MemdClient witness = connect();
  ASSERT_EQ(witness.open(slice), ErrorCode::kOk);
  MemdClient client = connect();
  ASSERT_EQ(client.open(slice), ErrorCode::kOk);
  protocol::Buffer frame;  // without a tag
  protocol::append_release(frame, 99, client.scope(slice));
  client.send_bytes(frame);
  EXPECT_TRUE(client.await_end());
  EXPECT_EQ(witness.ping(), ErrorCode::kOk) << "that was the end of one connection only";
  PageAnswer page;
  EXPECT_EQ(witness.read(slice, 0, page), ErrorCode::kEmpty) << "and nothing was released";
}

TEST_P(MemdOver, FencesALowerEpochAndForgetsNoneOfThem) {
  ASSERT_TRUE(memd.start());
  const protocol::Claims old_claims = claims_for(1, 1, 256, 4);
  const protocol::Claims new_claims = claims_for(1, 1, 256, 5);
  MemdClient old_client = connect();
  ASSERT_EQ(old_client.open(old_claims), ErrorCode::kOk);
  ASSERT_EQ(old_client.write(old_claims, 0, 1, page_with(1)), ErrorCode::kOk);
  MemdClient new_client = connect();
  ASSERT_EQ(new_client.open(new_claims), ErrorCode::kOk);
  EXPECT_EQ(old_client.write(old_claims, 0, 2, page_with(2)), ErrorCode::kStaleEpoch);
  PageAnswer page;
  EXPECT_EQ(old_client.read(old_claims, 0, page), ErrorCode::kStaleEpoch);
  EXPECT_EQ(old_client.attach(old_claims), ErrorCode::kStaleEpoch);
  ASSERT_EQ(new_client.read(new_claims, 0, page), ErrorCode::kOk);
  EXPECT_EQ(page.content, page_with(1));
}

TEST(Memd, RefusesTcpAndByDefaultUnixWithoutTags) {
  MemdProcess memd;
  ASSERT_TRUE(memd.start());
  EXPECT_EQ(memd.connect_tcp().hello(0), ErrorCode::kDenied);
  EXPECT_EQ(memd.connect_unix().hello(0), ErrorCode::kDenied);

  MemdProcess trusting(MemdSettings{{"authenticate_unix", "false"}});
  ASSERT_TRUE(trusting.start());
  EXPECT_EQ(trusting.connect_tcp().hello(0), ErrorCode::kDenied);
  MemdClient client = trusting.connect_unix();
  ASSERT_EQ(client.hello(0), ErrorCode::kOk);
  const protocol::Claims slice = claims_for(1, 1);
  PageAnswer page;
  EXPECT_EQ(client.read(slice, 0, page), ErrorCode::kDenied) << "a token is wanted all the same";
  ASSERT_EQ(client.attach(slice), ErrorCode::kOk);
  ASSERT_EQ(client.write(slice, 0, 1, page_with(1)), ErrorCode::kOk);
  ASSERT_EQ(client.read(slice, 0, page), ErrorCode::kOk);
  EXPECT_EQ(page.content, page_with(1));
}

// Whether the server's donated memory holds `content` anywhere.
bool memory_holds(const MemdProcess& memd, const std::vector<std::byte>& content) {
  const std::string folder = "/proc/" + std::to_string(memd.pid()) + "/fd";
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    std::error_code error;
    if (std::filesystem::read_symlink(entry.path(), error).string().find("tidepool-store-data") == std::string::npos)
      continue;
    const std::string memory = tests::read_file(entry.path());
    if (memory.find(std::string(static_cast<const char*>(static_cast<const void*>(content.data())), content.size())) !=
        std::string::npos)
      return true;
  }
  return false;
}

TEST(Memd, ZeroesWhatWasReleased) {
  MemdProcess memd;
  ASSERT_TRUE(memd.start());
  MemdClient client = memd.connect_unix();
  const protocol::Claims slice = claims_for(1, 1);
  ASSERT_EQ(client.open(slice), ErrorCode::kOk);
  for (std::uint32_t slot = 0; slot < 256; ++slot)
    ASSERT_EQ(client.write(slice, slot, 1, page_with(7)), ErrorCode::kOk);
  ASSERT_TRUE(memory_holds(memd, page_with(7)));
  ASSERT_EQ(client.release(slice), ErrorCode::kOk);
  PageAnswer page;
  EXPECT_EQ(client.read(slice, 0, page), ErrorCode::kNoSuchSlice);
  ASSERT_TRUE(tests::await([&] { return memd.metric("tidepool_memd_memory_bytes{state=\"scrubbing\"}") == 0; }));
  EXPECT_FALSE(memory_holds(memd, page_with(7)));
  EXPECT_EQ(memd.metric("tidepool_memd_memory_bytes{state=\"lent\"}"), 0);
  const protocol::Claims next = claims_for(2, 2, 60 * 256);
  ASSERT_EQ(client.attach(next), ErrorCode::kOk);
  EXPECT_EQ(client.read(next, 0, page), ErrorCode::kEmpty);
}

// The kernel takes rings apart after the process that had them is gone.
TEST(Memd, StartsWhenTheOneBeforeWasKilledThisMoment) {
  MemdProcess memd;
  for (int round = 0; round < 15; ++round) {
    ASSERT_TRUE(memd.start()) << round;
    MemdClient client = memd.connect_unix();
    ASSERT_EQ(client.open(claims_for(1, 1)), ErrorCode::kOk);
    memd.signal(SIGKILL);
    EXPECT_EQ(memd.await_end(), 128 + SIGKILL);
  }
}

TEST(Memd, IsAnotherOneAfterARestart) {
  MemdProcess memd;
  ASSERT_TRUE(memd.start());
  const protocol::Claims slice = claims_for(1, 1);
  MemdClient before = memd.connect_tcp();
  ASSERT_EQ(before.open(slice), ErrorCode::kOk);
  ASSERT_EQ(before.write(slice, 0, 1, page_with(1)), ErrorCode::kOk);
  memd.signal(SIGKILL);
  EXPECT_EQ(memd.await_end(), 128 + SIGKILL);
  EXPECT_TRUE(before.await_end());
  ASSERT_TRUE(memd.start());
  MemdClient after = memd.connect_tcp();
  ASSERT_EQ(after.open(slice), ErrorCode::kOk);
  EXPECT_TRUE(after.created);
  EXPECT_NE(after.boot, before.boot);
  PageAnswer page;
  EXPECT_EQ(after.read(slice, 0, page), ErrorCode::kEmpty);
  after.boot = before.boot;
  EXPECT_EQ(after.read(slice, 0, page), ErrorCode::kWrongBoot);
  EXPECT_EQ(after.write(slice, 0, 2, page_with(1)), ErrorCode::kWrongBoot);
}

}  // namespace
}  // namespace tidepool::pool::server
