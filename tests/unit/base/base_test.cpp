#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "base/byte_budget.h"
#include "base/clock.h"
#include "base/ids.h"
#include "base/latency_histogram.h"
#include "base/mapping.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "base/units.h"

namespace tidepool {
namespace {

using namespace literals;

TEST(Units, PagesAndBytesConvertWithoutInventingMemory) {
  EXPECT_EQ(to_bytes(512_pages), 2_MiB);
  EXPECT_EQ(whole_pages(Bytes{8191}), 1_pages);
  EXPECT_EQ(saturating_sub(1_KiB, 2_KiB), Bytes{});
}

TEST(AddressRange, TouchingRangesDoNotOverlap) {
  EXPECT_FALSE((AddressRange{0, 4096}.overlaps(AddressRange{4096, 8192})));
  EXPECT_TRUE((AddressRange{0, 4097}.overlaps(AddressRange{4096, 8192})));
  EXPECT_TRUE((AddressRange{0, 8192}.contains(AddressRange{4096, 8192})));
}

TEST(Error, SaysWhatWasAttemptedOnWhatAndWhatToDo) {
  const Failure failed = failure(std::errc::permission_denied, "open", "/proc/1/pagemap", "grant CAP_SYS_PTRACE");
  EXPECT_EQ(failed.value().message(), "open /proc/1/pagemap: Permission denied (grant CAP_SYS_PTRACE)");
}

TEST(UniqueFd, ClosesOnceAndMovesOwnership) {
  UniqueFd first{::open("/dev/null", O_RDONLY | O_CLOEXEC)};
  const int number = first.get();
  UniqueFd second = std::move(first);
  EXPECT_EQ(second.get(), number);
  EXPECT_GE(::fcntl(number, F_GETFD), 0);
  second.reset();
  EXPECT_LT(::fcntl(number, F_GETFD), 0);
}

TEST(UniqueFd, DuplicatesAreCloseOnExec) {
  const UniqueFd first{::open("/dev/null", O_RDONLY | O_CLOEXEC)};
  const UniqueFd copy = first.duplicate();
  ASSERT_TRUE(copy.valid());
  EXPECT_NE(::fcntl(copy.get(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST(Mapping, AnonymousMemoryReadsZero) {
  auto memory = Mapping::anonymous(1_MiB);
  ASSERT_TRUE(memory);
  EXPECT_EQ(memory->bytes()[12345], std::byte{0});
}

TEST(Mapping, RefusesABadDescriptorWithTheKernelsReason) {
  auto memory = Mapping::of_file(-1, 1_MiB, Bytes{}, 1 /*PROT_READ*/, 1 /*MAP_SHARED*/);
  ASSERT_FALSE(memory);
  EXPECT_EQ(memory.error().code, std::errc::bad_file_descriptor);
}

TEST(LatencyHistogram, BucketsCoverTheRangeWithoutGaps) {
  for (unsigned bucket = 0; bucket + 1 < LatencyHistogram::kBuckets; ++bucket) {
    EXPECT_EQ(LatencyHistogram::bucket_of(LatencyHistogram::lower_bound_of(bucket)), bucket);
    EXPECT_EQ(LatencyHistogram::bucket_of(LatencyHistogram::lower_bound_of(bucket + 1) - 1), bucket);
  }
}

TEST(LatencyHistogram, PercentilesAreWithinABucketOfTheTruth) {
  LatencyHistogram histogram;
  for (int us = 1; us <= 1000; ++us) histogram.record(std::chrono::microseconds(us));
  const auto snapshot = histogram.snapshot();
  EXPECT_EQ(snapshot.total, 1000u);
  EXPECT_NEAR(static_cast<double>(snapshot.percentile(0.5).count()), 500e3, 500e3 * 0.13);
  EXPECT_NEAR(static_cast<double>(snapshot.percentile(0.99).count()), 990e3, 990e3 * 0.13);
}

TEST(ByteBudget, GivesAsMuchAsItsRateAndKeepsLittle) {
  ManualClock clock;
  ByteBudget budget(Bytes{1000});
  clock.advance(std::chrono::seconds(60));
  EXPECT_TRUE(budget.take(Bytes{50}, clock.now())) << "what a twentieth of a second left";
  EXPECT_FALSE(budget.take(Bytes{10}, clock.now()));
  clock.advance(std::chrono::milliseconds(10));
  EXPECT_TRUE(budget.take(Bytes{10}, clock.now()));
  EXPECT_FALSE(budget.take(Bytes{500}, clock.now()));
  clock.advance(std::chrono::milliseconds(500));
  EXPECT_TRUE(budget.take(Bytes{500}, clock.now())) << "a piece larger than what is kept is had in its time";
  budget.set(Bytes{});
  EXPECT_TRUE(budget.take(Bytes{1u << 30}, clock.now())) << "no bound";
}

TEST(ByteBudget, MayBePaidForAfterwards) {
  ManualClock clock;
  ByteBudget budget(Bytes{1000});
  EXPECT_TRUE(budget.is_paid(clock.now()));
  budget.spend(Bytes{550});
  clock.advance(std::chrono::milliseconds(400));
  EXPECT_FALSE(budget.is_paid(clock.now()));
  clock.advance(std::chrono::milliseconds(150));
  EXPECT_TRUE(budget.is_paid(clock.now()));
  budget.set(Bytes{});
  budget.spend(Bytes{1u << 30});
  EXPECT_TRUE(budget.is_paid(clock.now())) << "no bound";
}

TEST(SystemClock, NeverRunsBackwards) {
  const SystemClock clock;
  const MonoTime first = clock.now();
  EXPECT_GE(clock.now(), first);
}

}  // namespace
}  // namespace tidepool
