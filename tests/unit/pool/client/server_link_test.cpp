// Goal: what a well-behaved server and its client can expect of a link.
#include "pool/client/endpoint.h"
#include "tests/unit/pool/client/link_rig.h"

namespace tidepool::pool {
namespace {

using namespace std::chrono_literals;
using protocol::ErrorCode;
using protocol::MessageType;
using protocol::SliceId;

enum class Way { kUnix, kUnixWithTags, kTcp };

class EveryWay : public testing::TestWithParam<Way> {
 protected:
  static ServerSettings settings() { return {.tcp = GetParam() == Way::kTcp}; }
  static void options(ServerLinkOptions& options) { options.authenticate_unix = GetParam() == Way::kUnixWithTags; }
};
INSTANTIATE_TEST_SUITE_P(ServerLink, EveryWay, testing::Values(Way::kUnix, Way::kUnixWithTags, Way::kTcp));

TEST_P(EveryWay, PagesComeBackAsTheyWereWritten) {
  LinkRig rig(settings(), options);
  EXPECT_EQ(rig.attach(1).outcome, AttachOutcome::kCreated);
  std::vector<std::uint32_t> slots;
  for (std::uint32_t slot = 0; slot < protocol::kMaxPagesPerFrame; ++slot) slots.push_back(slot * 3);
  Asked write(LinkOp::kWrite, SliceId{1}, slots, Priority::kWriteBack);
  write.fill(5, 1);
  ASSERT_EQ(rig.ask(write), LinkOutcome::kAnswered);
  for (const Priority priority : {Priority::kDemand, Priority::kPrefetch}) {
    Asked read(LinkOp::kRead, SliceId{1}, slots, priority);
    ASSERT_EQ(rig.ask(read), LinkOutcome::kAnswered);
    for (std::size_t i = 0; i < slots.size(); ++i) {
      ASSERT_EQ(read.item(i).status, ErrorCode::kOk);
      ASSERT_TRUE(read.holds(i, 5)) << i;
      EXPECT_EQ(read.item(i).version, 1u);
      EXPECT_EQ(read.item(i).tag, write.item(i).tag);
    }
  }
  Asked discard(LinkOp::kDiscard, SliceId{1}, {3, 6}, Priority::kWriteBack);
  discard.item(0).version = 2;
  discard.item(1).version = 1;
  ASSERT_EQ(rig.ask(discard), LinkOutcome::kAnswered);
  EXPECT_EQ(discard.item(0).status, ErrorCode::kOk);
  EXPECT_EQ(discard.item(1).status, ErrorCode::kStaleVersion);
  Asked read(LinkOp::kRead, SliceId{1}, {3, 6});
  ASSERT_EQ(rig.ask(read), LinkOutcome::kAnswered);
  EXPECT_EQ(read.item(0).status, ErrorCode::kEmpty);
  EXPECT_EQ(read.item(1).status, ErrorCode::kOk);
}

TEST_P(EveryWay, ManyThreadsAskAtOnce) {
  LinkRig rig(settings(), options);
  ASSERT_EQ(rig.attach(1).outcome, AttachOutcome::kCreated);
  constexpr int kThreads = 4;
  constexpr int kRounds = 150;
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  std::atomic<int> wrong{0};
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      for (int round = 1; round <= kRounds; ++round) {
        const auto first = static_cast<std::uint8_t>(thread * 50 + round);
        const std::uint32_t slot = static_cast<std::uint32_t>(thread);
        if (!rig.write(slot, first, static_cast<std::uint64_t>(round))) ++wrong;
        if (!rig.reads(slot, first, round % 2 == 0 ? Priority::kDemand : Priority::kPrefetch)) ++wrong;
        rig.link().take_answers();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  const LinkFigures figures = rig.link().figures();
  EXPECT_EQ(figures.requests, 2u * kThreads * kRounds);
  EXPECT_EQ(figures.pages_under_way, 0u);
  EXPECT_EQ(figures.bad_frames, 0u);
  EXPECT_GT(figures.typical_read.count(), 0);
  EXPECT_GE(figures.slow_read, figures.typical_read);
}

// What is asked for while answers are told goes out together: by whoever takes them, beside another thread that asks.
TEST_P(EveryWay, WhatIsAskedForInAnswersIsAnswered) {
  LinkRig rig(settings(), options);
  ASSERT_EQ(rig.attach(1).outcome, AttachOutcome::kCreated);
  ASSERT_TRUE(rig.write(1, 5, 1));
  constexpr int kChains = 40;
  constexpr int kLinks = 60;
  for (const Priority priority : {Priority::kDemand, Priority::kPrefetch}) {
    struct Chain {
      std::array<std::byte, 4096> page;
      LinkItem item;
      LinkRequest request;
      int left = kLinks;
    };
    std::vector<Chain> chains(kChains);
    std::atomic<int> ended{0};
    std::atomic<int> wrong{0};
    for (Chain& chain : chains) {
      chain.item.slot = 1;
      chain.item.payload = chain.page.data();
      chain.request.slice = SliceId{1};
      chain.request.items = {&chain.item, 1};
      chain.request.priority = priority;
      chain.request.done = [&](LinkRequest& request, LinkOutcome outcome) {
        if (outcome != LinkOutcome::kAnswered || chain.page[7] != Asked::content(5, 0, 7)) ++wrong;
        chain.page.fill(std::byte{});
        if (--chain.left == 0) {
          ++ended;
        } else {
          rig.link().submit(request);
        }
      };
    }
    for (Chain& chain : chains) rig.link().submit(chain.request);
    int others = 0;
    const bool all = eventually([&] {
      rig.link().take_answers();
      if (++others % 8 == 0 && !rig.reads(1, 5, priority)) ++wrong;
      return ended == kChains;
    });
    ASSERT_TRUE(all) << ended;
    EXPECT_EQ(wrong, 0);
  }
  EXPECT_EQ(rig.link().figures().pages_under_way, 0u);
}

TEST(ServerLink, AnswersAreTakenByWhoeverWatchesTheDescriptor) {
  // The link's own thread does not look for a long time.
  LinkRig rig({}, [](ServerLinkOptions& options) { options.take_after = kLongEnough; });
  std::atomic<bool> attached{false};
  rig.link().attach(rig.lease(1), [&](AttachOutcome, ErrorCode) { attached = true; });
  ASSERT_TRUE(eventually([&] {
    rig.link().take_answers();
    return attached.load();
  }));
  ASSERT_TRUE(rig.write(4, 9, 1));
  Asked read(LinkOp::kRead, SliceId{1}, {4});
  rig.link().submit(read.request());
  const auto begun = std::chrono::steady_clock::now();
  while (read.times() == 0) {
    pollfd wait{rig.link().answers_descriptor(), POLLIN, 0};
    ASSERT_EQ(::poll(&wait, 1, static_cast<int>(std::chrono::milliseconds(kLongEnough).count())), 1);
    rig.link().take_answers();
    ASSERT_LT(std::chrono::steady_clock::now() - begun, kLongEnough);
  }
  EXPECT_TRUE(read.holds(0, 9));
}

TEST(ServerLink, OwnersMayAskAgainFromTheirAnswer) {
  LinkRig rig;
  ASSERT_EQ(rig.attach(1).outcome, AttachOutcome::kCreated);
  Asked second(LinkOp::kRead, SliceId{1}, {2});
  Asked first(LinkOp::kRead, SliceId{1}, {1});
  first.request().done = [&](LinkRequest&, LinkOutcome) { rig.link().submit(second.request()); };
  rig.link().submit(first.request());
  EXPECT_EQ(second.wait(), LinkOutcome::kAnswered);
}

TEST(ServerLink, SlicesThatWereNotAttachedAreRefused) {
  LinkRig rig;
  ASSERT_EQ(rig.attach(1).outcome, AttachOutcome::kCreated);
  Asked read(LinkOp::kRead, SliceId{2}, {1});
  EXPECT_EQ(rig.ask(read), LinkOutcome::kRefused);
  EXPECT_EQ(read.request().refusal, ErrorCode::kNoSuchSlice);
}

TEST(ServerLink, AWrongTokenIsRefusedAndARightOneStillWorks) {
  LinkRig rig;
  Lease wrong = rig.lease(1);
  wrong.secret[0] ^= 1;
  EXPECT_EQ(rig.attach(wrong), (LinkRig::Attached{AttachOutcome::kRefused, ErrorCode::kDenied}));
  EXPECT_EQ(rig.attach(1).outcome, AttachOutcome::kCreated);
  EXPECT_EQ(rig.attach(1).outcome, AttachOutcome::kAttached);
  EXPECT_EQ(rig.attach(wrong), (LinkRig::Attached{AttachOutcome::kRefused, ErrorCode::kDenied}));
  EXPECT_EQ(rig.ups().size(), 1u);
}

TEST(ServerLink, ASliceThatIsGivenBackIsGone) {
  LinkRig rig;
  ASSERT_EQ(rig.attach(1).outcome, AttachOutcome::kCreated);
  ASSERT_EQ(rig.attach(2).outcome, AttachOutcome::kCreated);
  rig.link().release(SliceId{1});
  EXPECT_TRUE(eventually([&] { return rig.server().attached_slices() == 1; }));
  Asked read(LinkOp::kRead, SliceId{1}, {1});
  EXPECT_EQ(rig.ask(read), LinkOutcome::kRefused);
  EXPECT_EQ(rig.attach(1).outcome, AttachOutcome::kCreated);
}

TEST(ServerLink, GoesWhereItsServerIsReachedFromNowOn) {
  LinkRig rig;
  ASSERT_EQ(rig.attach(1).outcome, AttachOutcome::kCreated);
  // Another start of it, elsewhere and of another kind of address. The former one is still there and hangs.
  ServerSettings settings = rig.settings();
  settings.tcp = true;
  settings.boot = {2};
  settings.key[0] ^= 1;
  ScriptedServer other(settings);
  EXPECT_FALSE(rig.link().move_to("nowhere"));
  EXPECT_TRUE(rig.link().move_to(rig.server().address())) << "it is there already";
  EXPECT_EQ(rig.downs().size(), 0u);
  rig.link().expect_boot(settings.boot);
  ASSERT_TRUE(rig.link().move_to(other.address()));
  EXPECT_TRUE(eventually([&] { return rig.ups().size() == 2; }));
  EXPECT_FALSE(rig.ups().back()) << "what the former one had is gone";
  EXPECT_EQ(other.accepted(), 2u);
  Lease lease = rig.lease(1, 2);
  lease.secret = protocol::lease_secret(settings.key, lease.claims);
  EXPECT_EQ(rig.attach(lease).outcome, AttachOutcome::kCreated);
}

TEST(ServerLink, CreditIsObeyedAndPrefetchOvertakesWriteBack) {
  LinkRig rig({.credit = 0});
  ASSERT_EQ(rig.attach(1).outcome, AttachOutcome::kCreated);
  Asked write(LinkOp::kWrite, SliceId{1}, {1}, Priority::kWriteBack);
  write.fill(1, 1);
  Asked cancelled(LinkOp::kRead, SliceId{1}, {1}, Priority::kPrefetch);
  Asked read(LinkOp::kRead, SliceId{1}, {1}, Priority::kPrefetch);
  rig.link().submit(write.request());
  rig.link().submit(cancelled.request());
  rig.link().submit(read.request());
  EXPECT_TRUE(rig.link().cancel(cancelled.request()));
  EXPECT_EQ(cancelled.times(), 1);
  EXPECT_EQ(cancelled.wait(), LinkOutcome::kCancelled);
  // A discard takes no credit: when it is answered, the others could have been sent.
  Asked discard(LinkOp::kDiscard, SliceId{1}, {9}, Priority::kDemand);
  discard.item(0).version = 1;
  ASSERT_EQ(rig.ask(discard), LinkOutcome::kAnswered);
  EXPECT_EQ(read.times() + write.times(), 0);
  rig.server().grant(1);
  EXPECT_EQ(write.wait(), LinkOutcome::kAnswered);
  EXPECT_EQ(read.wait(), LinkOutcome::kAnswered);
  EXPECT_EQ(rig.server().requests_for_pages(),
            (std::vector{MessageType::kDiscard, MessageType::kRead, MessageType::kWrite}));
  EXPECT_FALSE(rig.link().cancel(read.request()));
}

TEST(ServerLink, MoreThanTheServerTakesAtOnceWaitsItsTurn) {
  LinkRig rig({.credit = 64});
  ASSERT_EQ(rig.attach(1).outcome, AttachOutcome::kCreated);
  std::vector<std::uint32_t> slots;
  for (std::uint32_t slot = 0; slot < protocol::kMaxPagesPerFrame; ++slot) slots.push_back(slot);
  std::vector<std::unique_ptr<Asked>> writes;
  for (std::uint64_t version = 1; version <= 40; ++version) {
    writes.push_back(std::make_unique<Asked>(LinkOp::kWrite, SliceId{1}, slots, Priority::kWriteBack));
    writes.back()->fill(static_cast<std::uint8_t>(version), version);
    rig.link().submit(writes.back()->request());
  }
  for (const auto& write : writes) ASSERT_EQ(write->wait(), LinkOutcome::kAnswered);
  EXPECT_TRUE(rig.reads(0, 40));
}

TEST(ServerLink, AServerThatDrainsIsToldOnce) {
  LinkRig rig;
  ASSERT_EQ(rig.attach(1).outcome, AttachOutcome::kCreated);
  rig.server().announce_draining();
  EXPECT_TRUE(eventually([&] { return rig.drainings() == 1; }));
  EXPECT_TRUE(rig.write(1, 1, 1));
  EXPECT_EQ(rig.drainings(), 1);
}

TEST(ServerLink, AnIdleServerIsAskedWhetherItLives) {
  LinkRig rig({}, [](ServerLinkOptions& options) { options.ping_after = 10ms; });
  ASSERT_EQ(rig.attach(1).outcome, AttachOutcome::kCreated);
  EXPECT_TRUE(eventually([&] { return rig.server().pings() >= 4; }));
  EXPECT_EQ(rig.ups().size(), 1u);
}

// Servers cut whoever shows no lease.
TEST(ServerLink, ALinkThatHoldsNothingLosesNothing) {
  LinkRig rig({}, [](ServerLinkOptions& options) { options.longest_retry = 5ms; });
  ASSERT_TRUE(rig.up_times(1));
  for (std::size_t connections = 2; connections <= 6; connections += 2) {
    ASSERT_TRUE(eventually([&] { return rig.server().accepted() >= connections; }));
    // Longer than longest_retry: what is cut at once is a loss.
    std::this_thread::sleep_for(300ms);
    rig.server().cut();
  }
  ASSERT_TRUE(eventually([&] { return rig.server().accepted() >= 8; }));
  EXPECT_EQ(rig.attach(1).outcome, AttachOutcome::kCreated);
  EXPECT_TRUE(rig.downs().empty());
  EXPECT_EQ(rig.ups().size(), 1u);
}

TEST(ServerLink, ClosingEndsWhatIsUnderWay) {
  LinkRig rig;
  ASSERT_EQ(rig.attach(1).outcome, AttachOutcome::kCreated);
  rig.server().deed(Deed::kHold);
  Asked demand(LinkOp::kRead, SliceId{1}, {1});
  Asked bulk(LinkOp::kRead, SliceId{1}, {1}, Priority::kPrefetch);
  rig.link().submit(demand.request());
  rig.link().submit(bulk.request());
  rig.close();
  for (Asked* asked : {&demand, &bulk}) {
    EXPECT_EQ(asked->times(), 1);
    EXPECT_EQ(asked->wait(), LinkOutcome::kLost);
  }
}

TEST(ServerLink, AnAttachWaitsForAServerThatComesLater) {
  LinkRig rig;
  ASSERT_TRUE(rig.up_times(1));
  rig.server().stop();
  ASSERT_TRUE(eventually([&] { return !rig.is_up(); }));
  Asked read(LinkOp::kRead, SliceId{1}, {1});
  EXPECT_EQ(rig.ask(read), LinkOutcome::kLost);
  std::thread later([&] { rig.server().restart(rig.settings()); });
  EXPECT_EQ(rig.attach(1).outcome, AttachOutcome::kCreated);
  later.join();
}

TEST(ServerLink, AnAttachDoesNotWaitForEver) {
  LinkRig rig({}, [](ServerLinkOptions& options) { options.attach_patience = 20ms; });
  ASSERT_TRUE(rig.up_times(1));
  rig.server().stop();
  ASSERT_TRUE(eventually([&] { return !rig.is_up(); }));
  EXPECT_EQ(rig.attach(1).outcome, AttachOutcome::kLost);
}

TEST(Endpoint, UnderstandsAddresses) {
  const auto unix_socket = parse_endpoint("unix:/run/tidepool/memd.socket");
  ASSERT_TRUE(unix_socket);
  EXPECT_TRUE(unix_socket->is_unix);
  EXPECT_EQ(unix_socket->path, "/run/tidepool/memd.socket");
  const auto name = parse_endpoint("tcp:shelf-3.example:7001");
  ASSERT_TRUE(name);
  EXPECT_EQ(name->host, "shelf-3.example");
  EXPECT_EQ(name->port, "7001");
  const auto six = parse_endpoint("tcp:[2001:db8::1]:7001");
  ASSERT_TRUE(six);
  EXPECT_EQ(six->host, "2001:db8::1");
  for (const char* text :
       {"", "unix:", "unix:relative", "tcp:", "tcp:host", "tcp:host:", "tcp::7", "tcp:host:0", "tcp:host:65536",
        "tcp:host:7x", "tcp:host:-7", "tcp:2001:db8::1:7", "tcp:[]:7", "udp:host:7", "host:7", "tcp:two words:7"}) {
    EXPECT_FALSE(parse_endpoint(text)) << text;
  }
  EXPECT_FALSE(parse_endpoint("unix:/" + std::string(108, 'a')));
}

TEST(Endpoint, LooksNamesUp) {
  LinkRig rig({.tcp = true}, [](ServerLinkOptions& options) {
    options.address.replace(options.address.find("127.0.0.1"), 9, "localhost");
  });
  EXPECT_EQ(rig.attach(1).outcome, AttachOutcome::kCreated);
}

TEST(Endpoint, SaysWhyNobodyIsThere) {
  ServerLinkOptions options{.name = "a", .address = "unix:/nonexistent/socket"};
  auto link = make_server_link(options);
  ASSERT_TRUE(link);
  (*link)->listen({});
  EXPECT_TRUE(eventually([&] { return (*link)->figures().why.find("/nonexistent/socket") != std::string::npos; }))
      << (*link)->figures().why;
}

}  // namespace
}  // namespace tidepool::pool
