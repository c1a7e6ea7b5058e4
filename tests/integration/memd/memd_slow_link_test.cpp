// Goal: a slow link costs its own time and nobody's pages: reads are answered by the other server, no wait is without
// end, nothing wrong comes, and what the slow server missed it gets when it can.
//
// Each test has a network namespace of its own, whose loopback device is slowed down by the kernel (tc, tbf); one
// server is reached over it, the other one over a unix socket.
#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "pool/client/server_pool.h"
#include "tests/integration/memd/memd_process.h"
#include "tests/unit/pool/store/store_kit.h"

namespace tidepool::pool::server {
namespace {

using namespace testing;
using namespace std::chrono_literals;
using pool::testing::make_page;
using pool::testing::Page;
using tests::await;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kBatch = 64;

tests::Outcome in_shell(const std::string& script) {
  return tests::run_program({"/bin/sh", "-c", "PATH=$PATH:/usr/sbin:/sbin; " + script});
}

class SlowLink : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::unshare(CLONE_NEWNET) != 0)
      GTEST_SKIP() << "no network namespace of its own is permitted here: " << std::strerror(errno);
    // Packets of a network's size: the loopback device's own are larger than what a slow link lets through at once.
    const tests::Outcome up = in_shell("ip link set lo mtu 1500 up");
    ASSERT_EQ(up.code, 0) << up.all() << "(iproute2 is needed)";
    if (!slow_down("1gbit", "64kb")) GTEST_SKIP() << "the kernel has no token bucket filter (CONFIG_NET_SCH_TBF)";
    ASSERT_TRUE(near_.start());
    ASSERT_TRUE(far_.start());
    ServerPoolOptions options;
    options.servers.push_back({.name = "near", .address = near_.unix_address(), .domain = {}, .key = near_.key()});
    options.servers.push_back({.name = "far", .address = far_.tcp_address(), .domain = {}, .key = far_.key()});
    options.store.capacity = Bytes{32ull << 20};
    options.store.slice = Bytes{16ull << 20};
    options.store.replicas = 2;
    auto made = make_server_pool(std::move(options));
    ASSERT_TRUE(made) << made.error().message();
    pool_ = std::move(*made);
    auto store = pool_->open_for("vm");
    ASSERT_TRUE(store) << store.error().message();
    store_ = std::move(*store);
    ASSERT_TRUE(await([&] {
      const auto figures = pool_->remote();
      return std::ranges::all_of(figures->servers, &RemoteServerFigures::up);
    }));
    ASSERT_TRUE(await([&] { return write(0, kBatch); })) << "no slice is given";
    for (std::uint64_t first = kBatch; first < 8 * kBatch; first += kBatch) ASSERT_TRUE(write(first, kBatch));
    ASSERT_EQ(pool_->remote()->degraded_slices, 0u);
  }
  void TearDown() override {
    store_.reset();
    if (pool_ != nullptr) pool_->close_for("vm");
  }

  // With a burst below a page's answer, the link's idle time makes no answer quick.
  static bool slow_down(const std::string& rate, const std::string& burst = "2kb") {
    return in_shell("tc qdisc replace dev lo root tbf rate " + rate + " burst " + burst + " limit 128kb").code == 0;
  }

  // Waits as the agent does: for answers, and takes them.
  void wait_for(const std::atomic<bool>& done) {
    while (!done) {
      pollfd answers{store_->answers_descriptor(), POLLIN, 0};
      ::poll(&answers, 1, 1);
      store_->take_answers();
    }
  }

  // Page n has the content that n gives. True when all of them are stored.
  bool write(std::uint64_t first, std::size_t count) {
    std::vector<Page> pages;
    for (std::size_t i = 0; i < count; ++i) pages.push_back(make_page(first + i));
    std::vector<WriteItem> items(count);
    for (std::size_t i = 0; i < count; ++i) items[i].buffer = pages[i].bytes.data();
    std::atomic<bool> done{false};
    WriteBatch batch{items, Priority::kWriteBack, [&](WriteBatch&) { done = true; }};
    store_->submit_write(batch);
    wait_for(done);
    locations_.resize(std::max(locations_.size(), first + count), kNoLocation);
    bool all = true;
    for (std::size_t i = 0; i < count; ++i) {
      all = all && items[i].status == PageStatus::kOk;
      locations_[first + i] = items[i].location;
    }
    return all;
  }

  PageStatus read(std::uint64_t page, Page& into) {
    ReadItem item{.location = locations_[page], .buffer = into.bytes.data()};
    std::atomic<bool> done{false};
    ReadBatch batch{std::span(&item, 1), Priority::kDemand, [&](ReadBatch&) { done = true; }};
    const auto before = Clock::now();
    store_->submit_read(batch);
    wait_for(done);
    longest_ = std::max<Clock::duration>(longest_, Clock::now() - before);
    return item.status;
  }
  bool reads_right(std::uint64_t page) {
    Page own;
    const PageStatus status = read(page, own);
    if (status != PageStatus::kOk) return false;
    EXPECT_TRUE(own == make_page(page)) << "page " << page << " has other content";
    return true;
  }

  MemdProcess near_;
  MemdProcess far_;
  std::unique_ptr<Pool> pool_;
  std::shared_ptr<PageStore> store_;
  std::vector<Location> locations_;
  Clock::duration longest_{};  // of the reads
};

TEST_F(SlowLink, IsNotWaitedForByReads) {
  const std::uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  ASSERT_TRUE(slow_down("500kbit"));  // a page takes 70 ms
  // The near server's pages are read in place: hundreds of reads may be done before anybody compares the two.
  EXPECT_TRUE(await([&] {
    for (int i = 0; i < 100; ++i) EXPECT_TRUE(reads_right(random() % locations_.size()));
    return pool_->remote()->hedges_won > 0 || HasFailure();
  })) << "nobody asked the slow server, or nobody minded";
  const RemoteFigures figures = *pool_->remote();
  EXPECT_LT(longest_, 2s);
  EXPECT_EQ(figures.corrupt_reads, 0u);
  EXPECT_EQ(figures.unavailable_reads, 0u);
  for (const auto& server : figures.servers) EXPECT_EQ(server.wrong_answers, 0u) << server.server;
}

TEST_F(SlowLink, HoldsWritesUpForAWhileOnlyAndLosesNothing) {
  ASSERT_TRUE(slow_down("100kbit"));  // a frame of 64 pages takes 20 s: longer than any patience
  const auto before = Clock::now();
  const std::uint64_t first = locations_.size();
  ASSERT_TRUE(write(first, kBatch)) << "the near server has them";
  EXPECT_LT(Clock::now() - before, 15s);
  EXPECT_TRUE(await([&] {
    const auto figures = pool_->remote();
    return figures->degraded_slices + figures->filling_slices > 0;
  })) << "one replica misses pages, and nobody knows";
  for (std::uint64_t page = 0; page < locations_.size(); page += 7) ASSERT_TRUE(reads_right(page));
  EXPECT_LT(longest_, 2s);

  ASSERT_TRUE(slow_down("1gbit", "64kb"));
  ASSERT_TRUE(await([&] {
    const auto figures = pool_->remote();
    return figures->degraded_slices == 0 && figures->filling_slices == 0;
  })) << "what the slow server missed it does not get";
  // Then it is good for all of them.
  near_.signal(SIGKILL);
  for (std::uint64_t page = 0; page < locations_.size(); ++page)
    ASSERT_TRUE(await([&] { return reads_right(page); })) << "page " << page;
  EXPECT_EQ(pool_->remote()->corrupt_reads, 0u);
}

}  // namespace
}  // namespace tidepool::pool::server
