#include "pool/server/slices.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "tests/unit/pool/server/slices_kit.h"

namespace tidepool::pool::server {
namespace {

using namespace literals;
using namespace testing;

TEST(Slices, GiveBackWhatWasWritten) {
  const ManualClock clock;
  auto store = make_store(clock, 8);
  const AttachResult made = store->attach(claims(1, 1, 1, 200), true);
  ASSERT_EQ(made.status, ErrorCode::kOk);
  EXPECT_TRUE(made.created);
  PageBytes page;
  EXPECT_EQ(get(*made.slice, 3, page).status, ErrorCode::kEmpty);
  EXPECT_EQ(put(*made.slice, 199, 5, 7, 1, 1000), ErrorCode::kOk);
  const auto answer = get(*made.slice, 199, page);
  EXPECT_EQ(answer.status, ErrorCode::kOk);
  EXPECT_EQ(answer.version, 5u);
  EXPECT_EQ(answer.length, 1000u);
  EXPECT_EQ(answer.tag[15], 7u);
  EXPECT_EQ(page[999], std::byte{7});
  EXPECT_EQ(page[1000], std::byte{0}) << "nothing behind what is stored is shown";
  EXPECT_EQ(put(*made.slice, 200, 6, 7), ErrorCode::kOutOfRange);
  EXPECT_EQ(get(*made.slice, 200, page).status, ErrorCode::kOutOfRange);
  EXPECT_EQ(store->figures().stored_pages, 1u);
}

TEST(Slices, TakeOnlyVersionsThatGrow) {
  const ManualClock clock;
  auto store = make_store(clock, 8);
  const auto slice = store->attach(claims(1, 1), true).slice;
  EXPECT_EQ(put(*slice, 0, 0, 1), ErrorCode::kStaleVersion) << "0 means: never";
  EXPECT_EQ(put(*slice, 0, 5, 1), ErrorCode::kOk);
  EXPECT_EQ(put(*slice, 0, 5, 2), ErrorCode::kStaleVersion);
  EXPECT_EQ(put(*slice, 0, 4, 2), ErrorCode::kStaleVersion);
  EXPECT_EQ(slice->discard(LeaseEpoch{1}, {0, 5}), ErrorCode::kStaleVersion);
  EXPECT_EQ(slice->discard(LeaseEpoch{1}, {0, 6}), ErrorCode::kOk);
  EXPECT_EQ(put(*slice, 0, 6, 2), ErrorCode::kStaleVersion) << "a late WRITE must not bring a page back";
  PageBytes page;
  const auto answer = get(*slice, 0, page);
  EXPECT_EQ(answer.status, ErrorCode::kEmpty);
  EXPECT_EQ(answer.version, 6u);
  EXPECT_EQ(put(*slice, 0, 7, 3), ErrorCode::kOk);
}

TEST(Slices, BelongToTheirHolder) {
  const ManualClock clock;
  auto store = make_store(clock, 8);
  ASSERT_EQ(store->attach(claims(1, 1), true).status, ErrorCode::kOk);
  EXPECT_EQ(store->attach(claims(1, 2), true).status, ErrorCode::kDenied);
  EXPECT_EQ(store->attach(claims(1, 2, 9), true).status, ErrorCode::kDenied) << "a higher epoch does not change that";
  EXPECT_EQ(store->attach(claims(1, 1, 1, 65), true).status, ErrorCode::kDenied) << "another size";
  const AttachResult again = store->attach(claims(1, 1), true);
  EXPECT_EQ(again.status, ErrorCode::kOk);
  EXPECT_FALSE(again.created);
}

TEST(Slices, AreFencedByAHigherEpoch) {
  const ManualClock clock;
  auto store = make_store(clock, 8);
  const auto slice = store->attach(claims(1, 1, 3), true).slice;
  ASSERT_EQ(put(*slice, 0, 1, 1, 3), ErrorCode::kOk);
  EXPECT_EQ(store->attach(claims(1, 1, 2), true).status, ErrorCode::kStaleEpoch);
  ASSERT_EQ(store->attach(claims(1, 1, 4), true).status, ErrorCode::kOk);
  PageBytes page;
  EXPECT_EQ(put(*slice, 0, 2, 2, 3), ErrorCode::kStaleEpoch);
  EXPECT_EQ(get(*slice, 0, page, 3).status, ErrorCode::kStaleEpoch);
  EXPECT_EQ(slice->discard(LeaseEpoch{3}, {0, 2}), ErrorCode::kStaleEpoch);
  EXPECT_EQ(store->release(*slice, LeaseEpoch{3}), ErrorCode::kStaleEpoch);
  EXPECT_EQ(get(*slice, 0, page, 4).status, ErrorCode::kOk);
  EXPECT_EQ(store->attach(claims(1, 1, 3), true).status, ErrorCode::kStaleEpoch);
}

TEST(Slices, AfterTheLeaseAreReadButNotWritten) {
  ManualClock clock;
  auto store = make_store(clock, 8);
  const auto slice = store->attach(claims(1, 1, 1, 64, 1000), true).slice;
  ASSERT_EQ(put(*slice, 0, 1, 1), ErrorCode::kOk);
  clock.advance(std::chrono::milliseconds(999));
  EXPECT_EQ(put(*slice, 0, 2, 2), ErrorCode::kOk);
  clock.advance(std::chrono::milliseconds(1));
  EXPECT_EQ(put(*slice, 0, 3, 3), ErrorCode::kExpired);
  EXPECT_EQ(slice->discard(LeaseEpoch{1}, {0, 3}), ErrorCode::kExpired);
  EXPECT_EQ(slice->check(LeaseEpoch{1}, true), ErrorCode::kExpired);
  PageBytes page;
  EXPECT_EQ(get(*slice, 0, page).status, ErrorCode::kOk);
  EXPECT_EQ(page[0], std::byte{2});
  clock.advance(std::chrono::hours(24 * 365));
  EXPECT_EQ(get(*slice, 0, page).status, ErrorCode::kOk) << "time alone takes no page away";
  // Renewed; and the same epoch with less time left takes none away.
  ASSERT_EQ(store->attach(claims(1, 1, 1, 64, 1000), true).status, ErrorCode::kOk);
  ASSERT_EQ(store->attach(claims(1, 1, 1, 64, 10), true).status, ErrorCode::kOk);
  clock.advance(std::chrono::milliseconds(500));
  EXPECT_EQ(put(*slice, 0, 3, 3), ErrorCode::kOk);
  // A lease of the longest time there is does not wrap around.
  ASSERT_EQ(store->attach(claims(1, 1, 1, 64, UINT64_MAX), true).status, ErrorCode::kOk);
  clock.advance(std::chrono::hours(24 * 365));
  EXPECT_EQ(put(*slice, 0, 4, 4), ErrorCode::kOk);
}

class SlicesOf : public ::testing::TestWithParam<Lends> {};
INSTANTIATE_TEST_SUITE_P(Donations, SlicesOf, ::testing::Values(Lends::kMedium, Lends::kFiles),
                         [](const auto& of) { return of.param == Lends::kMedium ? "OneMedium" : "MemoryFiles"; });

TEST_P(SlicesOf, ThatWereReleasedReadZeroBeforeAnybodyElseHasThem) {
  const ManualClock clock;
  auto store = make_store(clock, 4, {}, GetParam());
  const auto slice = store->attach(claims(1, 1, 5, 256), true).slice;
  for (std::uint32_t slot = 0; slot < 256; ++slot) ASSERT_EQ(put(*slice, slot, 1, 0xaa, 5), ErrorCode::kOk);
  EXPECT_EQ(store->figures().stored_pages, 256u);
  ASSERT_EQ(store->release(*slice, LeaseEpoch{5}), ErrorCode::kOk);
  PageBytes page;
  EXPECT_EQ(get(*slice, 0, page, 5).status, ErrorCode::kNoSuchSlice);
  EXPECT_EQ(put(*slice, 0, 2, 1, 5), ErrorCode::kNoSuchSlice);
  EXPECT_EQ(store->release(*slice, LeaseEpoch{5}), ErrorCode::kNoSuchSlice);
  EXPECT_EQ(store->attach(claims(2, 2), true).status, ErrorCode::kFull) << "not zeroed yet, so not lent";
  EXPECT_EQ(store->figures().scrubbing, Bytes{4 * kChunkBytes});
  EXPECT_EQ(store->figures().lent, Bytes{});
  EXPECT_EQ(store->figures().stored_pages, 0u);
  while (store->scrub(1)) {
  }
  const AttachResult other = store->attach(claims(2, 2, 1, 256), true);
  ASSERT_EQ(other.status, ErrorCode::kOk);
  for (std::uint32_t slot = 0; slot < 256; ++slot)
    ASSERT_EQ(get(*other.slice, slot, page).status, ErrorCode::kEmpty) << slot;
}

// Whatever a slice's next holder could read without asking for it.
TEST_P(SlicesOf, HandBackMemoryThatReadsZero) {
  auto donation = make_donation(GetParam(), 4);
  for (int round = 0; round < 3; ++round) {
    auto memory = donation->lend(4);
    ASSERT_NE(memory, nullptr);
    EXPECT_EQ(donation->lend(1), nullptr);
    EXPECT_EQ(donation->free_chunks(), 0u);
    for (std::uint32_t slot = 0; slot < 256; ++slot) {
      const std::byte* const page = memory->page(slot);
      ASSERT_TRUE(std::all_of(page, page + protocol::kSlotBytes, [](std::byte each) { return each == std::byte{0}; }));
      const SlotMark& mark = memory->mark(slot);
      ASSERT_EQ(mark.version, 0u);
      ASSERT_EQ(mark.stored, 0u);
      ASSERT_EQ(mark.tag, protocol::Tag{});
    }
    for (std::uint64_t chunk = 0; chunk < 4; ++chunk) ASSERT_TRUE(memory->populate(chunk));
    for (std::uint32_t slot = 0; slot < 256; ++slot) {
      std::memset(memory->page(slot), 0xaa, protocol::kSlotBytes);
      memory->mark(slot) = {.version = 7, .tag = {1}, .length = 9, .stored = 1};
    }
    while (memory->clear(1) != 0) {
    }
    donation->take_back(std::move(memory));
    EXPECT_EQ(donation->free_chunks(), 4u);
  }
}

class FileOfASlice : public ::testing::Test {
 protected:
  std::vector<std::byte> bytes(std::uint64_t offset, std::size_t size) const {
    std::vector<std::byte> read(size);
    EXPECT_EQ(::pread(file.get(), read.data(), size, static_cast<off_t>(offset)), static_cast<ssize_t>(size));
    return read;
  }
  std::uint64_t blocks() const {
    struct stat status {};
    EXPECT_EQ(::fstat(file.get(), &status), 0);
    return static_cast<std::uint64_t>(status.st_blocks);
  }

