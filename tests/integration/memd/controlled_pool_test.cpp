// Goal: a VM's far pages on memory servers that a controller gives and takes: nothing is ever lost or wrong, whatever
// happens to servers and to the controller.
#include "pool/client/controlled_pool.h"

#include <condition_variable>
#include <map>
#include <random>

#include "tests/integration/memd/controller_rig.h"
#include "tests/unit/pool/store/store_kit.h"

namespace tidepool::pool::testing {
namespace {

using std::chrono::milliseconds;
using namespace controller;

CoreConfig quick() {
  CoreConfig config;
  config.slice_bytes = Bytes{2u << 20};
  config.heartbeat = milliseconds(100);
  config.suspect_after = milliseconds(600);
  config.lost_after = milliseconds(1500);
  config.sync = milliseconds(100);
  config.host_silent_after = milliseconds(3000);
  config.lease = milliseconds(2000);
  config.offer = milliseconds(3000);
  config.reclaim = milliseconds(20'000);
  config.round = milliseconds(50);
  config.buffer = 0;
  return config;
}

class ControlledPoolTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/tidepool-controlled-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern), nullptr);
    directory_ = pattern;
    for (int i = 0; i < 3; ++i) add_server();
    begin_agent();
  }
  void TearDown() override {
    store_.reset();
    pool_.reset();
    servers_.clear();
    std::filesystem::remove_all(directory_);
  }
  void add_server() {
    servers_.push_back(
        std::make_unique<ServerRig>(controller_, directory_, "m" + std::to_string(servers_.size()), Bytes{36u << 20}));
  }
  void begin_agent() {
    ControlledPoolOptions options;
    options.port = controller_.port();
    options.host = "host-1";
    options.machine = "machine-1";
    options.boot = "boot-1";
    options.instance = "agent-" + std::to_string(++agents_);
    options.store.capacity = Bytes{64u << 20};
    options.store.slice = Bytes{2u << 20};
    options.store.most_in_flight = Bytes{1u << 20};
    options.tick = milliseconds(20);
    options.spare = [] { return Bytes{1u << 30}; };
    pool_ = make_controlled_pool(std::move(options));
    auto opened = pool_->open_for("vm");
    ASSERT_TRUE(opened) << opened.error().message();
    store_ = *opened;
  }

  PageStatus write(std::uint64_t seed) {
    Page page = make_page(seed);
    WriteItem item{.buffer = page.bytes.data()};
    WriteBatch batch{std::span(&item, 1), Priority::kWriteBack, told()};
    store_->submit_write(batch);
    wait();
    if (item.status == PageStatus::kOk) pages_[item.location] = seed;
    return item.status;
  }
  // Many: what finds no room is tried again.
  void fill(std::uint64_t count) {
    for (std::uint64_t i = 0; i < count; ++i)
      ASSERT_TRUE(await([&] { return write(++seed_) == PageStatus::kOk; })) << why();
  }
  PageStatus read(Location location, std::uint64_t seed) {
    Page page;
    ReadItem item{.location = location, .buffer = page.bytes.data()};
    ReadBatch batch{std::span(&item, 1), Priority::kDemand, told()};
    store_->submit_read(batch);
    wait();
    if (item.status == PageStatus::kOk) {
      EXPECT_EQ(page, make_page(seed)) << "WRONG BYTES";
    }
    return item.status;
  }
  void check_all() {
    for (const auto& [location, seed] : pages_) ASSERT_EQ(read(location, seed), PageStatus::kOk) << why();
  }
  // As a pager does: what is to leave comes home.
  std::size_t bring_home() {
    std::vector<Location> home;
    if (const auto leaves = store_->leaving())
      for (const auto& [location, seed] : pages_)
        if (leaves(location)) home.push_back(location);
    for (const Location location : home) {
      EXPECT_EQ(read(location, pages_[location]), PageStatus::kOk);
      pages_.erase(location);
    }
    store_->release(home);
    return home.size();
  }
  bool whole() const {
    const RemoteFigures figures = *pool_->remote();
    return figures.degraded_slices == 0 && figures.filling_slices == 0 && figures.slices != 0;
  }
  std::string leases() {
    std::string text;
    for (const LeaseView& lease : controller_.ask<LeasesAnswer>(ListLeases{}).leases) {
      text += "\n" + std::to_string(static_cast<std::uint64_t>(lease.slice)) + " status " +
              std::to_string(static_cast<int>(lease.status));
      for (const auto& replica : lease.replicas)
        text += " " + replica.server + "/" + std::to_string(static_cast<std::uint64_t>(replica.epoch)) + " " +
                std::to_string(static_cast<int>(replica.status));
    }
    return text + "\n";
  }
  std::string why() const {
    const auto controller = *pool_->controller();
    std::string text = controller.why + " " + controller.refusal;
    for (const SliceReport& slice : std::static_pointer_cast<RemoteStore>(store_)->slices()) {
      text += "\n" + std::to_string(static_cast<std::uint64_t>(slice.slice)) + " state " +
              std::to_string(static_cast<int>(slice.state)) + " pages " + std::to_string(slice.pages);
      for (const auto& replica : slice.replicas)
        text += " " + replica.server + "/" + std::to_string(replica.epoch) +
                (replica.in_force  ? ""
                 : replica.filling ? " fills"
                                   : " lost");
    }
    text += "\n";
    const RemoteFigures figures = *pool_->remote();
    for (const auto& server : figures.servers) text += " " + server.server + ": " + server.why;
    return text;
  }
  Bytes held() { return controller_.ask<StatusAnswer>(GetStatus{}).held; }

  struct Told {
    ControlledPoolTest& test;
    template <class Batch>
    void operator()(Batch&) const {
      const std::lock_guard lock(test.mutex_);
      test.done_ = true;
      test.wake_.notify_one();
    }
  };
  Told told() {
    done_ = false;
    return {*this};
  }
  void wait() {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [this] { return done_; });
  }

  ControllerRig controller_{quick()};
  std::string directory_;
  std::vector<std::unique_ptr<ServerRig>> servers_;
  std::unique_ptr<Pool> pool_;
  std::shared_ptr<PageStore> store_;
  std::map<Location, std::uint64_t> pages_;
  std::uint64_t seed_ = 0;
  int agents_ = 0;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool done_ = false;
};

