// The remote store, case by case.
#include "pool/client/remote_store.h"

#include <gtest/gtest.h>

#include <set>

#include "tests/unit/pool/client/remote_kit.h"

namespace tidepool::pool::testing {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

TEST(RemoteStore, GivesBackWhatWasStored) {
  RemoteWorld world(1, 2);
  world.create();
  const auto locations = world.write(seeds_from(0, 1000));
  for (std::uint64_t i = 0; i < locations.size(); ++i)
    ASSERT_EQ(world.read(locations[i], i, i % 2 == 0 ? Priority::kDemand : Priority::kPrefetch), PageStatus::kOk);
  const StoreUsage usage = world.store->usage();
  EXPECT_EQ(usage.pages, PageCount{1000});
  EXPECT_GE(usage.used, Bytes{1000 * kPageSize} + usage.metadata);
  EXPECT_FALSE(world.store->uses_host_dram());
}

TEST(RemoteStore, EveryPageIsAtEveryReplicaAndNobodyCanReadIt) {
  RemoteWorld world(2, 3);
  world.options.replicas = 3;
  world.create();
  world.write(seeds_from(0, 100));
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(world.network.server(i).pages(), 100u);
  std::set<std::vector<std::byte>> plain;
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    const Page page = quick_page(seed);
    plain.emplace(page.bytes.begin(), page.bytes.end());
  }
  for (const auto& [id, slice] : world.network.server(0).slices)
    for (const auto& [slot, page] : slice.pages) EXPECT_FALSE(plain.contains(page.bytes));
}

TEST(RemoteStore, PagesAreCompressedBeforeTheyAreSealed) {
  for (const CodecKind codec : {CodecKind::kLz4, CodecKind::kZstd}) {
    RemoteWorld world(3, 2);
    world.options.codec = codec;
    world.create();
    const auto locations = world.write(seeds_from(0, 200));
    std::size_t bytes = 0;
    for (const auto& [id, slice] : world.network.server(0).slices)
      for (const auto& [slot, page] : slice.pages) bytes += page.bytes.size();
    EXPECT_LT(bytes, 200 * kPageSize * 3 / 4);
    for (std::uint64_t i = 0; i < 200; ++i) ASSERT_EQ(world.read(locations[i], i), PageStatus::kOk);
  }
}

TEST(RemoteStore, RefusesToSendPagesThatAreNotSealed) {
  RemoteWorld world(4, 1);
  world.options.sealing = Sealing::kNone;
  EXPECT_FALSE(create_remote_store(world.links(), any_lease, world.secret, world.options));
}

TEST(RemoteStore, WhoReadsOnePageSendsOneFrameToOneServer) {
  RemoteWorld world(5, 2);
  world.create();
  const auto locations = world.write(seeds_from(0, 8));
  const auto before = world.network.server(0).reads + world.network.server(1).reads;
  EXPECT_EQ(world.read(locations[3], 3), PageStatus::kOk);
  EXPECT_EQ(world.network.server(0).reads + world.network.server(1).reads, before + 1);
}

TEST(RemoteStore, ManyPagesGoInFewFrames) {
  RemoteWorld world(6, 1);
  world.options.replicas = 1;
  world.create();
  world.write(seeds_from(0, 256));
  EXPECT_EQ(world.network.server(0).write_frames, 4u);
  // One by one, while the frames are taken: what waits goes together.
  std::vector<std::unique_ptr<Write>> writes;
  for (std::uint64_t i = 0; i < 66; ++i) writes.push_back(world.begin_write({i}));
  for (const auto& write : writes) EXPECT_TRUE(world.await(write->done));
  EXPECT_LE(world.network.server(0).write_frames, 4u + 4u);
}

