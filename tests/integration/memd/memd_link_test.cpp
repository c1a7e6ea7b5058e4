// Goal: the client that hosts use and the server understand each other.
#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <memory>

#include "pool/client/server_link.h"
#include "tests/integration/memd/memd_process.h"

namespace tidepool::pool::server {
namespace {

using namespace testing;
using protocol::ErrorCode;
using tests::await;

class LinkTo : public ::testing::TestWithParam<const char*> {
 protected:
  void connect(const MemdSettings& settings = {}) {
    memd_ = std::make_unique<MemdProcess>(settings);
    ASSERT_TRUE(memd_->start());
    ServerLinkOptions options;
    options.name = "test";
    options.address = GetParam() == std::string("tcp") ? memd_->tcp_address() : memd_->unix_address();
    options.authenticate_unix = GetParam() != std::string("plain");
    auto link = make_server_link(options);
    ASSERT_TRUE(link) << link.error().message();
    link_ = std::move(*link);
    LinkEvents events;
    events.up = [this](bool same_boot) {
      if (!same_boot) ++other_boots_;
      ++ups_;
    };
    events.down = [](const std::string&) {};
    events.draining = [this] { ++drainings_; };
    link_->listen(std::move(events));
    ASSERT_TRUE(await([this] { return ups_ == 1; })) << link_->figures().why;
  }

  ErrorCode attach(AttachOutcome expected) {
    const Lease lease{claims_, protocol::lease_secret(memd_->key(), claims_)};
    std::atomic<bool> answered{false};
    AttachOutcome outcome{};
    ErrorCode code{};
    link_->attach(lease, [&](AttachOutcome came, ErrorCode why) {
      outcome = came;
      code = why;
      answered = true;
    });
    EXPECT_TRUE(await([&] { return answered.load(); }));
    EXPECT_EQ(outcome, expected);
    return code;
  }

  LinkOutcome run(LinkOp op, std::vector<LinkItem>& items, Priority priority = Priority::kDemand) {
    LinkRequest request;
    request.op = op;
    request.slice = claims_.slice;
    request.items = items;
    request.priority = priority;
    std::atomic<bool> answered{false};
    LinkOutcome outcome{};
    request.done = [&](LinkRequest&, LinkOutcome came) {
      outcome = came;
      answered = true;
    };
    link_->submit(request);
    EXPECT_TRUE(await([&] { return answered.load(); }));
    return outcome;
  }

  const protocol::Claims claims_ = claims_for(1, 1, 1024);
  std::unique_ptr<MemdProcess> memd_;
  std::atomic<int> ups_{0};
  std::atomic<int> other_boots_{0};
  std::atomic<int> drainings_{0};
  std::unique_ptr<Link> link_;  // last: its thread ends first
};

INSTANTIATE_TEST_SUITE_P(Transports, LinkTo, ::testing::Values("unix", "plain", "tcp"),
                         [](const auto& each) { return std::string(each.param); });

std::vector<LinkItem> items_for(std::vector<std::vector<std::byte>>& pages, std::uint32_t first,
                                std::uint64_t version) {
  std::vector<LinkItem> items(pages.size());
  for (std::uint32_t i = 0; i < items.size(); ++i) {
    items[i].slot = first + i;
    items[i].version = version;
    items[i].length = protocol::kSlotBytes;
    items[i].payload = pages[i].data();
  }
  return items;
}

TEST_P(LinkTo, KeepsPagesAndGivesThemBack) {
  connect(MemdSettings{{"authenticate_unix", GetParam() == std::string("plain") ? "false" : "true"}});
  ASSERT_EQ(attach(AttachOutcome::kCreated), ErrorCode::kOk);
  for (std::uint32_t first = 0; first < 1024; first += protocol::kMaxPagesPerFrame) {
    std::vector<std::vector<std::byte>> pages;
    for (std::uint32_t i = 0; i < protocol::kMaxPagesPerFrame; ++i) pages.push_back(page_with(first + i));
    auto items = items_for(pages, first, 7);
    ASSERT_EQ(run(LinkOp::kWrite, items, Priority::kWriteBack), LinkOutcome::kAnswered);
    for (const LinkItem& each : items) ASSERT_EQ(each.status, ErrorCode::kOk);
  }
  for (std::uint32_t slot = 0; slot < 1024; slot += 3) {
    std::vector<std::vector<std::byte>> pages(1, std::vector<std::byte>(protocol::kSlotBytes));
    auto items = items_for(pages, slot, 0);
    ASSERT_EQ(run(LinkOp::kRead, items), LinkOutcome::kAnswered);
    ASSERT_EQ(items[0].status, ErrorCode::kOk);
    ASSERT_EQ(items[0].version, 7u);
    ASSERT_EQ(pages[0], page_with(slot));
  }
  std::vector<LinkItem> gone(1);
  gone[0].slot = 5;
  gone[0].version = 8;
  ASSERT_EQ(run(LinkOp::kDiscard, gone), LinkOutcome::kAnswered);
  EXPECT_EQ(gone[0].status, ErrorCode::kOk);
  EXPECT_EQ(memd_->metric("tidepool_memd_stored_pages"), 1023);
  link_->release(claims_.slice);
  EXPECT_TRUE(await([this] { return memd_->metric("tidepool_memd_slices") == 0; }));
}

TEST_P(LinkTo, SeesThatTheServerHasBegunAnewAndThatItWantsToEnd) {
  connect(MemdSettings{{"authenticate_unix", GetParam() == std::string("plain") ? "false" : "true"}});
  ASSERT_EQ(attach(AttachOutcome::kCreated), ErrorCode::kOk);
  memd_->signal(SIGKILL);
  memd_->await_end();
  ASSERT_TRUE(memd_->start());
  ASSERT_TRUE(await([this] { return ups_ == 2; })) << link_->figures().why;
  EXPECT_EQ(other_boots_, 1);
  ASSERT_EQ(attach(AttachOutcome::kCreated), ErrorCode::kOk);
  memd_->signal(SIGTERM);
  EXPECT_TRUE(await([this] { return drainings_ > 0; }));
  link_->release(claims_.slice);
  EXPECT_EQ(memd_->await_end(), 0);
}

}  // namespace
}  // namespace tidepool::pool::server
