// What only the compressed store promises: pages that would not shrink are refused, and holes do not stay.
#include "pool/store/compressed_store.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/unit/pool/store/store_kinds.h"
#include "tests/unit/pool/store/store_kit.h"

namespace tidepool::pool {
namespace {

using namespace literals;
using namespace testing;

class CompressedStoreTest : public ::testing::TestWithParam<Kind> {
 protected:
  Bytes content() const { return store_->usage().used - store_->usage().metadata; }
  void maintain_to_the_end() {
    int rounds = 0;
    while (store_->maintain()) ASSERT_LT(++rounds, 10000);
  }

  const std::unique_ptr<EmbeddedStore> store_ = create(GetParam());
};

// Every slab keeps about half of its pages, so none empties by itself: only moving them together gives memory back.
TEST_P(CompressedStoreTest, MovesWhatIsLeftTogetherAndGivesTheRestBack) {
  std::vector<Location> locations;
  for (std::uint64_t i = 0; i < 10000; ++i) locations.push_back(put_ok(*store_, make_page(i)));
  const Bytes full = content();
  std::vector<Location> odd;
  for (std::size_t i = 1; i < locations.size(); i += 2) odd.push_back(locations[i]);
  store_->release(odd);
  EXPECT_GT(content(), Bytes{full.value / 100 * 95}) << "holes alone give nothing back";
  maintain_to_the_end();
  // Half of it, and what each size of pages may keep free.
  EXPECT_LT(content(), Bytes{full.value / 100 * 60});
  EXPECT_LT(host_bytes(*store_), full.value / 100 * 65) << "as the host counts";
  for (std::size_t i = 0; i < locations.size(); i += 2) ASSERT_TRUE(holds(*store_, locations[i], make_page(i))) << i;
  for (std::size_t i = 0; i < locations.size(); i += 2) drop(*store_, locations[i]);
  maintain_to_the_end();
  EXPECT_EQ(content(), Bytes{});
  EXPECT_EQ(store_->errors().refused_releases, 0u);
  EXPECT_EQ(store_->errors().corrupt_pages, 0u);
}

TEST_P(CompressedStoreTest, RefusesWhatWouldNotShrinkAndKeepsNothingOfIt) {
  const Location known = put_ok(*store_, make_page(1));
  const Bytes used = store_->usage().used;
  const std::uint64_t host = host_bytes(*store_);
  for (std::uint64_t i = 0; i < 500; ++i) {
    const auto [status, location] = put(*store_, make_page(i, Content::kRandom));
    ASSERT_EQ(status, PageStatus::kIncompressible);
    ASSERT_EQ(location, kNoLocation);
  }
  const StoreUsage usage = store_->usage();
  EXPECT_EQ(usage.incompressible, 500u);
  EXPECT_EQ(usage.pages, PageCount{1});
  EXPECT_EQ(usage.used, used);
  EXPECT_EQ(host_bytes(*store_), host);
  store_->for_each_live([&](Location location, std::uint32_t) { EXPECT_EQ(location, known); });
  EXPECT_TRUE(holds(*store_, known, make_page(1)));
}

// In one batch, each page has an answer of its own.
TEST_P(CompressedStoreTest, StoresWhatShrinksOfABatchOfBoth) {
  std::vector<Page> pages;
  for (std::uint64_t i = 0; i < 64; ++i) pages.push_back(make_page(i, Content::kMixed));
  std::vector<WriteItem> items(pages.size());
  for (std::size_t i = 0; i < items.size(); ++i) items[i].buffer = pages[i].bytes.data();
  WriteBatch batch{items, Priority::kWriteBack, {}};
  store_->submit_write(batch);
  for (std::size_t i = 0; i < items.size(); ++i) {
    ASSERT_EQ(items[i].status, i % 4 == 3 ? PageStatus::kIncompressible : PageStatus::kOk) << i;
    if (i % 4 == 3) continue;
    ASSERT_TRUE(holds(*store_, items[i].location, pages[i])) << i;
  }
  EXPECT_EQ(store_->usage().pages, PageCount{48});
}

INSTANTIATE_TEST_SUITE_P(Codecs, CompressedStoreTest, ::testing::Values(Kind::kLz4, Kind::kZstd), KindName{});

}  // namespace
}  // namespace tidepool::pool