TEST(RemoteStore, AReleasedPageIsGoneHereAndThere) {
  RemoteWorld world(7, 2);
  world.create();
  const auto locations = world.write(seeds_from(0, 100));
  ASSERT_TRUE(world.store->retain(locations[0]));
  world.store->release(locations);
  EXPECT_EQ(world.read(locations[0], 0), PageStatus::kOk);
  EXPECT_EQ(world.read(locations[1], 1), PageStatus::kCorrupt);
  world.store->release(std::span(locations).first(1));
  EXPECT_EQ(world.read(locations[0], 0), PageStatus::kCorrupt);
  world.pass(milliseconds(5));
  EXPECT_EQ(world.network.server(0).discards, 100u);
  EXPECT_EQ(world.network.server(1).discards, 100u);
  world.store->release(locations);
  EXPECT_EQ(world.store->figures().refused_releases, 100u);
  EXPECT_FALSE(world.store->retain(locations[0]));
}

TEST(RemoteStore, SlicesAreLeasedAsPagesComeAndGivenBackWhenTheyAreEmpty) {
  RemoteWorld world(8, 2);
  world.create();
  EXPECT_EQ(world.store->figures().slices, 0u);
  const auto locations = world.write(seeds_from(0, 1500));
  EXPECT_EQ(world.store->figures().slices, 3u);
  EXPECT_EQ(world.network.server(0).slices.size(), 3u);
  world.store->release(locations);
  world.pass(milliseconds(5));
  EXPECT_EQ(world.store->figures().slices, 1u);
  EXPECT_EQ(world.network.server(0).slices.size(), 1u);
  EXPECT_EQ(world.network.server(1).slices.size(), 1u);
}

TEST(RemoteStore, AtTheEndOfItsVmEverythingGoesBack) {
  RemoteWorld world(30, 2);
  world.create();
  const auto locations = world.write(seeds_from(0, 700));
  world.store->give_back_all();
  world.pass(milliseconds(5));
  EXPECT_TRUE(world.network.server(0).slices.empty());
  EXPECT_TRUE(world.network.server(1).slices.empty());
  EXPECT_EQ(world.read(locations[0], 0), PageStatus::kCorrupt);
  EXPECT_EQ(world.store->usage().pages, PageCount{0});
  const auto again = world.write({4});
  EXPECT_EQ(world.read(again[0], 4), PageStatus::kOk);
}

TEST(RemoteStore, IsFullWhenItsCapacityOrItsServersAre) {
  RemoteWorld world(9, 2);
  world.options.capacity = Bytes{4ull << 20};
  world.create();
  const auto locations = world.write(seeds_from(0, 1024));
  EXPECT_EQ(world.try_write(1), PageStatus::kFull);
  world.store->release(std::span(locations).first(1));
  EXPECT_EQ(world.try_write(1), PageStatus::kOk);

  RemoteWorld small(10, 2);
  small.network.server(0).most_slices = small.network.server(1).most_slices = 1;
  small.create();
  small.write(seeds_from(0, 512));
  EXPECT_EQ(small.try_write(1), PageStatus::kFull);
  EXPECT_FALSE(small.store->figures().servers[0].why.empty());
}

TEST(RemoteStore, NobodyCanTakeAPageWhileEveryServerIsAway) {
  RemoteWorld world(11, 2);
  world.create();
  const auto locations = world.write({5});
  world.network.cut(world.network.server(0));
  world.network.cut(world.network.server(1));
  EXPECT_EQ(world.try_write(1), PageStatus::kUnavailable);
  EXPECT_EQ(world.read(locations[0], 5), PageStatus::kUnavailable);
  world.network.heal(world.network.server(1));
  world.pass(milliseconds(5));
  EXPECT_EQ(world.read(locations[0], 5), PageStatus::kOk);
  EXPECT_EQ(world.try_write(1), PageStatus::kOk);
}

TEST(RemoteStore, AServerThatIsAwayDegradesOnlyWhatIsWrittenMeanwhile) {
  RemoteWorld world(12, 2);
  world.create();
  const auto before = world.write(seeds_from(0, 100));
  EXPECT_EQ(world.store->figures().degraded_slices, 0u);
  world.network.cut(world.network.server(0));
  const auto after = world.write(seeds_from(100, 100));
  EXPECT_EQ(world.store->figures().slices, 2u);
  EXPECT_EQ(world.store->figures().degraded_slices, 1u);
  EXPECT_EQ(world.store->figures().replicas_dropped, 0u);
  world.network.heal(world.network.server(0));
  world.pass(milliseconds(5));
  world.network.restart(world.network.server(1));
  for (std::uint64_t i = 0; i < 100; ++i) ASSERT_EQ(world.read(before[i], i), PageStatus::kOk);
}

