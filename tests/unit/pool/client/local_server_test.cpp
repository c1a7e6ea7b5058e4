// A page store of this host in the place of a memory server: as a server for itself, and as the last resort of a remote
// store.
#include "pool/client/local_server.h"

#include <gtest/gtest.h>

#include "pool/store/mapped_store.h"
#include "tests/support/memory_store.h"
#include "tests/unit/pool/client/remote_kit.h"

namespace tidepool::pool::testing {
namespace {

using protocol::ErrorCode;
using protocol::SliceId;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::uint32_t kSlots = 16;

std::shared_ptr<LocalServer> local_server(Bytes capacity = Bytes{16u << 20}) {
  auto store = create_mapped_store({.capacity = capacity});
  EXPECT_TRUE(store) << store.error().message();
  return std::make_shared<LocalServer>("spill", std::move(*store));
}

class LocalServerTest : public ::testing::Test {
 protected:
  AttachOutcome attach(std::uint64_t slice, std::uint32_t slots = kSlots,
                       std::uint32_t rights = protocol::kRightCreate) {
    AttachOutcome seen = AttachOutcome::kLost;
    link->attach({.claims = {.slice = SliceId{slice}, .slots = slots, .rights = rights}},
                 [&](AttachOutcome outcome, ErrorCode) { seen = outcome; });
    return seen;
  }
  // The status of its one item; that of the request where it is refused.
  ErrorCode ask(LinkOp op, std::uint32_t slot, std::uint64_t version, Page* page = nullptr, std::uint16_t length = 4096,
                std::uint64_t slice = 1) {
    item = {.slot = slot, .version = version, .length = length, .payload = page ? page->bytes.data() : nullptr};
    item.tag.fill(static_cast<std::uint8_t>(version));
    LinkRequest request;
    request.op = op;
    request.slice = SliceId{slice};
    request.items = {&item, 1};
    LinkOutcome seen = LinkOutcome::kLost;
    request.done = [&](LinkRequest&, LinkOutcome outcome) { seen = outcome; };
    link->submit(request);
    return seen == LinkOutcome::kRefused ? request.refusal : item.status;
  }

  std::shared_ptr<LocalServer> server = local_server();
  std::unique_ptr<Link> link = make_local_link(server);
  LinkItem item;
};

TEST_F(LocalServerTest, IsUpFromTheStart) {
  bool up = false;
  link->listen({.up = [&](bool same_boot) { up = same_boot; }, .down = {}, .draining = {}});
  EXPECT_TRUE(up);
  EXPECT_EQ(link->figures().state, LinkState::kUp);
}

TEST_F(LocalServerTest, MakesASliceOnceAndKnowsItAgain) {
  EXPECT_EQ(attach(1, kSlots, 0), AttachOutcome::kRefused) << "nobody asked for a new one";
  EXPECT_EQ(attach(1), AttachOutcome::kCreated);
  EXPECT_EQ(attach(1), AttachOutcome::kAttached);
  EXPECT_EQ(attach(1, kSlots + 1), AttachOutcome::kRefused) << "it is of another size";
  EXPECT_EQ(attach(2, 0), AttachOutcome::kRefused);
  EXPECT_EQ(attach(2, ~0u), AttachOutcome::kRefused);
}

TEST_F(LocalServerTest, GivesBackWhatItWasGiven) {
  attach(1);
  Page page = make_page(1);
  EXPECT_EQ(ask(LinkOp::kWrite, 3, 10, &page, 1000), ErrorCode::kOk);
  Page back;
  EXPECT_EQ(ask(LinkOp::kRead, 3, 0, &back), ErrorCode::kOk);
  EXPECT_EQ(item.version, 10u);
  EXPECT_EQ(item.length, 1000u);
  EXPECT_EQ(item.tag[0], 10u);
  const Page written = make_page(1);
  EXPECT_EQ(std::memcmp(back.bytes.data(), written.bytes.data(), 1000), 0);
  EXPECT_EQ(ask(LinkOp::kRead, 4, 0, &back), ErrorCode::kEmpty);
  EXPECT_EQ(ask(LinkOp::kRead, kSlots, 0, &back), ErrorCode::kOutOfRange);
  EXPECT_EQ(ask(LinkOp::kWrite, kSlots, 11, &page), ErrorCode::kOutOfRange);
  EXPECT_EQ(ask(LinkOp::kWrite, 4, 11, &page, 4097), ErrorCode::kMalformed);
  EXPECT_EQ(ask(LinkOp::kRead, 3, 0, &back, 0, 2), ErrorCode::kNoSuchSlice);
}

TEST_F(LocalServerTest, TakesHigherVersionsOnly) {
  attach(1);
  Page page = make_page(1);
  EXPECT_EQ(ask(LinkOp::kWrite, 3, 10, &page), ErrorCode::kOk);
  EXPECT_EQ(ask(LinkOp::kWrite, 3, 10, &page), ErrorCode::kStaleVersion) << "a delayed duplicate";
  EXPECT_EQ(ask(LinkOp::kDiscard, 3, 9), ErrorCode::kStaleVersion);
  EXPECT_EQ(ask(LinkOp::kWrite, 3, 12, &page), ErrorCode::kOk);
  EXPECT_EQ(server->store().usage().pages, PageCount{1}) << "the old one is gone";
  EXPECT_EQ(ask(LinkOp::kDiscard, 3, 13), ErrorCode::kOk);
  EXPECT_EQ(server->store().usage().pages, PageCount{0});
  EXPECT_EQ(ask(LinkOp::kWrite, 3, 13, &page), ErrorCode::kStaleVersion) << "a late write brings nothing back";
}

TEST_F(LocalServerTest, HasNothingOfASliceThatWasReleased) {
  attach(1);
  attach(2);
  Page page = make_page(1);
  for (const std::uint64_t slice : {1, 2}) ask(LinkOp::kWrite, 0, 1, &page, 4096, slice);
  const Bytes tables = server->tables();
  link->release(SliceId{1});
  EXPECT_EQ(server->store().usage().pages, PageCount{1});
  EXPECT_EQ(server->tables().value, tables.value / 2);
  EXPECT_EQ(ask(LinkOp::kRead, 0, 0, &page), ErrorCode::kNoSuchSlice);
  EXPECT_EQ(attach(1), AttachOutcome::kCreated);
  EXPECT_EQ(ask(LinkOp::kRead, 0, 0, &page), ErrorCode::kEmpty);
  // And nothing at all when its last user ends.
  link.reset();
  EXPECT_EQ(server->store().usage().pages, PageCount{0});
  EXPECT_EQ(server->tables(), Bytes{});
}

TEST_F(LocalServerTest, SaysWhenItIsFull) {
  auto store = std::make_unique<tests::MemoryStore>();
  store->full = true;
  server = std::make_shared<LocalServer>("spill", std::move(store));
  link = make_local_link(server);
  attach(1);
  Page page = make_page(1);
  EXPECT_EQ(ask(LinkOp::kWrite, 0, 1, &page), ErrorCode::kFull);
  EXPECT_EQ(ask(LinkOp::kRead, 0, 0, &page), ErrorCode::kEmpty);
}

// ---- as the last resort

std::uint64_t spilled(const RemoteWorld& world) {
  for (const RemoteServerFigures& server : world.store->figures().servers)
    if (server.server == "spill") return server.slices + server.filling;
  return 0;
}

bool await_that(RemoteWorld& world, const std::function<bool()>& condition) {
  for (int i = 0; i < 3000 && !condition(); ++i) world.pass(milliseconds(10));
  return condition();
}

class LastResort : public ::testing::Test {
 protected:
  void SetUp() override {
    world.spill = local_server();
    world.options.lost_after = seconds(2);
    world.create();
  }
  void lose(std::size_t server) {
    world.network.cut(world.network.server(server));
    world.network.restart(world.network.server(server));
  }

