// What only the compressed store promises: holes between its pages do not stay.
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

INSTANTIATE_TEST_SUITE_P(Codecs, CompressedStoreTest, ::testing::Values(Kind::kLz4, Kind::kZstd), KindName{});

}  // namespace
}  // namespace tidepool::pool
