// Many threads write, read, share and release at random while another gives memory back; every byte is verified.
#include <gtest/gtest.h>

#include <iostream>
#include <random>
#include <thread>
#include <vector>

#include "pool/store/grace_period.h"
#include "tests/unit/pool/store/store_kinds.h"
#include "tests/unit/pool/store/store_kit.h"

namespace tidepool::pool {
namespace {

using namespace literals;
using namespace testing;

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr int kSteps = 4000;
#else
constexpr int kSteps = 40000;
#endif

class Worker {
 public:
  Worker(EmbeddedStore& store, std::uint64_t seed) : store_(store), random_(seed) {}

  void run() {
    for (int step = 0; step < kSteps && !::testing::Test::HasFatalFailure(); ++step) act();
    while (!mine_.empty()) forget();
  }

 private:
  struct Held {
    Location location;
    std::uint64_t seed;
  };

  void act() {
    switch (random_() % 8) {
      case 0:
      case 1:
      case 2:
        write();
        break;
      case 3:
        share();
        break;
      case 4:
      case 5:
        forget();
        break;
      default:
        read();
    }
  }
  void write() {
    const std::size_t count = 1 + random_() % 8;
    std::vector<WriteItem> items(count);
    std::vector<Page> pages;
    std::vector<std::uint64_t> seeds;
    store_.stage(items);
    for (std::size_t i = 0; i < count; ++i) {
      seeds.push_back(random_());
      pages.push_back(make_page(seeds.back(), Content::kMixed));
    }
    for (std::size_t i = 0; i < count; ++i) {
      if (items[i].buffer == nullptr) {
        items[i].buffer = pages[i].bytes.data();
      } else {
        std::memcpy(items[i].buffer, pages[i].bytes.data(), kPageSize);
      }
    }
    if (random_() % 10 == 0) {
      store_.unstage(items);
      return;
    }
    WriteBatch batch{items, Priority::kWriteBack, {}};
    store_.submit_write(batch);
    for (std::size_t i = 0; i < count; ++i)
      if (items[i].status == PageStatus::kOk) mine_.push_back({items[i].location, seeds[i]});
  }
  void read() {
    if (mine_.empty()) return;
    const Held& held = mine_[random_() % mine_.size()];
    ASSERT_TRUE(holds(store_, held.location, make_page(held.seed, Content::kMixed)));
  }
  void share() {
    if (mine_.empty()) return;
    const Held held = mine_[random_() % mine_.size()];
    ASSERT_TRUE(store_.retain(held.location));
    mine_.push_back(held);
  }
  void forget() {
    std::vector<Location> gone;
    for (std::size_t i = 0; i < 1 + random_() % 12 && !mine_.empty(); ++i) {
      std::swap(mine_[random_() % mine_.size()], mine_.back());
      gone.push_back(mine_.back().location);
      mine_.pop_back();
    }
    store_.release(gone);
  }

  EmbeddedStore& store_;
  std::mt19937_64 random_;
  std::vector<Held> mine_;
};

TEST_P(StoreTest, LosesNothingAmongManyThreads) {
  const std::uint64_t seed = std::random_device{}();
  std::cout << "seed " << seed << "\n";
  // Small, so that it is full now and then.
  auto store = create(GetParam(), 6_MiB);
  {
    std::jthread maintainer([&](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        store->maintain();
        std::this_thread::yield();
      }
    });
    std::vector<std::jthread> threads;
    for (std::uint64_t t = 0; t < 4; ++t) threads.emplace_back([&, t] { Worker(*store, seed + t).run(); });
    threads.clear();
  }
  EXPECT_EQ(store->usage().pages, PageCount{0});
  const StoreErrors errors = store->errors();
  EXPECT_EQ(errors.refused_releases, 0u);
  EXPECT_EQ(errors.refused_writes, 0u);
  EXPECT_EQ(errors.stale_reads, 0u);
  EXPECT_EQ(errors.corrupt_pages, 0u);
  for (int i = 0; i < 200; ++i) store->maintain();
  EXPECT_LT(host_bytes(*store), 1u << 20);
}

TEST(GracePeriod, WaitsForEveryReaderThatMayHaveSeenTheOldObject) {
  GracePeriod grace;
  // An object is "freed" by spoiling it, after the wait; a reader that finds a spoilt one has been overtaken.
  std::array<std::atomic<int>, 2> objects{1, 1};
  std::atomic<unsigned> current{0};
  std::atomic<int> overtaken{0};
  std::atomic<bool> stop{false};
  std::vector<std::jthread> readers;
  for (int t = 0; t < 3; ++t) {
    readers.emplace_back([&] {
      while (!stop) {
        const GracePeriod::Reader reader(grace);
        const std::atomic<int>& object = objects[current.load()];
        for (int i = 0; i < 20; ++i)
          if (object.load() != 1) ++overtaken;
      }
    });
  }
  for (int i = 0; i < 500; ++i) {
    const unsigned old = current.load();
    objects[1 - old] = 1;
    current = 1 - old;
    grace.wait_for_readers();
    objects[old] = 0;
  }
  stop = true;
  readers.clear();
  EXPECT_EQ(overtaken, 0);
}

}  // namespace
}  // namespace tidepool::pool