  RemoteWorld world{1, 2};
};

TEST_F(LastResort, HasNothingWhileThereAreServersEnough) {
  const auto locations = world.write(seeds_from(0, 1200));
  EXPECT_EQ(spilled(world), 0u);
  world.pass(seconds(1));
  EXPECT_EQ(spilled(world), 0u);
  EXPECT_EQ(world.spill->store().usage().pages, PageCount{0});
}

TEST_F(LastResort, StandsInForAServerThatIsLostAndGivesAllBack) {
  const auto before = world.write(seeds_from(0, 600));
  lose(0);
  // What goes out now has two places at once.
  const auto after = world.write(seeds_from(600, 600));
  EXPECT_EQ(world.spill->store().usage().pages, PageCount{600});
  // What was there before follows when it has stayed away for long enough.
  ASSERT_TRUE(
      await_that(world, [&] { return is_whole(world) && world.spill->store().usage().pages == PageCount{1200}; }));
  // The other one may go.
  world.network.cut(world.network.server(1));
  world.pass(milliseconds(100));
  expect_all(world, before);
  expect_all(world, after, 600);
  world.network.heal(world.network.server(1));
  world.network.heal(world.network.server(0));
  ASSERT_TRUE(await_that(world, [&] { return is_whole(world) && spilled(world) == 0; }));
  EXPECT_EQ(world.spill->store().usage().pages, PageCount{0});
  expect_all(world, before);
  expect_all(world, after, 600);
  EXPECT_EQ(world.store->figures().lost_pages, 0u);
}

TEST_F(LastResort, IsNeverTheOnlyPlaceThatAPageGoesTo) {
  const auto before = world.write(seeds_from(0, 100));
  lose(0);
  ASSERT_TRUE(await_that(world, [&] { return is_whole(world) && spilled(world) != 0; }));
  world.network.cut(world.network.server(1));
  world.pass(milliseconds(100));
  EXPECT_NE(world.try_write(1000), PageStatus::kOk);
  world.pass(seconds(5));
  EXPECT_NE(world.try_write(1001), PageStatus::kOk);
  expect_all(world, before);
  world.network.heal(world.network.server(1));
  world.pass(milliseconds(100));
  EXPECT_EQ(world.try_write(1002), PageStatus::kOk);
}

TEST_F(LastResort, IsASecondPlaceWhereThereIsButOneServer) {
  RemoteWorld alone(2, 1);
  alone.spill = local_server();
  alone.create();
  const auto locations = alone.write(seeds_from(0, 100));
  EXPECT_EQ(spilled(alone), 1u);
  EXPECT_EQ(alone.store->figures().degraded_slices, 0u);
  alone.network.cut(alone.network.server(0));
  alone.pass(milliseconds(100));
  expect_all(alone, locations);
}

// To a successor it is a server that came back empty.
TEST_F(LastResort, IsNotBelievedBySuccessors) {
  const auto locations = world.write(seeds_from(0, 100));
  lose(0);
  ASSERT_TRUE(await_that(world, [&] { return is_whole(world) && spilled(world) != 0; }));
  ASSERT_TRUE(world.succeed());
  expect_all(world, locations);
  ASSERT_TRUE(await_that(world, [&] { return is_whole(world) && spilled(world) != 0; }));
  expect_all(world, locations);
  EXPECT_EQ(world.store->figures().lost_pages, 0u);
}

}  // namespace
}  // namespace tidepool::pool::testing
