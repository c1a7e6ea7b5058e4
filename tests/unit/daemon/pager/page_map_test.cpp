// What a page map counts, and what its entries keep.
#include "daemon/pager/page_map.h"

#include <gtest/gtest.h>

namespace tidepool::daemon {
namespace {

constexpr pool::Location kSomewhere{0x12345};

class PageMaps : public testing::Test {
 protected:
  void SetUp() override {
    auto map = PageMap::create("test", PageCount{8 * kPagesPerRegion}, false);
    ASSERT_TRUE(map) << map.error().message();
    map_ = std::move(*map);
    ASSERT_TRUE(map_->append(PageCount{2 * kPagesPerRegion}, 0));
  }
  void become(std::uint64_t page, PageEntry to) {
    PageEntry now = map_->load(PageIndex{page});
    ASSERT_TRUE(map_->exchange(PageIndex{page}, now, to));
  }
  std::unique_ptr<PageMap> map_;
};

TEST_F(PageMaps, CountAPageInOneStateAndItsRegion) {
  EXPECT_EQ(map_->count(PageState::kUntouched), 2 * kPagesPerRegion);
  become(600, PageEntry::plain(PageState::kResident));
  EXPECT_EQ(map_->region(1).resident, 1);
  become(600, PageEntry::demoting(7, 3));
  become(600, PageEntry::stored(PageState::kDropping, kSomewhere));
  EXPECT_EQ(map_->region(1).resident, 1) << "until it is dropped";
  EXPECT_EQ(map_->count(PageState::kDropping), 1u);
  become(600, PageEntry::stored(PageState::kFar, kSomewhere));
  EXPECT_EQ(map_->region(1).resident, 0);
  EXPECT_EQ(map_->region(1).far, 1);
  EXPECT_EQ(map_->count(PageState::kFar), 1u);
  EXPECT_EQ(map_->region(0).far, 0);
}

TEST_F(PageMaps, CountAPageThatIsDroppedAlongAsFarAllTheWhile) {
  const PageEntry far = PageEntry::stored(PageState::kFar, kSomewhere);
  become(3, far);
  const PageEntry along = far.with_state(PageState::kDropping).with_held();
  become(3, along);
  EXPECT_TRUE(along.dropped_along());
  EXPECT_TRUE(along.holds_location());
  EXPECT_EQ(along.location(), kSomewhere);
  EXPECT_EQ(map_->count(PageState::kDropping), 0u);
  EXPECT_EQ(map_->count(PageState::kFar), 1u);
  EXPECT_EQ(map_->region(0).far, 1);
  EXPECT_EQ(map_->region(0).resident, 0);
  become(3, along.with_discarded());
  become(3, PageEntry::plain(PageState::kReleased));
  EXPECT_EQ(map_->count(PageState::kFar), 0u);
  EXPECT_EQ(map_->region(0).far, 0);
  EXPECT_FALSE(PageEntry::plain(PageState::kResident).with_held().dropped_along());
}

TEST_F(PageMaps, CountTogetherWhatIsExchangedTogether) {
  become(511, PageEntry::plain(PageState::kResident).with_incompressible());
  {
    PageMap::Changes changes(*map_);
    const auto exchange = [&](std::uint64_t page, PageEntry to) {
      PageEntry now = map_->load(PageIndex{page});
      return changes.exchange(PageIndex{page}, now, to);
    };
    EXPECT_TRUE(exchange(510, PageEntry::plain(PageState::kResident)));
    EXPECT_EQ(map_->load(PageIndex{510}).state(), PageState::kResident);
    EXPECT_EQ(map_->region(0).resident, 1) << "of the former one: the new one is not counted yet";
    EXPECT_TRUE(exchange(511, PageEntry::demoting(1, 0)));  // from another state, and no longer incompressible
    EXPECT_TRUE(exchange(512, PageEntry::plain(PageState::kResident)));  // of another region
    EXPECT_TRUE(exchange(513, PageEntry::plain(PageState::kResident)));
    EXPECT_TRUE(exchange(514, PageEntry::stored(PageState::kFar, kSomewhere)));
    PageEntry wrong = PageEntry::plain(PageState::kReleased);
    EXPECT_FALSE(changes.exchange(PageIndex{515}, wrong, PageEntry::plain(PageState::kResident)));
    EXPECT_EQ(wrong.state(), PageState::kUntouched) << "refreshed";
  }
  EXPECT_EQ(map_->region(0).resident, 2);
  EXPECT_EQ(map_->region(0).incompressible, 0);
  EXPECT_EQ(map_->region(1).resident, 2);
  EXPECT_EQ(map_->region(1).far, 1);
  EXPECT_EQ(map_->count(PageState::kResident), 3u);
  EXPECT_EQ(map_->count(PageState::kDemoting), 1u);
  EXPECT_EQ(map_->count(PageState::kFar), 1u);
  EXPECT_EQ(map_->count(PageState::kUntouched), 2 * kPagesPerRegion - 5);
}

TEST_F(PageMaps, ExchangeNothingThatIsAnotherByNow) {
  PageEntry expected = PageEntry::plain(PageState::kResident);
  EXPECT_FALSE(map_->exchange(PageIndex{0}, expected, PageEntry::plain(PageState::kReleased)));
  EXPECT_EQ(expected.state(), PageState::kUntouched) << "refreshed";
  EXPECT_EQ(map_->count(PageState::kUntouched), 2 * kPagesPerRegion);
}

TEST_F(PageMaps, LeaveOutWhatLiesBetweenObjectsThatAreAligned) {
  const auto first = map_->append(PageCount{10}, 5);
  ASSERT_TRUE(first);
  EXPECT_EQ(first->value % kPagesPerRegion, 5u);
  EXPECT_EQ(map_->count(PageState::kExcluded), 5u);
  EXPECT_EQ(map_->pages().value, 2 * kPagesPerRegion + 15);
  EXPECT_FALSE(map_->append(PageCount{1ull << 32}, 0)) << "more than its capacity";
}

TEST(PageEntries, KeepTheirParts) {
  const PageEntry value = PageEntry::value(PageState::kFar, 0xdeadbeef);
  EXPECT_TRUE(value.is_value());
  EXPECT_FALSE(value.holds_location());
  EXPECT_EQ(value.with_state(PageState::kDropping).pattern(), 0xdeadbeefu);
  const PageEntry demoting = PageEntry::demoting(0xabcd, 9);
  EXPECT_EQ(demoting.ticket(), 0xabcd);
  EXPECT_EQ(demoting.interval(), 9u);
  const PageAge age = PageAge::at(MonoTime{std::chrono::hours(5)}, 4);
  const PageEntry aged = PageEntry::stored(PageState::kFar, kSomewhere).with_age(age).with_state(PageState::kFetching);
  EXPECT_EQ(aged.age(), age);
  EXPECT_EQ(aged.location(), kSomewhere);
}

}  // namespace
}  // namespace tidepool::daemon
