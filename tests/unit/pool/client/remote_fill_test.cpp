// Replicas that are made anew, case by case.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include "pool/store/crc32c.h"
#include "tests/unit/pool/client/remote_kit.h"

namespace tidepool::pool::testing {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

bool await_whole(RemoteWorld& world) {
  for (int i = 0; i < 3000 && !is_whole(world); ++i) world.pass(milliseconds(10));
  return is_whole(world);
}

// The server that has none of the first slice.
SimulatedServer& idle_server(RemoteWorld& world) {
  for (std::size_t i = 0; i < world.network.servers(); ++i)
    if (world.network.server(i).slices.empty()) return world.network.server(i);
  ADD_FAILURE() << "all have one";
  return world.network.server(0);
}

SimulatedServer& busy_server(RemoteWorld& world) {
  for (std::size_t i = 0; i < world.network.servers(); ++i)
    if (!world.network.server(i).slices.empty()) return world.network.server(i);
  ADD_FAILURE() << "none has one";
  return world.network.server(0);
}

TEST(RemoteFill, AServerThatComesBackEmptyGetsItsPagesAgain) {
  RemoteWorld world(1, 2);
  world.create();
  const auto locations = world.write(seeds_from(0, 1200));
  for (std::size_t turn = 0; turn < 4; ++turn) {
    world.network.restart(world.network.server(turn % 2));
    world.network.heal(world.network.server(turn % 2));
    world.pass(milliseconds(5));
    ASSERT_TRUE(await_whole(world));
    EXPECT_EQ(world.network.server(turn % 2).pages(), 1200u);
  }
  expect_all(world, locations);
  const RemoteFigures figures = world.store->figures();
  EXPECT_EQ(figures.lost_pages, 0u);
  EXPECT_EQ(figures.replicas_rebuilt, 4u * 3);
  EXPECT_EQ(figures.rebuilt_pages, 4u * 1200);
}

TEST(RemoteFill, WhatALostServerHadGoesToAnotherOne) {
  RemoteWorld world(2, 3);
  world.options.lost_after = milliseconds(200);
  world.create();
  const auto locations = world.write(seeds_from(0, 300));
  SimulatedServer& spare = idle_server(world);
  SimulatedServer& lost = busy_server(world);
  world.network.cut(lost);
  world.pass(milliseconds(100));
  EXPECT_EQ(spare.pages(), 0u) << "it may come back";
  world.pass(milliseconds(300));
  ASSERT_TRUE(await_whole(world));
  EXPECT_EQ(spare.pages(), 300u);
  // It comes back with pages that nobody asks for.
  world.network.heal(lost);
  world.pass(milliseconds(20));
  EXPECT_EQ(lost.slices.size(), 0u);
  world.network.cut(busy_server(world));
  expect_all(world, locations);
}

TEST(RemoteFill, AServerThatIsBackInTimeLosesNothing) {
  RemoteWorld world(3, 3);
  world.options.lost_after = seconds(60);
  world.create();
  const auto locations = world.write(seeds_from(0, 300));
  SimulatedServer& away = busy_server(world);
  world.network.cut(away);
  world.pass(seconds(1));
  world.network.heal(away);
  world.pass(milliseconds(300));
  EXPECT_TRUE(is_whole(world));
  EXPECT_EQ(world.store->figures().replicas_rebuilt, 0u);
  expect_all(world, locations);
}

TEST(RemoteFill, AMissedWriteCostsThatPageAlone) {
  RemoteWorld world(4, 2);
  world.create();
  auto locations = world.write(seeds_from(0, 400));
  world.network.server(0).faults.request_lost = 1;
  const auto after = world.write(seeds_from(400, 5));
  locations.insert(locations.end(), after.begin(), after.end());
  world.network.server(0).faults.request_lost = 0;
  ASSERT_TRUE(await_whole(world));
  EXPECT_EQ(world.store->figures().rebuilt_pages, 5u);
  world.network.cut(world.network.server(1));
  expect_all(world, locations);
}

TEST(RemoteFill, CopiesTakeNoMoreThanTheyMayAndSayHowMuchIsLeft) {
  RemoteWorld world(5, 2);
  world.options.copying = std::make_shared<ByteBudget>(Bytes{1u << 20});
  world.create();
  world.write(seeds_from(0, 512));
  world.network.restart(world.network.server(0));
  world.network.heal(world.network.server(0));
  world.pass(milliseconds(500));
  const RemoteFigures figures = world.store->figures();
  EXPECT_EQ(figures.filling_slices, 1u);
  EXPECT_EQ(figures.servers[0].filling, 1u);
  EXPECT_LT(figures.rebuilt_pages, 256u);
  EXPECT_EQ(figures.rebuild_remaining, Bytes{(512 - figures.rebuilt_pages) * kPageSize});
  ASSERT_TRUE(await_whole(world));
}

TEST(RemoteFill, ADrainingServerIsEmptiedWithoutAMomentOfFewerCopies) {
  RemoteWorld world(6, 3);
  world.create();
  auto locations = world.write(seeds_from(0, 2000));
  SimulatedServer& going = world.network.server(0);
  world.network.drain(going);
  for (std::uint64_t i = 0; i < 3000 && !going.slices.empty(); ++i) {
    // Pages come and go meanwhile.
    if (i % 10 == 0) {
      locations.push_back(world.write({2000 + i / 10})[0]);
      EXPECT_EQ(world.store->figures().degraded_slices, 0u);
    }
    world.pass(milliseconds(1));
    ASSERT_EQ(world.store->figures().degraded_slices, 0u);
  }
  EXPECT_TRUE(going.slices.empty());
  EXPECT_EQ(world.store->figures().replicas_dropped, 0u);
  world.network.restart(going);
  expect_all(world, locations);
}

TEST(RemoteFill, ADrainWithNowhereToGoChangesNothing) {
  RemoteWorld world(7, 2);
  world.create();
  const auto locations = world.write(seeds_from(0, 100));
  world.network.drain(world.network.server(0));
  world.pass(seconds(1));
  EXPECT_EQ(world.network.server(0).pages(), 100u);
  EXPECT_EQ(world.store->figures().degraded_slices, 0u);
  expect_all(world, locations);
}

TEST(RemoteFill, ATargetThatFailsIsGivenUpAndAnotherOneTaken) {
  RemoteWorld world(8, 4);
  world.options.lost_after = milliseconds(200);
  world.options.copying = std::make_shared<ByteBudget>(Bytes{1u << 20});
  world.create();
  const auto locations = world.write(seeds_from(0, 500));
  world.network.cut(busy_server(world));
  world.pass(milliseconds(500));
  ASSERT_EQ(world.store->figures().filling_slices, 1u);
  for (const RemoteServerFigures& each : world.store->figures().servers) {
    if (each.filling == 0) continue;
    for (std::size_t i = 0; i < 4; ++i)
      if (world.network.server(i).name == each.server) world.network.restart(world.network.server(i));
  }
  ASSERT_TRUE(await_whole(world));
  EXPECT_GT(world.store->figures().rebuilds_failed, 0u);
  expect_all(world, locations);
}

TEST(RemoteFill, ASuccessorFinishesIt) {
  RemoteWorld world(9, 2);
  world.options.copying = std::make_shared<ByteBudget>(Bytes{1u << 20});
  world.create();
  const auto locations = world.write(seeds_from(0, 512));
  world.network.restart(world.network.server(0));
  world.network.heal(world.network.server(0));
  world.pass(milliseconds(500));
  ASSERT_EQ(world.store->figures().filling_slices, 1u);
  ASSERT_TRUE(world.succeed());
  EXPECT_EQ(world.store->figures().degraded_slices, 1u);
  ASSERT_TRUE(await_whole(world));
  world.network.cut(world.network.server(1));
  expect_all(world, locations);
}

TEST(RemoteFill, WhatIsWrongIsNotCopied) {
  RemoteWorld world(10, 4);
  world.options.replicas = 3;
  world.options.lost_after = milliseconds(100);
  world.create();
  const auto locations = world.write(seeds_from(0, 300));
  SimulatedServer& spare = idle_server(world);
  std::vector<SimulatedServer*> had;
  for (std::size_t i = 0; i < 4; ++i)
    if (&world.network.server(i) != &spare) had.push_back(&world.network.server(i));
  had[0]->lies.bit_flipped = 1;
  world.network.cut(*had[1]);
  ASSERT_TRUE(await_whole(world));
  world.pass(milliseconds(500));
  ASSERT_EQ(spare.pages(), 300u);
  world.network.cut(*had[2]);
  expect_all(world, locations);
}

TEST(RemoteFill, TheOnlyServerThatHasAPageIsWaitedForAndNotTakenAsEmpty) {
  RemoteWorld world(11, 2);
  world.options.copying = std::make_shared<ByteBudget>(Bytes{1u << 20});
  world.create();
  const auto locations = world.write(seeds_from(0, 512));
  world.network.restart(world.network.server(0));
  world.network.heal(world.network.server(0));
  world.pass(milliseconds(400));
  ASSERT_EQ(world.store->figures().filling_slices, 1u);
  world.network.cut(world.network.server(1));
  std::size_t away = 0;
  for (std::uint64_t i = 0; i < 512; ++i) {
    const PageStatus status = world.read(locations[i], i);
    ASSERT_NE(status, PageStatus::kCorrupt);
    away += status == PageStatus::kUnavailable;
  }
  EXPECT_GT(away, 0u);
  EXPECT_LT(away, 512u) << "what was copied is there";
  world.network.heal(world.network.server(1));
  ASSERT_TRUE(await_whole(world));
  expect_all(world, locations);
}

TEST(RemoteFill, ATableOfTheFirstLayoutIsTakenOver) {
  RemoteWorld world(12, 2);
  world.create();
  const auto locations = world.write(seeds_from(0, 20));
  const UniqueFd slices = world.held("slices");
  auto mapped = Mapping::of_file(slices.get(), Bytes{4096}, Bytes{}, PROT_READ | PROT_WRITE, MAP_SHARED);
  ASSERT_TRUE(mapped);
  const auto put = [&](std::size_t at, std::uint32_t value) {
    std::memcpy(mapped->data() + at, &value, sizeof(value));
  };
  put(12, 1);
  put(52, crc32c(mapped->bytes().first(52)));
  ASSERT_TRUE(world.succeed());
  expect_all(world, locations);
  std::uint32_t version = 0;
  std::memcpy(&version, mapped->data() + 12, sizeof(version));
  EXPECT_EQ(version, 2u);
  ASSERT_TRUE(world.succeed());
  put(12, 3);
  put(52, crc32c(mapped->bytes().first(52)));
  EXPECT_FALSE(world.succeed());
}

}  // namespace
}  // namespace tidepool::pool::testing