TEST(RemoteStore, AReplicaThatMissedAWriteIsNotReadUntilItHasThePage) {
  RemoteWorld world(13, 2);
  // Nothing is copied.
  world.options.copying = std::make_shared<ByteBudget>(Bytes{1});
  world.create();
  const auto before = world.write(seeds_from(0, 64));
  SimulatedServer& lossy = world.network.server(0);
  lossy.faults.answer_lost = 1;
  const auto after = world.write(seeds_from(64, 64));
  lossy.faults.answer_lost = 0;
  const RemoteFigures figures = world.store->figures();
  EXPECT_EQ(figures.degraded_slices, 1u);
  EXPECT_EQ(figures.filling_slices, 1u);
  EXPECT_EQ(figures.replicas_dropped, 1u);
  EXPECT_EQ(figures.rebuild_remaining, Bytes{64 * kPageSize});
  const std::uint64_t asked = lossy.reads;
  for (std::uint64_t i = 0; i < 64; ++i) {
    ASSERT_EQ(world.read(before[i], i), PageStatus::kOk);
    ASSERT_EQ(world.read(after[i], 64 + i), PageStatus::kOk);
  }
  EXPECT_EQ(lossy.reads, asked);
  // What it has is as good as ever when nobody else answers.
  world.network.cut(world.network.server(1));
  EXPECT_EQ(world.read(before[0], 0), PageStatus::kOk);
  EXPECT_EQ(world.read(after[0], 64), PageStatus::kUnavailable);
  EXPECT_EQ(lossy.reads, asked + 1);
}

TEST(RemoteStore, AServerThatHasTooMuchToDoIsNotDoneWithout) {
  RemoteWorld world(31, 2);
  world.create();
  world.write({1});
  world.network.server(0).faults.overloaded = 1;
  EXPECT_EQ(world.try_write(2), PageStatus::kUnavailable);
  world.network.server(0).faults.overloaded = 0;
  EXPECT_EQ(world.try_write(2), PageStatus::kOk);
  EXPECT_EQ(world.store->figures().degraded_slices, 0u);
}

TEST(RemoteStore, WritesDoNotWaitForAServerThatWentWhileItWasAskedForASlice) {
  RemoteWorld world(32, 2);
  world.create();
  auto write = world.begin_write({1});
  world.network.cut(world.network.server(1));
  ASSERT_TRUE(world.await(write->done));
  EXPECT_EQ(write->items[0].status, PageStatus::kOk);
  EXPECT_EQ(world.store->figures().degraded_slices, 1u);
  // Its answer comes when nobody wants it any more: what it made goes back.
  world.network.heal(world.network.server(1));
  world.pass(milliseconds(5));
  EXPECT_TRUE(world.network.server(1).slices.empty());
}

TEST(RemoteStore, ARestartedServerIsNotAskedForOldPages) {
  RemoteWorld world(14, 2);
  world.create();
  const auto locations = world.write(seeds_from(0, 64));
  world.network.restart(world.network.server(0));
  world.network.heal(world.network.server(0));
  world.pass(milliseconds(5));
  EXPECT_EQ(world.store->figures().servers[0].boots, 1u);
  EXPECT_EQ(world.store->figures().replicas_dropped, 1u);
  for (std::uint64_t i = 0; i < 64; ++i) ASSERT_EQ(world.read(locations[i], i), PageStatus::kOk);
  EXPECT_EQ(world.store->figures().servers[0].wrong_answers, 0u);
  // It is good for new ones.
  world.write(seeds_from(100, 64));
  EXPECT_GT(world.network.server(0).writes, 64u);
}

