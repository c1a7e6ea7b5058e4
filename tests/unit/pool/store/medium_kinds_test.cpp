// A page's way through a mapped store on each kind of medium but the memfd, which all other tests use.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <vector>

#include "pool/store/mapped_store.h"
#include "tests/support/huge_pages.h"
#include "tests/unit/pool/store/store_kit.h"

namespace tidepool::pool {
namespace {

using namespace literals;
using namespace testing;
using tests::HugePages;

Bytes room_in(const PageStore& store) {
  return saturating_sub(store.usage().capacity, store.usage().used);
}

// Pages of ascending seeds from 0, until there is no more room.
std::vector<Location> fill(PageStore& store) {
  std::vector<Location> locations;
  while (true) {
    const auto [status, location] = put(store, make_page(locations.size()));
    if (status != PageStatus::kOk) {
      EXPECT_EQ(status, PageStatus::kFull);
      return locations;
    }
    locations.push_back(location);
  }
}

void expect_pages(PageStore& store, std::span<const Location> locations, std::size_t from = 0) {
  for (std::size_t i = from; i < locations.size(); ++i) ASSERT_TRUE(holds(store, locations[i], make_page(i))) << i;
}

Result<std::unique_ptr<EmbeddedStore>> take_over(const EmbeddedStore& store, const MappedStoreOptions& options) {
  const auto held = store.held_descriptors();
  return open_mapped_store(UniqueFd{::dup(held[0].second)}, UniqueFd{::dup(held[1].second)}, options);
}

class HugetlbStore : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!huge_.missing().empty()) GTEST_SKIP() << "no huge pages here: " << huge_.missing();
  }
  HugePages huge_{16};
};

TEST_F(HugetlbStore, HasRoomForAsManyPagesAsFit) {
  auto made = create_mapped_store({.path = huge_ / "pool", .capacity = 16_MiB});
  ASSERT_TRUE(made.has_value()) << made.error().message();
  EmbeddedStore& store = **made;
  EXPECT_GT(room_in(store), 15_MiB) << "nothing is stored yet";
  EXPECT_EQ(store.usage().set_aside, 16_MiB) << "but nobody else can have it";
  EXPECT_FALSE(store.uses_host_dram()) << "nor when pages leave";
  const std::vector<Location> locations = fill(store);
  EXPECT_GT(locations.size(), 4000u);
  EXPECT_LT(room_in(store), 1_MiB);
  expect_pages(store, locations);
  store.release(std::span(locations).first(2000));
  EXPECT_GT(room_in(store), Bytes{2000 * kPageSize});
  EXPECT_EQ(store.usage().set_aside, 16_MiB);
  for (std::size_t i = 0; i < 2000; ++i) put_ok(store, make_page(i));
  expect_pages(store, locations, 2000);
  EXPECT_EQ(store.errors().corrupt_pages, 0u);
}

TEST_F(HugetlbStore, ReservesWholeHugePagesForItsCapacity) {
  auto small = create_mapped_store({.path = huge_ / "pool", .capacity = 3_MiB});
  ASSERT_TRUE(small.has_value()) << small.error().message();
  EXPECT_EQ((*small)->usage().set_aside, 4_MiB);
  EXPECT_TRUE((*small)->set_capacity(4_MiB));
  EXPECT_FALSE((*small)->set_capacity(8_MiB)) << "no more was reserved";
  const auto none = create_mapped_store({.path = huge_ / "more", .capacity = 30_MiB});
  ASSERT_FALSE(none.has_value());
  EXPECT_NE(none.error().message().find("raise vm.nr_hugepages"), std::string::npos) << none.error().message();
}

TEST_F(HugetlbStore, IsTakenOverWithItsPages) {
  const MappedStoreOptions options{.path = huge_ / "pool", .capacity = 16_MiB};
  auto store = create_mapped_store(options);
  ASSERT_TRUE(store.has_value()) << store.error().message();
  std::vector<Location> locations;
  for (std::size_t i = 0; i < 1000; ++i) locations.push_back(put_ok(**store, make_page(i)));
  (*store)->release(std::span(locations).first(500));
  auto successor = take_over(**store, options);
  ASSERT_TRUE(successor.has_value()) << successor.error().message();
  store->reset();
  EXPECT_EQ((*successor)->usage().pages, PageCount{500});
  EXPECT_GT(room_in(**successor), 13_MiB);
  EXPECT_EQ((*successor)->usage().set_aside, 16_MiB);
  expect_pages(**successor, locations, 500);
  const Location fresh = put_ok(**successor, make_page(7));
  EXPECT_TRUE(holds(**successor, fresh, make_page(7)));
  (*successor)->release(std::span(locations).subspan(500));
  EXPECT_EQ((*successor)->usage().pages, PageCount{1});
  EXPECT_EQ((*successor)->errors().refused_releases, 0u);
}

}  // namespace
}  // namespace tidepool::pool