TEST_F(ControlledPoolTest, SlicesComeAheadOfNeedAndGoBack) {
  EXPECT_NE(write(++seed_), PageStatus::kOk) << "nobody has given one yet";
  fill(1200);
  check_all();
  EXPECT_TRUE(whole());
  EXPECT_GE(held(), Bytes{6u << 20});
  std::vector<Location> all;
  for (const auto& [location, seed] : pages_) all.push_back(location);
  store_->release(all);
  pages_.clear();
  EXPECT_TRUE(await([&] { return held() <= Bytes{4u << 20}; })) << held().value;
  store_.reset();
  pool_->close_for("vm");
  EXPECT_TRUE(await([&] { return held() == Bytes{}; })) << held().value;
  for (const auto& server : servers_) EXPECT_TRUE(await([&] { return server->server().drained(); }));
}

TEST_F(ControlledPoolTest, ALostServerIsReplacedByTheController) {
  fill(1200);
  for (int round = 0; round < 2; ++round) {
    servers_[static_cast<std::size_t>(round)]->end();
    fill(100);
    check_all();
    ASSERT_TRUE(await([&] { return whole(); }, std::chrono::seconds(20))) << why() << leases();
    servers_[static_cast<std::size_t>(round)]->start();
    ASSERT_TRUE(await([&] { return controller_.ask<StatusAnswer>(GetStatus{}).servers_up == 3; }));
    ASSERT_TRUE(await([&] { return controller_.ask<StatusAnswer>(GetStatus{}).under_replicated == 0; }));
  }
  check_all();
  EXPECT_EQ(pool_->remote()->lost_pages, 0u);
}

TEST_F(ControlledPoolTest, ADrainedServerIsEmptiedWithoutAMomentOfFewerCopies) {
  fill(1500);
  ASSERT_TRUE(await([&] { return whole(); }));
  controller_.ask<PlanAnswer>(DrainServer{.server = "m0"});
  ASSERT_TRUE(await([&] {
    EXPECT_EQ(pool_->remote()->degraded_slices, 0u);
    if (pages_.size() < 1600) fill(1);
    return servers_[0]->server().drained();
  })) << why();
  servers_[0]->end();
  check_all();
  EXPECT_EQ(pool_->remote()->replicas_dropped, 0u);
}

TEST_F(ControlledPoolTest, WhileTheControllerIsAwayPagesAreReadAndNothingIsLost) {
  fill(700);
  ASSERT_TRUE(await([&] { return whole(); }));
  const Bytes before = held();
  for (int round = 0; round < 2; ++round) {
    controller_.kill();
    ASSERT_TRUE(await([&] {
      const auto remote = pool_->remote();
      return remote->expired_slices == remote->slices;
    })) << "longer than any lease";
    check_all();
    EXPECT_NE(write(++seed_), PageStatus::kOk);
    EXPECT_FALSE(pool_->controller()->answers);
    EXPECT_FALSE(pool_->controller()->why.empty());
    controller_.start();
    ASSERT_TRUE(await([&] { return pool_->remote()->expired_slices == 0; })) << why();
    fill(50);
    check_all();
  }
  EXPECT_TRUE(await([&] { return pool_->controller()->answers; }));
  EXPECT_EQ(pool_->controller()->unknown_slices, 0u);
  EXPECT_EQ(pool_->remote()->replicas_dropped, 0u);
  EXPECT_LE(before, held());
}

TEST_F(ControlledPoolTest, AVmIsResizedBackAndForthUnderLoad) {
  std::mt19937_64 random(7);
  fill(10);
  for (int round = 0; round < 2; ++round) {
    controller_.ask<PlanAnswer>(
        SetVm{.host = "host-1", .vm = "vm", .bounds = {.reservation = {}, .limit = Bytes{16u << 20}, .weight = {}}});
    while (pages_.size() < 3000) ASSERT_TRUE(await([&] { return write(++seed_) == PageStatus::kOk; })) << why();
    controller_.ask<PlanAnswer>(
        SetVm{.host = "host-1", .vm = "vm", .bounds = {.reservation = {}, .limit = Bytes{8u << 20}, .weight = {}}});
    ASSERT_TRUE(await([&] {
      bring_home();
      // Others come and go meanwhile.
      for (int i = 0; i < 20 && !pages_.empty(); ++i) {
        auto at = std::next(pages_.begin(), static_cast<std::ptrdiff_t>(random() % pages_.size()));
        EXPECT_EQ(read(at->first, at->second), PageStatus::kOk);
        if (i % 4 != 0) continue;
        store_->release(std::span(&at->first, 1));
        pages_.erase(at);
        write(++seed_);
      }
      return held() <= Bytes{8u << 20};
    })) << why()
        << " held " << held().value;
    check_all();
    EXPECT_GT(pages_.size(), 500u) << "no more than it had to";
  }
}

}  // namespace
}  // namespace tidepool::pool::testing
