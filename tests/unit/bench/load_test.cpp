#include <gtest/gtest.h>
#include <lz4.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>
#include <set>
#include <thread>
#include <vector>

#include "bench/load/access_pattern.h"
#include "bench/load/page_content.h"
#include "bench/load/truth_table.h"
#include "bench/load/workload_memory.h"

namespace tidepool::load {
namespace {

using namespace literals;

struct alignas(kPageSize) Page {
  std::array<unsigned char, kPageSize> bytes{};
};

TEST(PageContent, RecognisesItsOwnPagesAndNoOthers) {
  const PageContent content(7);
  Page page;
  for (std::uint64_t version = 1; version < 200; ++version) {
    content.write(&page, 0x5000, version);
    EXPECT_TRUE(content.matches(&page, {.address = 0x5000, .version = version}, Thoroughness::kFull));
    EXPECT_TRUE(content.matches(&page, {.address = 0x5000, .version = version}, Thoroughness::kHeader));
    if (content.kind_of(0x5000, version) == PageKind::kZero) continue;
    EXPECT_FALSE(content.matches(&page, {.address = 0x5000, .version = version + 1}, Thoroughness::kHeader));
    EXPECT_FALSE(content.matches(&page, {.address = 0x6000, .version = version}, Thoroughness::kHeader));
    EXPECT_FALSE(content.matches(&page, {.address = 0x5000, .version = version, .zero = true}, Thoroughness::kFull));
    EXPECT_FALSE(PageContent(8).matches(&page, {.address = 0x5000, .version = version}, Thoroughness::kFull));
  }
}

// Goal: a single flipped bit anywhere is found by a full check.
TEST(PageContent, SeesEveryFlippedBitOfAPage) {
  const PageContent content(1);
  for (const PageKind kind : {PageKind::kZero, PageKind::kCompressible, PageKind::kRandom}) {
    std::uint64_t version = 1;
    while (content.kind_of(0x1000, version) != kind) ++version;
    Page page;
    content.write(&page, 0x1000, version);
    for (std::size_t byte = 0; byte < kPageSize; ++byte) {
      page.bytes[byte] ^= 0x10;
      ASSERT_FALSE(content.matches(&page, {.address = 0x1000, .version = version}, Thoroughness::kFull)) << byte;
      page.bytes[byte] ^= 0x10;
    }
  }
}

TEST(PageContent, SaysWhoseContentItFound) {
  const PageContent content(3);
  const Expectation expected{.address = 0x2000, .version = 9};
  Page page;
  const auto write_nonzero = [&](std::uint64_t address, std::uint64_t version) {
    while (content.kind_of(address, version) == PageKind::kZero) ++version;
    content.write(&page, address, version);
    return version;
  };
  while (content.kind_of(0x2000, 9) == PageKind::kZero) FAIL() << "choose another seed";
  content.write(&page, 0x2000, 9);
  EXPECT_FALSE(content.describe_mismatch(&page, expected).has_value());

  write_nonzero(0x8000, 1);
  EXPECT_NE(content.describe_mismatch(&page, expected)->find("holds the page of offset 0x8000"), std::string::npos);
  const std::uint64_t old = write_nonzero(0x2000, 4);
  EXPECT_NE(content.describe_mismatch(&page, expected)->find("holds its version " + std::to_string(old)),
            std::string::npos);
  page = {};
  EXPECT_NE(content.describe_mismatch(&page, expected)->find("reads as zeros"), std::string::npos);
  content.write(&page, 0x2000, 9);
  page.bytes[1234] ^= 1;
  EXPECT_NE(content.describe_mismatch(&page, expected)->find("from byte 1232 on"), std::string::npos);
}

// Goal: figures about compression mean something: 10% zero, 60% between 2:1 and 4:1 under LZ4, 30% incompressible.
TEST(PageContent, HasTheAnnouncedMixOfCompressibility) {
  const PageContent content(1);
  std::map<PageKind, int> kinds;
  constexpr int kPages = 20'000;
  Page page;
  std::vector<char> out(LZ4_compressBound(static_cast<int>(kPageSize)));
  for (int i = 0; i < kPages; ++i) {
    const auto address = static_cast<std::uint64_t>(i) * kPageSize;
    const PageKind kind = content.kind_of(address, 1);
    ++kinds[kind];
    content.write(&page, address, 1);
    const int size = LZ4_compress_default(reinterpret_cast<const char*>(&page), out.data(), static_cast<int>(kPageSize),
                                          static_cast<int>(out.size()));
    const double ratio = static_cast<double>(kPageSize) / size;
    if (kind == PageKind::kCompressible) {
      ASSERT_GE(ratio, 2.0);
      ASSERT_LE(ratio, 4.0);
    } else if (kind == PageKind::kRandom) {
      ASSERT_LT(ratio, 1.01);
    }
  }
  EXPECT_NEAR(kinds[PageKind::kZero], kPages * 0.10, kPages * 0.01);
  EXPECT_NEAR(kinds[PageKind::kCompressible], kPages * 0.60, kPages * 0.015);
  EXPECT_NEAR(kinds[PageKind::kRandom], kPages * 0.30, kPages * 0.015);
}

TEST(ZipfRanks, FollowTheLawForThetasAroundOne) {
  constexpr std::uint64_t kCount = 1000;
  constexpr int kDraws = 400'000;
  for (const double theta : {0.5, 0.99, 1.0, 1.3}) {
    const ZipfRanks ranks(kCount, theta);
    Random random(11);
    std::vector<int> seen(kCount);
    for (int i = 0; i < kDraws; ++i) {
      const std::uint64_t rank = ranks.next(random);
      ASSERT_LT(rank, kCount);
      ++seen[rank];
    }
    double total = 0;
    for (std::uint64_t i = 1; i <= kCount; ++i) total += std::pow(static_cast<double>(i), -theta);
    for (const std::uint64_t rank : {0, 1, 4, 20, 100}) {
      const double wanted = kDraws * std::pow(static_cast<double>(rank + 1), -theta) / total;
      EXPECT_NEAR(seen[rank], wanted, 6 * std::sqrt(wanted) + 1) << "theta " << theta << " rank " << rank;
    }
  }
}

std::vector<std::uint64_t> hits(const PatternSettings& settings, std::uint64_t pages, int accesses,
                                std::chrono::seconds at) {
  AccessPattern pattern(settings, PageCount{pages}, 5, 0, 1);
  std::vector<std::uint64_t> seen(pages);
  for (int i = 0; i < accesses; ++i) ++seen[pattern.next(at).page];
  return seen;
}

TEST(AccessPattern, ScattersHotPagesAcrossTheWholeMemory) {
  constexpr std::uint64_t kPages = 64 * kPagesPerHugePage;
  const auto regions_with_hot_pages = [](const std::vector<std::uint64_t>& seen) {
    std::set<std::uint64_t> regions;
    for (std::uint64_t page = 0; page < kPages; ++page) {
      if (seen[page] > 20) regions.insert(page / kPagesPerHugePage);
    }
    return regions.size();
  };
  EXPECT_LE(regions_with_hot_pages(hits({.kind = PatternKind::kZipf, .clustered = true}, kPages, 200'000, {})), 4u);
  EXPECT_GE(regions_with_hot_pages(hits({.kind = PatternKind::kZipf, .clustered = false}, kPages, 200'000, {})), 60u);
}

// Of all hits, those on pages from `first` to before `last`.
double share(const std::vector<std::uint64_t>& seen, std::size_t first, std::size_t last) {
  const auto sum = [&](std::size_t from, std::size_t to) {
    return static_cast<double>(std::accumulate(seen.data() + from, seen.data() + to, std::uint64_t{0}));
  };
  return sum(first, last) / sum(0, seen.size());
}

TEST(AccessPattern, MovesTheHotSetWithThePhase) {
  const PatternSettings settings{
      .kind = PatternKind::kPhaseShift, .hot_fraction = 0.1, .phase = std::chrono::seconds(10)};
  EXPECT_GT(share(hits(settings, 1000, 10'000, std::chrono::seconds(1)), 0, 100), 0.85);
  EXPECT_GT(share(hits(settings, 1000, 10'000, std::chrono::seconds(12)), 100, 200), 0.85);
  EXPECT_LT(share(hits(settings, 1000, 10'000, std::chrono::seconds(12)), 0, 100), 0.05);
}

TEST(AccessPattern, ScansEverythingPastAHotCore) {
  const auto seen = hits({.kind = PatternKind::kScan, .hot_fraction = 0.25}, 1000, 40'000, {});
  EXPECT_NEAR(share(seen, 0, 250), 0.925, 0.02);
  // Some 4,000 steps of the scan: four rounds.
  EXPECT_TRUE(
      std::all_of(seen.begin() + 250, seen.end(), [](std::uint64_t count) { return count >= 3 && count <= 5; }));
}

TEST(AccessPattern, SwellsAndEbbsWithTheDay) {
  const PatternSettings settings{
      .kind = PatternKind::kDiurnal, .low = 0.2, .high = 0.8, .phase = std::chrono::seconds(100)};
  const auto beyond = [&](std::chrono::seconds time, std::size_t first) {
    return share(hits(settings, 1000, 40'000, time), first, 1000);
  };
  EXPECT_LT(beyond(std::chrono::seconds(0), 200), 0.01);
  EXPECT_NEAR(beyond(std::chrono::seconds(50), 400), 0.5, 0.02);
  EXPECT_LT(beyond(std::chrono::seconds(50), 800), 0.01);
  EXPECT_LT(beyond(std::chrono::seconds(100), 200), 0.01);
}

TEST(AccessPattern, SequentialVisitsEveryPageOnceARound) {
  const auto seen = hits({.kind = PatternKind::kSequential}, 777, 777, {});
  EXPECT_TRUE(std::ranges::all_of(seen, [](std::uint64_t count) { return count == 1; }));
}

TEST(AccessPattern, RepeatsItselfWithTheSameSeedAndDiffersBetweenThreads) {
  const PatternSettings settings{.kind = PatternKind::kUniform};
  AccessPattern first(settings, 100000_pages, 5, 0, 2);
  AccessPattern again(settings, 100000_pages, 5, 0, 2);
  AccessPattern other(settings, 100000_pages, 5, 1, 2);
  int same_as_other = 0;
  for (int i = 0; i < 1000; ++i) {
    const Access access = first.next({});
    const Access repeated = again.next({});
    EXPECT_EQ(access.page, repeated.page);
    EXPECT_EQ(access.write, repeated.write);
    same_as_other += access.page == other.next({}).page ? 1 : 0;
  }
  EXPECT_LT(same_as_other, 10);
}

TEST(TruthTable, LetsOneWriterAtATimeChangeAPage) {
  auto table = TruthTable::create(4_pages);
  ASSERT_TRUE(table);
  EXPECT_TRUE(table->read(2).zero) << "memory that nobody wrote reads as zero";
  constexpr std::uint64_t kRounds = 20'000;
  {
    std::vector<std::jthread> writers;
    writers.reserve(4);
    for (int t = 0; t < 4; ++t) {
      writers.emplace_back([&table] {
        for (std::uint64_t i = 0; i < kRounds; ++i) {
          const TruthTable::State state = table->lock(2);
          table->unlock(2, {.version = state.version + 1, .zero = false});
        }
      });
    }
  }
  EXPECT_EQ(table->read(2), (TruthTable::State{.version = 4 * kRounds, .zero = false}));
}

TEST(TruthTable, TellsARaceFromAFinding) {
  auto table = TruthTable::create(1_pages);
  ASSERT_TRUE(table);
  const TruthTable::State seen = table->read(0);
  EXPECT_TRUE(table->unchanged_since(0, seen));
  const TruthTable::State held = table->lock(0);
  EXPECT_FALSE(table->unchanged_since(0, seen)) << "a writer has it";
  table->unlock(0, {.version = held.version + 1, .zero = false});
  EXPECT_FALSE(table->unchanged_since(0, seen));
}

TEST(WorkloadMemory, GivesEachKindBackAsZeros) {
  for (const MemoryKind kind : {MemoryKind::kPrivate, MemoryKind::kMemfd, MemoryKind::kSharedAnonymous}) {
    auto memory = WorkloadMemory::create({.kind = kind, .size = 8_MiB, .huge_pages = {}, .file = {}});
    ASSERT_TRUE(memory) << memory.error().message();
    EXPECT_EQ(memory->range().start % kHugePageSize, 0u);
    std::memset(memory->page(0), 0x5a, 8 << 20);
    ASSERT_TRUE(memory->discard(3, 2_pages));
    EXPECT_EQ(*memory->page(3), std::byte{0});
    EXPECT_EQ(*memory->page(4), std::byte{0});
    EXPECT_EQ(*memory->page(5), std::byte{0x5a});
    if (!memory->shared()) continue;
    ASSERT_TRUE(memory->unmap_entries(5, 1_pages));
    EXPECT_EQ(*memory->page(5), std::byte{0x5a});
  }
}

}  // namespace
}  // namespace tidepool::load