TEST(RemoteStore, PagesAreLostOnlyWithTheirLastReplica) {
  RemoteWorld world(15, 2);
  world.create();
  const auto locations = world.write(seeds_from(0, 10));
  world.network.restart(world.network.server(0));
  world.network.heal(world.network.server(0));
  world.pass(milliseconds(5));
  EXPECT_EQ(world.store->figures().lost_pages, 0u);
  world.network.restart(world.network.server(1));
  // It may come back with what it had: nobody knows yet.
  EXPECT_EQ(world.read(locations[0], 0), PageStatus::kUnavailable);
  world.network.heal(world.network.server(1));
  world.pass(milliseconds(5));
  EXPECT_EQ(world.read(locations[0], 0), PageStatus::kCorrupt);
  EXPECT_EQ(world.store->figures().lost_pages, 10u);
  EXPECT_EQ(world.store->figures().lost_slices, 1u);
  world.store->release(locations);
  world.pass(milliseconds(5));
  EXPECT_EQ(world.store->figures().lost_slices, 0u);
}

TEST(RemoteStore, ALateReadIsAskedForElsewhereAndItsAnswerTouchesNothing) {
  RemoteWorld world(16, 2);
  world.create();
  const auto locations = world.write(seeds_from(0, 1));
  // Whoever is asked, is slow; then the other one is not.
  auto& slow = world.network.server(0);
  auto& quick = world.network.server(1);
  slow.faults.least = slow.faults.most = milliseconds(50);
  quick.faults.least = quick.faults.most = milliseconds(50);
  world.pass(milliseconds(1));
  auto read = world.begin_read(locations, {0});
  (world.network.server(0).reads != 0 ? quick : slow).faults = {};
  quick.faults = slow.faults = NetworkFaults{};
  EXPECT_TRUE(world.await(read->done));
  EXPECT_EQ(read->items[0].status, PageStatus::kOk);
  const RemoteFigures figures = world.store->figures();
  EXPECT_EQ(figures.hedges, 1u);
  EXPECT_EQ(figures.hedges_won, 1u);
  world.pass(milliseconds(200));
  EXPECT_EQ(slow.reads + quick.reads, 2u);
  RemoteWorld::expect_untouched(*read);
}

TEST(RemoteStore, AServerKnownToBeSlowIsNotWaitedForWhereTheOtherIsQuick) {
  RemoteWorld world(18, 2);
  world.create();
  const auto locations = world.write(seeds_from(0, 1));
  world.network.server(0).faults.least = world.network.server(0).faults.most = milliseconds(50);
  world.pass(milliseconds(500));  // its latencies are known
  for (int i = 0; i < 300; ++i) {
    auto read = world.begin_read(locations, {0});
    const MonoTime begun = world.network.clock().now();
    while (!read->done && world.network.clock().now() - begun < milliseconds(5)) world.pass(microseconds(100));
    ASSERT_TRUE(read->done) << "read " << i << " waits for the slow server";
    EXPECT_EQ(read->items[0].status, PageStatus::kOk);
    world.pass(milliseconds(100));  // the other answer comes as well
  }
  const RemoteFigures figures = world.store->figures();
  EXPECT_GT(figures.hedges_won, 2u) << "the slow one is asked now and then, to see whether it is still slow";
  EXPECT_LT(figures.hedges, 30u);
}

TEST(RemoteStore, AReadWhoseServerGoesIsAnsweredByTheOther) {
  RemoteWorld world(17, 2);
  world.create();
  const auto locations = world.write(seeds_from(0, 32));
  for (std::size_t gone = 0; gone < 2; ++gone) {
    auto read = world.begin_read(locations, seeds_from(0, 32), Priority::kPrefetch);
    world.network.cut(world.network.server(gone));
    EXPECT_TRUE(world.await(read->done));
    for (const ReadItem& item : read->items) EXPECT_EQ(item.status, PageStatus::kOk);
    world.network.heal(world.network.server(gone));
    world.pass(milliseconds(5));
  }
}

