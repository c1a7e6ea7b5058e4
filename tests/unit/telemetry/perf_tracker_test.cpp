#include "telemetry/hotness/perf_tracker.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/unit/telemetry/tracked_fakes.h"

namespace tidepool::telemetry {
namespace {

constexpr std::uint64_t kLongest = 1u << 20;

// Something that happens so often per second is sampled, until the period rests. Returns the samples per second then.
double settle(PerfPeriod& period, double occurrences, double affordable) {
  for (int round = 0; round < 100; ++round) {
    if (!period.steer(occurrences / static_cast<double>(period.value()), false, affordable)) break;
  }
  return occurrences / static_cast<double>(period.value());
}

TEST(PerfPeriod, SettlesBetweenAQuarterAndAllOfWhatCanBeAfforded) {
  for (const std::uint64_t first : {std::uint64_t{1}, std::uint64_t{1} << 10, kLongest}) {
    for (const double occurrences : {1e4, 1e6, 1e8}) {
      PerfPeriod period(first, 1, kLongest);
      const double samples = settle(period, occurrences, 1000);
      EXPECT_LE(samples, 1000) << first << " " << occurrences;
      EXPECT_GE(samples, 250) << first << " " << occurrences;
    }
  }
}

TEST(PerfPeriod, RestsOnceItFits) {
  PerfPeriod period(1, 1, kLongest);
  settle(period, 1e6, 1000);
  const std::uint64_t settled = period.value();
  EXPECT_FALSE(period.steer(1e6 / static_cast<double>(settled), false, 1000));
  EXPECT_EQ(period.value(), settled);
}

TEST(PerfPeriod, LeapsWhereFarTooMuchCame) {
  PerfPeriod period(1, 1, kLongest);
  EXPECT_TRUE(period.steer(64'000, false, 1000));
  EXPECT_EQ(period.value(), 64u);
}

TEST(PerfPeriod, GrowsWhereSamplesWereLostThoughFewCame) {
  PerfPeriod period(8, 1, kLongest);
  EXPECT_TRUE(period.steer(1, true, 1000));
  EXPECT_EQ(period.value(), 16u);
}

TEST(PerfPeriod, StaysWithinItsBounds) {
  PerfPeriod period(64, 16, 256);
  for (int i = 0; i < 10; ++i) period.steer(0, false, 1000);
  EXPECT_EQ(period.value(), 16u);
  EXPECT_FALSE(period.steer(0, false, 1000));
  for (int i = 0; i < 10; ++i) period.steer(1e12, true, 1000);
  EXPECT_EQ(period.value(), 256u);
  EXPECT_FALSE(period.steer(1e12, true, 1000));
  // Nothing can be afforded: the longest there is, and no endless search for more.
  PerfPeriod poor(16, 16, 256);
  poor.steer(5, false, 0);
  EXPECT_EQ(poor.value(), 256u);
}

class PerfTrackerTest : public testing::Test {
 protected:
  void SetUp() override {
    tracker_.emplace(PerfConfig{}, kernel::KernelRoots{.sys = "/nowhere"}, clock_, cpu_);
    if (!tracker_->info().usable) GTEST_SKIP() << tracker_->info().why_not;
    memory_ = *Mapping::anonymous(Bytes{64 * kPageSize});
    ::madvise(memory_.data(), memory_.size(), MADV_NOHUGEPAGE);
    const auto start = reinterpret_cast<std::uintptr_t>(memory_.data());
    view_.vm = VmId{1};
    view_.epoch = 1;
    view_.objects = {{{VmId{1}, 0}, PageCount{1000 + 64}, false, false, nullptr}};
    TrackedSpace space;
    space.process = kernel::Process::open({}, ::getpid())->id();
    space.segments = {{{start, start + memory_.size()}, 0, PageIndex{1000}}};
    view_.spaces = {space};
  }
  MemoryList list() const { return {std::make_shared<TrackedMemory>(view_)}; }
  void touch(std::size_t page) { *reinterpret_cast<volatile char*>(memory_.data() + page * kPageSize) = 1; }
  std::vector<std::uint64_t> pages_seen() {
    SampleList sink;
    tracker_->round(sink);
    std::vector<std::uint64_t> pages;
    for (const auto& sample : sink.samples) {
      EXPECT_TRUE(policy::well_formed(sample));
      EXPECT_EQ(sample.evidence, policy::Evidence::kEvents);
      EXPECT_EQ(sample.object, (policy::ObjectId{VmId{1}, 0}));
      EXPECT_GE(sample.used, 1u);
      pages.push_back(sample.pages.first.value);
    }
    return pages;
  }

  const SystemClock clock_{};
  const ThreadCpuClock cpu_{};
  std::optional<PerfTracker> tracker_;
  Mapping memory_;
  TrackedMemory view_;
};

TEST_F(PerfTrackerTest, NamesPagesOfObjectsWithTheirFirstTouches) {
  tracker_->set_memory(list());
  tracker_->set_cpu_share(1);
  EXPECT_TRUE(pages_seen().empty());
  for (const std::size_t page : {3u, 40u, 5u}) touch(page);
  EXPECT_EQ(pages_seen(), (std::vector<std::uint64_t>{1003, 1005, 1040}));
  for (const std::size_t page : {3u, 40u, 5u}) touch(page);  // they are present now
  EXPECT_TRUE(pages_seen().empty());
  EXPECT_EQ(tracker_->info().samples, 3u);
}

TEST_F(PerfTrackerTest, CountsWhatTheRingHadNoRoomFor) {
  tracker_->set_memory(list());
  tracker_->set_cpu_share(1);
  pages_seen();
  // Some 40 bytes each, in a ring of 64 KiB; the next record that has room says how many had none.
  for (int again = 0; again < 60; ++again) {
    ::madvise(memory_.data(), memory_.size(), MADV_DONTNEED);
    for (std::size_t page = 0; page < 64; ++page) touch(page);
  }
  pages_seen();
  ::madvise(memory_.data(), memory_.size(), MADV_DONTNEED);
  touch(0);
  pages_seen();
  EXPECT_GT(tracker_->info().lost, 0u);
  EXPECT_EQ(tracker_->info().malformed, 0u);
  EXPECT_TRUE(tracker_->info().usable);
}

TEST_F(PerfTrackerTest, ForgetsWhatHappenedBeforeTheMemoryChanged) {
  tracker_->set_memory(list());
  tracker_->set_cpu_share(1);
  pages_seen();
  touch(1);
  view_.epoch = 2;
  tracker_->set_memory(list());
  touch(2);
  EXPECT_EQ(pages_seen(), std::vector<std::uint64_t>{1002});
}

TEST_F(PerfTrackerTest, RestsWithoutAShareAndGoesOnWithOne) {
  tracker_->set_memory(list());
  tracker_->set_cpu_share(1);
  pages_seen();
  tracker_->set_cpu_share(0);
  touch(0);
  EXPECT_TRUE(pages_seen().empty());
  tracker_->set_cpu_share(1);
  // Nothing is saved up yet: it may take a moment.
  std::vector<std::uint64_t> seen;
  for (std::size_t page = 1; page < 64 && seen.empty(); ++page) {
    touch(page);
    seen = pages_seen();
    ::usleep(1000);
  }
  ASSERT_FALSE(seen.empty());
  EXPECT_GT(seen.front(), 1000u) << "what happened while it rested";
}

TEST_F(PerfTrackerTest, RestsWithoutMemory) {
  tracker_->set_memory(list());
  tracker_->set_cpu_share(1);
  pages_seen();
  tracker_->set_memory({});
  touch(3);
  EXPECT_TRUE(pages_seen().empty());
}

TEST_F(PerfTrackerTest, LeavesGuestsAlone) {
  view_.guest = true;
  tracker_->set_memory(list());
  tracker_->set_cpu_share(1);
  EXPECT_EQ(tracker_->covers(list()), Coverage::kNone);
  pages_seen();
  touch(1);
  EXPECT_TRUE(pages_seen().empty());
}

TEST_F(PerfTrackerTest, SaysWhatItSeesAndWhyNothingBetterIsThere) {
  const TrackerInfo info = tracker_->info();
  ASSERT_EQ(tracker_->means(), kernel::PerfMeans::kPageFaults);
  EXPECT_EQ(info.name, "perf");
  EXPECT_EQ(info.covers, Coverage::kFar);
  std::string blind;
  for (const std::string& spot : info.blind_spots) blind += spot + "\n";
  for (const char* word : {"present", "KVM", "mem-loads", "ibs_op"}) EXPECT_NE(blind.find(word), std::string::npos);
}

TEST_F(PerfTrackerTest, OutlivesAProcessThatEnded) {
  view_.spaces[0].process.start_ticks += 1;  // another one of that number
  tracker_->set_memory(list());
  tracker_->set_cpu_share(1);
  for (int i = 0; i < 5; ++i) {
    touch(static_cast<std::size_t>(i));
    EXPECT_TRUE(pages_seen().empty());
    view_.epoch += 1;
    tracker_->set_memory(list());
  }
  EXPECT_TRUE(tracker_->info().usable);
}

}  // namespace
}  // namespace tidepool::telemetry