  ManualClock clock;
  std::unique_ptr<SliceStore> store = make_store(clock, 8);
  std::shared_ptr<Slice> slice = store->attach(claims(1, 1, 1, 100), true).slice;
  UniqueFd file = slice->for_reading();
};

TEST_F(FileOfASlice, IsWhatItsHolderReads) {
  ASSERT_TRUE(file.valid());
  ASSERT_EQ(put(*slice, 99, 7, 0x5a, 1, 1000), ErrorCode::kOk);
  EXPECT_EQ(bytes(protocol::page_offset(99), 1000), std::vector<std::byte>(1000, std::byte{0x5a}));
  SlotMark mark;
  std::memcpy(&mark, bytes(protocol::mark_offset(100, 99), sizeof mark).data(), sizeof mark);
  EXPECT_EQ(mark.version, 7u);
  EXPECT_EQ(mark.length, 1000u);
  EXPECT_EQ(mark.stored, 1u);
  EXPECT_EQ(mark.tag[0], 0x5a);
  ASSERT_EQ(slice->discard(LeaseEpoch{1}, {99, 8}), ErrorCode::kOk);
  std::memcpy(&mark, bytes(protocol::mark_offset(100, 99), sizeof mark).data(), sizeof mark);
  EXPECT_EQ(mark.stored, 0u);
  EXPECT_EQ(mark.version, 8u);
}

TEST_F(FileOfASlice, CannotBeWrittenOrCutByWhoeverHasIt) {
  EXPECT_EQ(::write(file.get(), "x", 1), -1);
  EXPECT_EQ(::ftruncate(file.get(), 0), -1);
  EXPECT_EQ(::mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0), MAP_FAILED);
  struct stat status {};
  ASSERT_EQ(::fstat(file.get(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777u, 0400u) << "nobody else opens it anew to write";
  EXPECT_NE(::fcntl(file.get(), F_GET_SEALS) & F_SEAL_SHRINK, 0) << "its server is never surprised by a signal";
}

TEST_F(FileOfASlice, IsEmptyForWhoeverStillHasItWhenTheSliceWasReleased) {
  for (std::uint32_t slot = 0; slot < 100; ++slot) ASSERT_EQ(put(*slice, slot, 1, 0xaa), ErrorCode::kOk);
  EXPECT_GE(blocks() * 512, 100 * kPageSize);
  ASSERT_EQ(store->release(*slice, LeaseEpoch{1}), ErrorCode::kOk);
  EXPECT_FALSE(slice->for_reading().valid());
  while (store->scrub(1)) {
  }
  EXPECT_EQ(blocks(), 0u) << "the host has its pages back";
  EXPECT_EQ(bytes(0, kPageSize), std::vector<std::byte>(kPageSize));
  EXPECT_EQ(bytes(protocol::mark_offset(100, 0), 100 * kMarkBytes), std::vector<std::byte>(100 * kMarkBytes));
  const auto next = store->attach(claims(2, 2, 1, 100), true).slice;
  ASSERT_EQ(put(*next, 0, 1, 0xbb), ErrorCode::kOk);
  EXPECT_EQ(bytes(0, kPageSize), std::vector<std::byte>(kPageSize)) << "that is another file";
}

TEST(SlicesOfAMedium, HaveNoFile) {
  const ManualClock clock;
  const auto store = make_store(clock, 4, {}, Lends::kMedium);
  EXPECT_FALSE(store->attach(claims(1, 1), true).slice->for_reading().valid());
}

TEST(Slices, DoNotGoBackToAnEpochFromBeforeTheirRelease) {
  const ManualClock clock;
  auto store = make_store(clock, 8);
  const auto slice = store->attach(claims(1, 1, 5), true).slice;
  ASSERT_EQ(store->release(*slice, LeaseEpoch{5}), ErrorCode::kOk);
  EXPECT_EQ(store->attach(claims(1, 1, 4), true).status, ErrorCode::kStaleEpoch);
  EXPECT_EQ(store->attach(claims(1, 2, 5), true).status, ErrorCode::kStaleEpoch);
  EXPECT_EQ(store->attach(claims(1, 2, 6), true).status, ErrorCode::kOk);
}

TEST(Slices, StayWithinEveryBound) {
  const ManualClock clock;
  SliceLimits limits;
  limits.slices = 4;
  limits.slice_bytes = 1_MiB;
  limits.slices_per_holder = 3;
  limits.holder_bytes = 1_MiB + 512_KiB;
  auto store = make_store(clock, 10, limits);
  EXPECT_EQ(store->attach(claims(1, 1, 1, 0), true).status, ErrorCode::kOutOfRange);
  EXPECT_EQ(store->attach(claims(1, 1, 1, 257), true).status, ErrorCode::kFull) << "a slice too big";
  EXPECT_EQ(store->attach(claims(1, 1, 1, UINT32_MAX), true).status, ErrorCode::kFull);
  EXPECT_EQ(store->attach(claims(1, 1, 1, 256), true).status, ErrorCode::kOk);
  EXPECT_EQ(store->attach(claims(2, 1, 1, 192), true).status, ErrorCode::kFull) << "too much for one holder";
  EXPECT_EQ(store->attach(claims(2, 1, 1, 1), true).status, ErrorCode::kOk);
  EXPECT_EQ(store->attach(claims(3, 1, 1, 1), true).status, ErrorCode::kOk);
  EXPECT_EQ(store->attach(claims(4, 1, 1, 1), true).status, ErrorCode::kFull) << "too many for one holder";
  EXPECT_EQ(store->attach(claims(4, 2, 1, 256), true).status, ErrorCode::kOk);
  EXPECT_EQ(store->attach(claims(5, 3, 1, 1), true).status, ErrorCode::kFull) << "too many";
  limits.slices = 5;
  store->set_limits(limits);
  EXPECT_EQ(store->attach(claims(5, 3, 1, 1), true).status, ErrorCode::kFull) << "no memory";
  EXPECT_EQ(store->figures().refused_full, 6u);
  EXPECT_EQ(store->figures().lent, Bytes{10 * kChunkBytes});
}

TEST(Slices, AreMadeOnlyWhenAskedTo) {
  const ManualClock clock;
  auto store = make_store(clock, 8);
  Claims without = claims(1, 1);
  without.rights &= ~protocol::kRightCreate;
  EXPECT_EQ(store->attach(without, true).status, ErrorCode::kNoSuchSlice);
  EXPECT_EQ(store->attach(claims(1, 1), false).status, ErrorCode::kDrainingNow);
  EXPECT_EQ(store->attach(claims(1, 1), true).status, ErrorCode::kOk);
  EXPECT_EQ(store->attach(without, false).status, ErrorCode::kOk) << "what is there stays reachable while draining";
}

// Whoever is told to free one makes sure that no late holder is let in, also where there was none.
TEST(Slices, AreFreedBelowAnEpochAndStayFenced) {
  const ManualClock clock;
  auto store = make_store(clock, 8);
  const AttachResult lent = store->attach(claims(1, 1, 5), true);
  ASSERT_EQ(lent.status, ErrorCode::kOk);
  ASSERT_EQ(put(*lent.slice, 0, 1, 7, 5), ErrorCode::kOk);
  store->free_below(SliceId{1}, LeaseEpoch{5});
  EXPECT_EQ(store->figures().slices, 1u) << "the holder's epoch is not below";
  store->free_below(SliceId{1}, LeaseEpoch{9});
  store->free_below(SliceId{1}, LeaseEpoch{9});
  store->free_below(SliceId{1}, LeaseEpoch{3});
  EXPECT_EQ(store->figures().slices, 0u);
  EXPECT_EQ(store->figures().released, 1u);
  EXPECT_EQ(put(*lent.slice, 0, 2, 7, 5), ErrorCode::kNoSuchSlice);
  EXPECT_EQ(store->attach(claims(1, 1, 5), true).status, ErrorCode::kStaleEpoch);
  EXPECT_EQ(store->attach(claims(1, 1, 8), true).status, ErrorCode::kStaleEpoch);
  EXPECT_EQ(store->attach(claims(1, 2, 9), true).status, ErrorCode::kOk) << "it is the next one's";
  store->free_below(SliceId{2}, LeaseEpoch{4});
  EXPECT_EQ(store->attach(claims(2, 1, 3), true).status, ErrorCode::kStaleEpoch) << "a late ATTACH";
  const auto held = store->held();
  ASSERT_EQ(held.size(), 1u);
  EXPECT_EQ(held[0].slice, SliceId{1});
  EXPECT_EQ(held[0].epoch, LeaseEpoch{9});
}

TEST(Slices, CountTheirMarksIntoTheCapacity) {
  const Bytes medium = medium_within(1_GiB);
  const Bytes marks{medium.value / protocol::kSlotBytes * kMarkBytes};
  EXPECT_LE(medium + marks, 1_GiB);
  EXPECT_GT(medium, 1_GiB - 16_MiB);
}

}  // namespace
}  // namespace tidepool::pool::server