TEST(RemoteStore, AnswersThatAreWrongAreCountedAndAskedForElsewhere) {
  RemoteWorld world(18, 2);
  world.create();
  const auto locations = world.write(seeds_from(0, 64));
  world.network.server(0).lies = ServerLies::all(1);
  for (std::uint64_t i = 0; i < 64; ++i) ASSERT_EQ(world.read(locations[i], i), PageStatus::kOk);
  EXPECT_GT(world.store->figures().servers[0].wrong_answers, 0u);
  EXPECT_EQ(world.store->figures().servers[1].wrong_answers, 0u);
  world.network.server(1).lies.bit_flipped = 1;
  EXPECT_EQ(world.read(locations[0], 0), PageStatus::kCorrupt);
  world.network.cut(world.network.server(1));
  // The other one may still have it right.
  EXPECT_EQ(world.read(locations[0], 0), PageStatus::kUnavailable);
}

TEST(RemoteStore, APageOnItsWayIsReadFromItsWriter) {
  RemoteWorld world(19, 2);
  world.create();
  world.write({1});  // a slice is there
  auto write = world.begin_write({7});
  ASSERT_FALSE(write->done);
  const Location location = write->items[0].location;
  ASSERT_NE(location, kNoLocation);
  EXPECT_EQ(world.read(location, 7), PageStatus::kOk);
  EXPECT_EQ(world.store->figures().steals, 1u);
  EXPECT_EQ(world.network.server(0).reads + world.network.server(1).reads, 0u);
  EXPECT_TRUE(world.await(write->done));
  EXPECT_EQ(world.read(location, 7), PageStatus::kOk);
}

TEST(RemoteStore, CancelTakesBackWhatWasNotSent) {
  RemoteWorld world(20, 2);
  world.create();
  world.write({1});
  auto write = world.begin_write(seeds_from(0, 700));
  world.store->cancel(write->batch);
  EXPECT_TRUE(world.await(write->done));
  for (const WriteItem& item : write->items) EXPECT_EQ(item.status, PageStatus::kCancelled);
  EXPECT_EQ(world.store->usage().pages, PageCount{1});
  EXPECT_EQ(world.store->figures().degraded_slices, 0u);
  EXPECT_EQ(world.store->figures().queued_pages + world.store->figures().under_way_pages, 0u);
  world.store->cancel(write->batch);  // of what has ended: nothing
}

TEST(RemoteStore, ACancelledReadIsAnsweredAtOnceAndNeverWrittenTo) {
  RemoteWorld world(21, 2);
  world.create();
  const auto locations = world.write(seeds_from(0, 8));
  auto read = world.begin_read(locations, seeds_from(0, 8));
  world.store->cancel(read->batch);
  EXPECT_TRUE(read->done);
  for (const ReadItem& item : read->items) EXPECT_EQ(item.status, PageStatus::kCancelled);
  world.pass(milliseconds(5));
  RemoteWorld::expect_untouched(*read);
}

TEST(RemoteStore, ReadsBeyondWhatMayBeUnderWayWaitTheirTurn) {
  RemoteWorld world(22, 2);
  world.create();
  const auto locations = world.write(seeds_from(0, 100));
  std::vector<std::unique_ptr<Read>> reads;
  for (std::uint64_t i = 0; i < 100; ++i)
    reads.push_back(world.begin_read({locations[i]}, {i}, i < 50 ? Priority::kPrefetch : Priority::kDemand));
  for (const auto& read : reads) {
    EXPECT_TRUE(world.await(read->done));
    EXPECT_EQ(read->items[0].status, PageStatus::kOk);
  }
}

TEST(RemoteStore, RefusesWritesWithoutABuffer) {
  RemoteWorld world(23, 2);
  world.create();
  auto write = std::make_unique<Write>();
  write->items.resize(2);
  bool done = false;
  WriteBatch batch{write->items, Priority::kWriteBack, [&](WriteBatch&) { done = true; }};
  world.store->submit_write(batch);
  EXPECT_TRUE(world.await(done));
  EXPECT_EQ(write->items[0].status, PageStatus::kUnavailable);
  EXPECT_EQ(world.store->figures().refused_writes, 2u);
}

