// Goal: an operator can set a memory server up, change it and end it, and is told what is wrong.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>

#include <fstream>

#include "tests/integration/memd/memd_process.h"
#include "tests/support/small_tmpfs.h"

namespace tidepool::pool::server {
namespace {

using namespace testing;
using protocol::ErrorCode;
using tests::await;
using tests::run_program;

bool told(const Message& message, protocol::MessageType type) {
  return message.header.type == type && message.header.id == 0;
}

TEST(MemdProgram, EndsAtOnceWhenNothingIsLent) {
  MemdProcess memd;
  ASSERT_TRUE(memd.start());
  memd.signal(SIGTERM);
  EXPECT_EQ(memd.await_end(), 0);
}

TEST(MemdProgram, DrainsUntilItsHoldersAreGone) {
  MemdProcess memd;
  ASSERT_TRUE(memd.start());
  const protocol::Claims slice = claims_for(1, 1);
  MemdClient client = memd.connect_tcp();
  ASSERT_EQ(client.open(slice), ErrorCode::kOk);
  ASSERT_EQ(client.write(slice, 0, 1, page_with(1)), ErrorCode::kOk);
  memd.signal(SIGTERM);
  const auto news = client.receive();
  ASSERT_TRUE(news && told(*news, protocol::MessageType::kDraining));
  EXPECT_EQ(client.attach(claims_for(2, 1)), ErrorCode::kDrainingNow);
  PageAnswer page;
  ASSERT_EQ(client.read(slice, 0, page), ErrorCode::kOk);
  EXPECT_EQ(page.content, page_with(1));
  // Whoever comes late reaches what it has, and is told too.
  MemdClient late = memd.connect_unix();
  ASSERT_EQ(late.open(slice), ErrorCode::kOk);
  ASSERT_EQ(late.read(slice, 0, page), ErrorCode::kOk);
  EXPECT_EQ(late.unasked.size(), 1u);
  EXPECT_EQ(memd.metric("tidepool_memd_draining"), 1);
  ASSERT_EQ(client.release(slice), ErrorCode::kOk);
  EXPECT_EQ(memd.await_end(), 0);
}

TEST(MemdProgram, EndsWithSlicesWhenToldTwice) {
  MemdProcess memd;
  ASSERT_TRUE(memd.start());
  MemdClient client = memd.connect_tcp();
  ASSERT_EQ(client.open(claims_for(1, 1)), ErrorCode::kOk);
  memd.signal(SIGTERM);
  const auto news = client.receive();
  ASSERT_TRUE(news && told(*news, protocol::MessageType::kDraining));
  memd.signal(SIGTERM);
  EXPECT_EQ(memd.await_end(), 0);
  EXPECT_NE(memd.log().find("stopping at once"), std::string::npos);
}

TEST(MemdProgram, EndsWithSlicesWhenTheDrainTakesTooLong) {
  MemdProcess memd(MemdSettings{{"limits.drain_time", "\"1s\""}});
  ASSERT_TRUE(memd.start());
  MemdClient client = memd.connect_tcp();
  ASSERT_EQ(client.open(claims_for(1, 1)), ErrorCode::kOk);
  memd.signal(SIGTERM);
  EXPECT_EQ(memd.await_end(), 0);
  EXPECT_NE(memd.log().find("limits.drain_time is over"), std::string::npos);
}

TEST(MemdProgram, TakesOverWhatMayChange) {
  MemdProcess memd(MemdSettings{{"slices.most", "1"}});
  ASSERT_TRUE(memd.start());
  MemdClient client = memd.connect_tcp();
  ASSERT_EQ(client.open(claims_for(1, 1)), ErrorCode::kOk);
  ASSERT_EQ(client.attach(claims_for(2, 1)), ErrorCode::kFull);
  memd.write_settings({{"slices.most", "2"}, {"limits.credit_pages", "64"}, {"memory.capacity", "\"128MiB\""}});
  memd.signal(SIGHUP);
  const auto news = client.receive();
  ASSERT_TRUE(news && told(*news, protocol::MessageType::kCredit));
  EXPECT_EQ(protocol::parse_credit(news->body)->credit_pages, 64u);
  EXPECT_EQ(client.attach(claims_for(2, 1)), ErrorCode::kOk);
  ASSERT_TRUE(await([&] { return memd.log().find("configuration taken over") != std::string::npos; }));
  EXPECT_NE(memd.log().find("takes effect after a restart\" key=memory.capacity"), std::string::npos);
  memd.write_settings({{"slices.most", "0"}});
  memd.signal(SIGHUP);
  ASSERT_TRUE(await([&] { return memd.log().find("configuration not taken over") != std::string::npos; }));
  EXPECT_EQ(client.ping(), ErrorCode::kOk);
}

TEST(MemdProgram, SaysWhatIsWrongWithItsConfiguration) {
  MemdProcess memd;
  EXPECT_EQ(run_program({"tidepool-memd", "--check-config", memd.config()}).code, 0);
  memd.write_settings({{"limits.conections", "5"}});
  const auto unknown = run_program({"tidepool-memd", "--check-config", memd.config()});
  EXPECT_EQ(unknown.code, 1);
  EXPECT_NE(unknown.err.find("unknown key 'limits.conections'; did you mean 'limits.connections'?"), std::string::npos)
      << unknown.all();
  EXPECT_NE(unknown.err.find("memd.toml:"), std::string::npos);
  memd.write_settings({});
  ::chmod(memd.key_file().c_str(), 0640);
  const auto readable = run_program({"tidepool-memd", "--check-config", memd.config()});
  EXPECT_EQ(readable.code, 1);
  EXPECT_NE(readable.err.find("chmod 600"), std::string::npos) << readable.all();
  EXPECT_EQ(run_program({"tidepool-memd", "--config", memd.config()}).code, 1) << "nor does it serve with that";
  EXPECT_EQ(run_program({"tidepool-memd", "--config", "/nonexistent/memd.toml"}).code, 1);
  for (const tests::Words& words : {tests::Words{"tidepool-memd", "--nonsense"}, tests::Words{"tidepool-memd", "file"}})
    EXPECT_EQ(run_program(words).code, 2);
  EXPECT_EQ(run_program({"tidepool-memd", "--version"}).code, 0);
}

TEST(MemdProgram, LendsAFileAndRefusesWhatIsNotWhatItSays) {
  const tests::TestFolder folder;
  MemdProcess memd(MemdSettings{{"memory.kind", "\"file\""}, {"memory.path", "\"" + (folder / "memory") + "\""}});
  ASSERT_TRUE(memd.start());
  const protocol::Claims slice = claims_for(1, 1);
  MemdClient client = memd.connect_unix();
  ASSERT_EQ(client.open(slice), ErrorCode::kOk);
  ASSERT_EQ(client.write(slice, 255, 1, page_with(1)), ErrorCode::kOk);
  PageAnswer page;
  ASSERT_EQ(client.read(slice, 255, page), ErrorCode::kOk);
  EXPECT_EQ(page.content, page_with(1));

  MemdProcess wrong(MemdSettings{{"memory.kind", "\"hugetlb\""}, {"memory.path", "\"" + (folder / "other") + "\""}});
  const auto refused = run_program({"tidepool-memd", "--config", wrong.config()});
  EXPECT_EQ(refused.code, 1);
  EXPECT_NE(refused.err.find("memory.kind says hugetlb, and it is file"), std::string::npos) << refused.all();
}

TEST(MemdProgram, AnswersThatTheHostHasNoMemoryLeft) {
  const tests::SmallTmpfs small("size=2m");
  if (!small.mounted()) GTEST_SKIP() << "mounting a tmpfs needs root";
  MemdProcess memd(MemdSettings{{"memory.kind", "\"file\""},
                                {"memory.path", "\"" + (small / "memory") + "\""},
                                {"memory.capacity", "\"16MiB\""}});
  ASSERT_TRUE(memd.start());
  const protocol::Claims slice = claims_for(1, 1, 2048);
  MemdClient client = memd.connect_unix();
  ASSERT_EQ(client.open(slice), ErrorCode::kOk);
  PageAnswer page;
  std::uint32_t stored = 0;
  while (stored < 2048 && client.write(slice, stored, 1, page_with(stored)) == ErrorCode::kOk) ++stored;
  EXPECT_LE(stored, 512u);
  EXPECT_GE(stored, 256u);
  EXPECT_EQ(client.write(slice, stored, 2, page_with(0)), ErrorCode::kFull);
  EXPECT_EQ(client.read(slice, stored, page), ErrorCode::kEmpty);
  for (std::uint32_t slot = 0; slot < stored; ++slot) {
    ASSERT_EQ(client.read(slice, slot, page), ErrorCode::kOk);
    ASSERT_EQ(page.content, page_with(slot));
  }
}

TEST(MemdProgram, RefusesASocketThatIsServed) {
  MemdProcess memd;
  ASSERT_TRUE(memd.start());
  const auto second = run_program({"tidepool-memd", "--config", memd.config()});
  EXPECT_EQ(second.code, 1);
  EXPECT_NE(second.err.find("another memory server is running"), std::string::npos) << second.all();
  MemdClient client = memd.connect_unix();
  EXPECT_EQ(client.open(claims_for(1, 1)), ErrorCode::kOk);
}

}  // namespace
}  // namespace tidepool::pool::server
