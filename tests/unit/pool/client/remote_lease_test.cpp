// Leases that end: renewed in time, or writes wait and nothing is lost.
#include <gtest/gtest.h>

#include "tests/unit/pool/client/remote_kit.h"

namespace tidepool::pool::testing {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// Tokens that come when the test says so.
struct Desk {
  bool open = true;
  bool refuses = false;
  std::uint64_t renewals = 0;
  std::vector<std::pair<LeaseWish, LeaseAnswer>> waiting;

  LeaseSource source() {
    return [this](const LeaseWish& wish, LeaseAnswer answer) {
      renewals += wish.renewal;
      if (refuses) return answer(failure(std::errc::connection_refused, "ask", "the desk"));
      if (open) return answer(Lease{wish.claims, {}});
      waiting.emplace_back(wish, std::move(answer));
    };
  }
  void serve() {
    open = true;
    for (auto& [wish, answer] : std::exchange(waiting, {})) answer(Lease{wish.claims, {}});
  }
};

void create_with(RemoteWorld& world, Desk& desk) {
  world.options.lease = seconds(3);
  auto made = create_remote_store(world.links(), desk.source(), world.secret, world.options);
  ASSERT_TRUE(made) << made.error().message();
  world.store = std::move(*made);
  world.pass(milliseconds(2));
}

TEST(RemoteLease, IsRenewedAtAThirdInTheSameEpoch) {
  Desk desk;
  RemoteWorld world(1, 2);
  create_with(world, desk);
  const auto locations = world.write(seeds_from(0, 10));
  const std::uint64_t epoch = world.network.server(0).slices.begin()->second.epoch;
  world.pass(seconds(10));
  // Two replicas, ten seconds, one second each and up to 0.1 s until it is looked after.
  EXPECT_GE(desk.renewals, 2u * 9 - 2);
  EXPECT_LE(desk.renewals, 2u * 10);
  EXPECT_EQ(world.network.server(0).slices.begin()->second.epoch, epoch);
  EXPECT_EQ(world.try_write(1), PageStatus::kOk);
  EXPECT_EQ(world.store->figures().degraded_slices, 0u);
}

TEST(RemoteLease, TokensMayComeLater) {
  Desk desk;
  desk.open = false;
  RemoteWorld world(2, 2);
  create_with(world, desk);
  auto write = world.begin_write({1});
  world.pass(milliseconds(500));
  EXPECT_FALSE(write->done);
  ASSERT_EQ(desk.waiting.size(), 2u);
  desk.serve();
  EXPECT_TRUE(world.await(write->done));
  EXPECT_EQ(write->items[0].status, PageStatus::kOk);
  // Nobody is there any more to take the last one.
  desk.open = false;
  world.pass(seconds(2));
  ASSERT_FALSE(desk.waiting.empty());
  world.store.reset();
  desk.serve();
}

TEST(RemoteLease, WhenItRunsOutWritesWaitAndReadsGoOn) {
  for (const bool refuses : {false, true}) {
    Desk desk;
    RemoteWorld world(3, 2);
    create_with(world, desk);
    const auto locations = world.write(seeds_from(0, 10));
    desk.open = false;
    desk.refuses = refuses;
    world.pass(milliseconds(3100));
    EXPECT_EQ(world.store->figures().expired_slices, 1u);
    const std::uint64_t writes = world.network.server(0).writes;
    EXPECT_EQ(world.try_write(1), PageStatus::kUnavailable);
    EXPECT_EQ(world.network.server(0).writes, writes);
    for (std::uint64_t i = 0; i < 10; ++i) ASSERT_EQ(world.read(locations[i], i), PageStatus::kOk);
    world.store->release(std::span(locations).first(5));
    world.pass(seconds(1));
    EXPECT_EQ(world.store->figures().degraded_slices, 0u);
    EXPECT_EQ(world.store->figures().replicas_dropped, 0u);
    desk.refuses = false;
    desk.serve();
    world.pass(milliseconds(500));
    EXPECT_EQ(world.store->figures().expired_slices, 0u);
    EXPECT_EQ(world.try_write(1), PageStatus::kOk);
    for (std::uint64_t i = 5; i < 10; ++i) ASSERT_EQ(world.read(locations[i], i), PageStatus::kOk);
  }
}

// Stands still, and jumps by an hour when it was looked at so many times.
class JumpingClock final : public Clock {
 public:
  explicit JumpingClock(const Clock& clock) : clock_(clock) {}
  MonoTime now() const override {
    if (looks_left != 0 && --looks_left == 0) jumped_ = std::chrono::hours(1);
    return clock_.now() + jumped_;
  }
  mutable int looks_left = 0;

 private:
  const Clock& clock_;
  mutable Nanoseconds jumped_{0};
};

TEST(RemoteLease, AWriteIsAnsweredWheneverTheLeaseRunsOutOverIt) {
  unsigned unavailable = 0;
  for (int looks = 1; looks <= 20; ++looks) {
    Desk desk;
    RemoteWorld world(6, 2);
    const JumpingClock clock(world.network.clock());
    world.options.clock = &clock;
    create_with(world, desk);
    const auto locations = world.write(seeds_from(0, 10));
    desk.open = false;
    clock.looks_left = looks;
    const PageStatus status = world.try_write(1);
    EXPECT_TRUE(status == PageStatus::kOk || status == PageStatus::kUnavailable);
    unavailable += status == PageStatus::kUnavailable;
    EXPECT_EQ(world.store->figures().degraded_slices, 0u);
    for (std::uint64_t i = 0; i < 10; ++i) ASSERT_EQ(world.read(locations[i], i), PageStatus::kOk);
    world.store.reset();
  }
  EXPECT_GT(unavailable, 0u);
}

// Its clock is not ours: what it says counts.
TEST(RemoteLease, AServerThatSaysExpiredCostsNoReplica) {
  Desk desk;
  RemoteWorld world(4, 2);
  world.network.server(1).clock_speed = 10;
  create_with(world, desk);
  const auto locations = world.write(seeds_from(0, 10));
  desk.open = false;
  world.pass(milliseconds(500));
  EXPECT_EQ(world.try_write(1), PageStatus::kUnavailable);
  EXPECT_EQ(world.store->figures().degraded_slices, 0u);
  EXPECT_EQ(world.store->figures().expired_slices, 1u);
  desk.open = true;
  world.pass(milliseconds(200));
  desk.serve();
  world.pass(milliseconds(20));
  EXPECT_EQ(world.try_write(1), PageStatus::kOk);
  for (std::uint64_t i = 0; i < 10; ++i) ASSERT_EQ(world.read(locations[i], i), PageStatus::kOk);
}

TEST(RemoteLease, AReconnectBeginsNothingAnew) {
  Desk desk;
  RemoteWorld world(5, 2);
  create_with(world, desk);
  const auto locations = world.write(seeds_from(0, 10));
  for (int i = 0; i < 10; ++i) {
    world.network.cut(world.network.server(0));
    world.pass(milliseconds(700));
    world.network.heal(world.network.server(0));
    world.pass(milliseconds(700));
  }
  EXPECT_EQ(world.try_write(1), PageStatus::kOk);
  EXPECT_EQ(world.store->figures().degraded_slices, 0u);
  for (std::uint64_t i = 0; i < 10; ++i) ASSERT_EQ(world.read(locations[i], i), PageStatus::kOk);
}

}  // namespace
}  // namespace tidepool::pool::testing
