#include "pool/store/mapped_store.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "tests/unit/pool/store/store_kit.h"

namespace tidepool::pool {
namespace {

using namespace literals;
using testing::drop;
using testing::holds;
using testing::make_page;
using testing::Page;
using testing::put_ok;

std::unique_ptr<EmbeddedStore> make_store(Bytes capacity = 16_MiB) {
  auto store = create_mapped_store({.capacity = capacity, .maximum = 64_MiB});
  EXPECT_TRUE(store.has_value()) << store.error().message();
  return std::move(*store);
}

TEST(MappedStore, LendsAdjacentMemoryToARun) {
  auto store = make_store();
  std::vector<WriteItem> items(512);
  store->stage(items);
  std::size_t breaks = 0;
  for (std::size_t i = 0; i < items.size(); ++i) {
    ASSERT_NE(items[i].buffer, nullptr);
    if (i > 0 && items[i].buffer != items[i - 1].buffer + kPageSize) ++breaks;
  }
  EXPECT_EQ(breaks, 0u);
  store->unstage(items);
  EXPECT_EQ(store->usage().pages, PageCount{0});
}

TEST(MappedStore, ShowsItsOwnMemoryToReaders) {
  auto store = make_store();
  WriteItem item;
  store->stage(std::span(&item, 1));
  ASSERT_NE(item.buffer, nullptr);
  std::byte* const lent = item.buffer;
  std::memcpy(lent, make_page(1).bytes.data(), kPageSize);
  WriteBatch write{std::span(&item, 1), Priority::kWriteBack, {}};
  store->submit_write(write);
  ReadItem read{.location = item.location};
  ReadBatch batch{std::span(&read, 1), Priority::kDemand, {}};
  store->submit_read(batch);
  EXPECT_EQ(read.status, PageStatus::kOk);
  EXPECT_EQ(read.page, lent);
}

// Lent memory holds what it held before. What counts is that it cannot be read before it was overwritten.
TEST(MappedStore, ShowsNobodyWhatASlotHeldBefore) {
  auto store = make_store(2_MiB);
  std::vector<Location> former;
  for (std::uint64_t i = 0; i < 300; ++i) former.push_back(put_ok(*store, make_page(i)));
  store->release(former);
  std::vector<WriteItem> items(300);
  store->stage(items);
  const auto unreadable = [&](Location location) {
    Page page;
    EXPECT_EQ(testing::get(*store, location, page), PageStatus::kCorrupt);
  };
  for (const Location location : former) unreadable(location);
  for (const WriteItem& item : items) {
    ASSERT_NE(item.buffer, nullptr);
    unreadable(item.location);
  }
  // Half are written, the rest is given back unwritten: neither brings a former page to light.
  const auto written = std::span(items).first(150);
  for (std::size_t i = 0; i < written.size(); ++i)
    std::memcpy(written[i].buffer, make_page(500 + i).bytes.data(), kPageSize);
  std::vector<Location> abandoned;
  for (const WriteItem& item : std::span(items).subspan(150)) abandoned.push_back(item.location);
  WriteBatch batch{written, Priority::kWriteBack, {}};
  store->submit_write(batch);
  store->unstage(std::span(items).subspan(150));
  for (std::size_t i = 0; i < written.size(); ++i)
    EXPECT_TRUE(holds(*store, written[i].location, make_page(500 + i))) << i;
  for (const Location location : abandoned) unreadable(location);
  for (const Location location : former) unreadable(location);
}

TEST(MappedStore, ReusesFreedMemoryAndReturnsItWhenIdle) {
  auto store = make_store();
  std::vector<Location> locations;
  for (std::uint64_t i = 0; i < 1000; ++i) locations.push_back(put_ok(*store, make_page(i)));
  const Bytes full = store->usage().used;
  store->release(locations);
  EXPECT_EQ(store->usage().used, full) << "kept for the next writer";
  const Location again = put_ok(*store, make_page(5));
  EXPECT_EQ(store->usage().used, full);
  for (int i = 0; i < 100; ++i) store->maintain();
  EXPECT_LT(store->usage().used, full - Bytes{990 * kPageSize});
  EXPECT_TRUE(holds(*store, again, make_page(5)));
}

TEST(MappedStore, ReturnsMemoryWhenMuchIsFreed) {
  auto store = create_mapped_store({.capacity = 16_MiB, .maximum = 16_MiB, .most_unreturned = 1_MiB});
  ASSERT_TRUE(store.has_value());
  std::vector<Location> locations;
  for (std::uint64_t i = 0; i < 2000; ++i) locations.push_back(put_ok(**store, make_page(i)));
  for (const Location location : locations) drop(**store, location);
  EXPECT_LT((*store)->usage().used, 3_MiB) << "twice most_unreturned, without anybody's help";
  while ((*store)->maintain()) {
  }
  EXPECT_LT((*store)->usage().used, 2_MiB) << "most_unreturned, although all of it was freed just now";
}

TEST(MappedStore, RefusesItemsThatWereNeverStaged) {
  auto store = make_store();
  WriteItem nothing;
  WriteBatch batch{std::span(&nothing, 1), Priority::kWriteBack, {}};
  store->submit_write(batch);
  EXPECT_EQ(nothing.status, PageStatus::kUnavailable);
  Page page = make_page(1);
  WriteItem stale{.buffer = page.bytes.data(), .location = put_ok(*store, page)};
  batch.items = std::span(&stale, 1);
  store->submit_write(batch);
  EXPECT_EQ(stale.status, PageStatus::kUnavailable);
  EXPECT_EQ(store->errors().refused_writes, 2u);
}

TEST(MappedStore, UnstageLeavesACallersOwnBufferAlone) {
  auto store = make_store();
  Page page = make_page(3);
  WriteItem own{.buffer = page.bytes.data()};
  store->unstage(std::span(&own, 1));
  EXPECT_EQ(page, make_page(3));
  EXPECT_EQ(store->errors().refused_writes, 0u);
}

}  // namespace
}  // namespace tidepool::pool
