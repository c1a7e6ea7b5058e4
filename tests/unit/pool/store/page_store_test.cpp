// What every store promises, whatever it is made of.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "tests/unit/pool/store/store_kinds.h"
#include "tests/unit/pool/store/store_kit.h"

namespace tidepool::pool {
namespace {

using namespace literals;
using namespace testing;

TEST_P(StoreTest, GivesBackWhatWasWritten) {
  auto store = create(GetParam());
  std::vector<Location> locations;
  for (std::uint64_t i = 0; i < 2000; ++i) locations.push_back(put_ok(*store, make_page(i)));
  for (std::uint64_t i = 0; i < 2000; ++i) ASSERT_TRUE(holds(*store, locations[i], make_page(i))) << i;
  EXPECT_EQ(store->usage().pages, PageCount{2000});
}

TEST_P(StoreTest, AnswersABatchOnceAndPerItem) {
  auto store = create(GetParam());
  std::vector<Page> pages;
  for (std::uint64_t i = 0; i < 100; ++i) pages.push_back(make_page(i));
  std::vector<WriteItem> items(100);
  for (std::size_t i = 0; i < items.size(); ++i) items[i].buffer = pages[i].bytes.data();
  int answers = 0;
  WriteBatch batch{items, Priority::kWriteBack, [&](WriteBatch&) { ++answers; }};
  store->submit_write(batch);
  EXPECT_EQ(answers, 1);
  std::vector<ReadItem> reads(101);
  std::vector<Page> buffers(101);
  for (std::size_t i = 0; i < 101; ++i) {
    reads[i].location = i < 100 ? items[i].location : kNoLocation;
    reads[i].buffer = buffers[i].bytes.data();
  }
  ReadBatch read{reads, Priority::kPrefetch, [&](ReadBatch&) { ++answers; }};
  store->submit_read(read);
  EXPECT_EQ(answers, 2);
  for (std::size_t i = 0; i < 100; ++i) {
    ASSERT_EQ(reads[i].status, PageStatus::kOk);
    EXPECT_EQ(std::memcmp(reads[i].page, pages[i].bytes.data(), kPageSize), 0);
  }
  EXPECT_EQ(reads[100].status, PageStatus::kCorrupt) << "no such page: nothing may reach a guest";
}

TEST_P(StoreTest, KeepsAPageUntilItsLastOwnerHasGone) {
  auto store = create(GetParam());
  const Location location = put_ok(*store, make_page(1));
  ASSERT_TRUE(store->retain(location));
  drop(*store, location);
  EXPECT_TRUE(holds(*store, location, make_page(1)));
  drop(*store, location);
  EXPECT_EQ(store->usage().pages, PageCount{0});
  EXPECT_FALSE(store->retain(location));
  Page page;
  EXPECT_EQ(get(*store, location, page), PageStatus::kCorrupt);
  EXPECT_EQ(store->errors().stale_reads, 1u);
}

TEST_P(StoreTest, RefusesToReleaseTwice) {
  auto store = create(GetParam());
  const Location first = put_ok(*store, make_page(1));
  drop(*store, first);
  // The same slot again, another page: the old name must not reach it.
  std::vector<Location> others;
  for (std::uint64_t i = 0; i < 50; ++i) others.push_back(put_ok(*store, make_page(i)));
  drop(*store, first);
  drop(*store, kNoLocation);
  drop(*store, Location{12345678});
  EXPECT_EQ(store->errors().refused_releases, 3u);
  for (std::uint64_t i = 0; i < 50; ++i) EXPECT_TRUE(holds(*store, others[i], make_page(i)));
}

TEST_P(StoreTest, AnswersFullAtItsCapacityAndGoesOnWhenThereIsRoom) {
  auto store = create(GetParam(), 8_MiB);
  std::vector<Location> locations;
  PageStatus status = PageStatus::kOk;
  while (locations.size() < 100000) {
    const auto [got, location] = put(*store, make_page(locations.size()));
    status = got;
    if (status != PageStatus::kOk) break;
    locations.push_back(location);
    ASSERT_LE(store->usage().used, 8_MiB);
  }
  EXPECT_EQ(status, PageStatus::kFull);
  EXPECT_GT(store->usage().used, Bytes{7ull << 20});
  for (std::uint64_t i = 0; i < locations.size(); ++i) ASSERT_TRUE(holds(*store, locations[i], make_page(i)));
  const std::size_t half = locations.size() / 2;
  store->release(std::span(locations).first(half));
  std::size_t again = 0;
  while (put(*store, make_page(again)).first == PageStatus::kOk) ++again;
  EXPECT_GT(again, half * 9 / 10);
  for (std::uint64_t i = half; i < locations.size(); ++i) ASSERT_TRUE(holds(*store, locations[i], make_page(i)));
}

TEST_P(StoreTest, TakesNothingNewBelowItsUseAndMoreWhenItGrows) {
  auto store = create(GetParam(), 16_MiB);
  std::vector<Location> locations;
  for (std::uint64_t i = 0; i < 1500; ++i) locations.push_back(put_ok(*store, make_page(i)));
  ASSERT_TRUE(store->set_capacity(2_MiB));
  PageStatus status = PageStatus::kOk;
  // The compressed store may still fill places that it has already paid for.
  for (std::uint64_t i = 0; i < 3000 && status == PageStatus::kOk; ++i) status = put(*store, make_page(i)).first;
  EXPECT_EQ(status, PageStatus::kFull);
  for (std::uint64_t i = 0; i < 1500; ++i) ASSERT_TRUE(holds(*store, locations[i], make_page(i)));
  ASSERT_TRUE(store->set_capacity(32_MiB));
  put_ok(*store, make_page(1));
  EXPECT_FALSE(store->set_capacity(Bytes{}));
  EXPECT_FALSE(store->set_capacity(Bytes{1ull << 40}));
}

TEST_P(StoreTest, CountsWhatTheHostCounts) {
  auto store = create(GetParam(), 64_MiB);
  std::vector<Location> locations;
  const auto check = [&](const char* when) {
    const auto used = static_cast<double>(store->usage().used.value);
    const auto host = static_cast<double>(host_bytes(*store));
    // What is not in the files: bit sets, owners, working memory of the codec. Small, and counted by the store itself.
    const auto beside = static_cast<double>(GetParam() == Kind::kMapped ? 64 << 10 : store->usage().metadata.value);
    EXPECT_GE(used, host * 0.98) << when;
    EXPECT_LE(used, host * 1.02 + beside) << when;
  };
  for (std::uint64_t i = 0; i < 12000; ++i) locations.push_back(put_ok(*store, make_page(i)));
  check("full");
  std::vector<Location> odd;
  for (std::size_t i = 1; i < locations.size(); i += 2) odd.push_back(locations[i]);
  store->release(odd);
  for (int i = 0; i < 200; ++i) store->maintain();
  check("half released");
  for (std::size_t i = 0; i < locations.size(); i += 2) ASSERT_TRUE(holds(*store, locations[i], make_page(i)));
  for (std::size_t i = 0; i < locations.size(); i += 2) drop(*store, locations[i]);
  for (int i = 0; i < 200; ++i) store->maintain();
  check("empty");
  EXPECT_LT(host_bytes(*store), 1u << 20);
}

TEST_P(StoreTest, CancelsWhatHasNotStartedAndAnswersAllTheSame) {
  auto store = create(GetParam(), 64_MiB);
  std::vector<Page> pages;
  for (std::uint64_t i = 0; i < 512; ++i) pages.push_back(make_page(i));
  bool seen = false;
  for (int attempt = 0; attempt < 2000 && !seen; ++attempt) {
    std::vector<WriteItem> items(512);
    store->stage(items);
    for (std::size_t i = 0; i < items.size(); ++i)
      if (items[i].buffer == nullptr) items[i].buffer = pages[i].bytes.data();
    std::atomic<int> answers{0};
    WriteBatch batch{items, Priority::kWriteBack, [&](WriteBatch&) { ++answers; }};
    std::atomic<bool> submitting{false};
    std::jthread other([&] {
      while (!submitting) std::this_thread::yield();
      while (answers == 0) store->cancel(batch);
    });
    submitting = true;
    store->submit_write(batch);
    other.join();
    ASSERT_EQ(answers, 1);
    std::vector<Location> stored;
    for (const WriteItem& item : items) {
      ASSERT_TRUE(item.status == PageStatus::kOk || item.status == PageStatus::kCancelled);
      if (item.status == PageStatus::kOk) stored.push_back(item.location);
      seen = seen || item.status == PageStatus::kCancelled;
    }
    ASSERT_EQ(store->usage().pages, PageCount{stored.size()});
    store->release(stored);
  }
  EXPECT_TRUE(seen);
  EXPECT_EQ(store->errors().refused_releases, 0u);
}

INSTANTIATE_TEST_SUITE_P(Stores, StoreTest, ::testing::Values(Kind::kMapped, Kind::kLz4, Kind::kZstd), KindName{});

}  // namespace
}  // namespace tidepool::pool