TEST(RemoteStore, ReplicasShareADomainOnlyWhenTheyMustAndSaySo) {
  RemoteWorld world(24, 3);
  world.domains = {"rack-1", "rack-1", "rack-2"};
  world.create();
  world.write(seeds_from(0, 2000));
  EXPECT_EQ(world.store->figures().close_slices, 0u);
  EXPECT_EQ(world.network.server(2).slices.size(), 4u);
  world.network.cut(world.network.server(2));
  world.write(seeds_from(5000, 600));
  EXPECT_GT(world.store->figures().close_slices, 0u);
}

TEST(RemoteStore, ASuccessorHasEveryPageAndKeepsThePredecessorOut) {
  RemoteWorld world(25, 2);
  world.options.codec = CodecKind::kLz4;
  world.create();
  const auto locations = world.write(seeds_from(0, 700));
  world.store->release(std::span(locations).first(100));
  ASSERT_TRUE(world.store->retain(locations[200]));
  world.options.codec.reset();
  ASSERT_TRUE(world.succeed());
  std::map<Location, std::uint32_t> live;
  world.store->for_each_live([&](Location location, std::uint32_t owners) { live[location] = owners; });
  EXPECT_EQ(live.size(), 600u);
  EXPECT_EQ(live[locations[200]], 2u);
  EXPECT_EQ(live[locations[201]], 1u);
  for (std::uint64_t i = 100; i < 700; ++i) ASSERT_EQ(world.read(locations[i], i), PageStatus::kOk);
  EXPECT_EQ(world.store->usage().pages, PageCount{600});
  EXPECT_EQ(world.store->figures().bad_entries, 0u);
  const auto more = world.write(seeds_from(1000, 200));
  for (std::uint64_t i = 0; i < 200; ++i) ASSERT_EQ(world.read(more[i], 1000 + i), PageStatus::kOk);
  for (const auto& [id, slice] : world.network.server(0).slices) EXPECT_EQ(slice.epoch >> 24, 2u);
}

TEST(RemoteStore, ASuccessorFindsOutWhoRestartedMeanwhile) {
  RemoteWorld world(26, 2);
  world.create();
  const auto locations = world.write(seeds_from(0, 50));
  world.network.server(0).slices.clear();
  ++world.network.server(0).boot;
  ASSERT_TRUE(world.succeed());
  EXPECT_EQ(world.store->figures().degraded_slices, 1u);
  for (std::uint64_t i = 0; i < 50; ++i) ASSERT_EQ(world.read(locations[i], i), PageStatus::kOk);
  EXPECT_EQ(world.network.server(0).reads, 0u);
}

TEST(RemoteStore, PagesOfAServerThatIsNotConfiguredAnyMoreAreUnavailableAndNotLost) {
  RemoteWorld world(27, 1);
  world.options.replicas = 1;
  world.create();
  const auto locations = world.write({3});
  RemoteHeld tables{world.held("table"), world.held("slices")};
  UniqueFd key = world.held("secret");
  world.store.reset();
  world.secret = std::move(*VmSecret::open(std::move(key)));
  auto made = open_remote_store(std::move(tables), {}, any_lease, world.secret, world.options);
  ASSERT_TRUE(made) << made.error().message();
  world.store = std::move(*made);
  EXPECT_EQ(world.read(locations[0], 3), PageStatus::kUnavailable);
  EXPECT_FALSE(world.store->figures().servers[0].why.empty());
}

TEST(RemoteStore, TablesThatDoNotBelongTogetherAreRefused) {
  RemoteWorld one(28, 1);
  RemoteWorld other(29, 1);
  one.create();
  other.create();
  RemoteHeld mixed{one.held("table"), other.held("slices")};
  auto secret = std::move(*VmSecret::open(one.held("secret")));
  EXPECT_FALSE(open_remote_store(std::move(mixed), one.links(), any_lease, std::move(secret), one.options));
}

}  // namespace
}  // namespace tidepool::pool::testing
