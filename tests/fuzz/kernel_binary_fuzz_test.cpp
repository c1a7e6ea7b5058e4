// What the kernel hands out in binary: rings of perf records, pagemap and its regions, page flags, the idle bitmap.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "kmod-interfaces/page_flags.h"
#include "kmod-interfaces/page_idle_bitmap.h"
#include "kmod-interfaces/pagemap.h"
#include "kmod-interfaces/perf_events.h"
#include "telemetry/hotness/write_tracker.h"
#include "tests/fuzz/fuzz_driver.h"
#include "tests/unit/kmod-interfaces/kernel_tree.h"
#include "tests/unit/kmod-interfaces/perf_ring_recorded.h"

namespace tidepool::kernel {
namespace {

using fuzz::Corpus;
using fuzz::Mutator;

template <class T>
std::string bytes_of(const T& values) {
  return {reinterpret_cast<const char*>(std::data(values)), std::size(values) * sizeof(*std::data(values))};
}

// Records that say so much was lost, and that the kernel paused.
std::string lost_and_throttled() {
  const std::uint64_t words[] = {0x0018000000000002, 1, 4096, 0x0020000000000005, 1, 2, 3};
  return bytes_of(words);
}

TEST(FuzzPerfRing, StaysWithinTheRing) {
  const std::string recorded = bytes_of(recorded::kRing);
  const Corpus corpus{.inputs = {recorded, lost_and_throttled() + recorded.substr(0, 64), recorded + recorded},
                      .tokens = {std::string("\x09\0\0\0\2\0\x20\0", 8), std::string("\2\0\0\0\0\0\x18\0", 8),
                                 std::string("\x09\0\0\0\2\0\0\0", 8), lost_and_throttled()},
                      .longest = 4096};
  std::uint64_t lost = 0;
  std::uint64_t malformed = 0;
  std::uint64_t samples = 0;
  fuzz::fuzz(corpus, 30000, [&](std::string_view input, Mutator& mutator) {
    const std::size_t size = std::max<std::size_t>(8, std::bit_floor(input.size()));
    std::vector<std::byte> ring(size);
    if (!input.empty()) std::memcpy(ring.data(), input.data(), std::min(size, input.size()));
    // Mostly from where a record begins, at times near the end of numbers.
    std::uint64_t tail = mutator.number(8) == 0 ? mutator.number(size) : 0;
    if (mutator.number(8) == 0) tail = ~std::uint64_t{0} - mutator.number(2 * size);
    const std::uint64_t head = tail + (mutator.number(16) == 0 ? mutator.number(~0ull) : mutator.number(size + 1));
    const PerfLayout layout{.weight = mutator.number(4) == 0, .data_source = mutator.number(4) == 0};
    PerfRecords records;
    read_perf_records(ring, tail, head, layout, records);
    ASSERT_LE(records.samples.size(), size / layout.sample_size());
    ASSERT_LE(records.malformed, size / 8 + 1);
    lost += records.lost > 0 ? 1 : 0;
    malformed += records.malformed;
    samples += records.samples.size();
  });
  EXPECT_GT(samples, 0u);
  EXPECT_GT(lost, 0u);
  EXPECT_GT(malformed, 0u);
}

TEST(FuzzPagemapScan, RegionsCountOnceWithinTheirRange) {
  const uapi::page_region regions[] = {{0x200000, 0x201000, 2}, {0x203000, 0x210000, 2}, {0x3ff000, 0x400000, 2}};
  const Corpus corpus{.inputs = {bytes_of(regions), ""}, .tokens = {}, .longest = 4096};
  fuzz::fuzz(corpus, 20000, [&](std::string_view input, Mutator& mutator) {
    std::vector<uapi::page_region> found(input.size() / sizeof(uapi::page_region));
    if (!found.empty()) std::memcpy(found.data(), input.data(), found.size() * sizeof(uapi::page_region));
    const AddressRange range{0x200000, 0x200000 + (1 + mutator.number(kPagesPerHugePage)) * kPageSize};
    std::uint64_t malformed = 0;
    const auto pages = telemetry::pages_in(range, found, malformed);
    ASSERT_LE(malformed, found.size());
    ASSERT_LE(pages.count() * kPageSize, range.size());
  });
}

// Files of any length and content, also ones that end within a word.
TEST(FuzzPageFiles, AreReadAsFarAsTheyGo) {
  constexpr pid_t kPid = 4711;
  KernelTree tree;
  tree.add_process(kPid, "target", "/usr/bin/target");
  const std::string pagemap_file = "proc/" + std::to_string(kPid) + "/pagemap";
  const std::uint64_t words[] = {0x8000000000001000, 0x8080000000001001, 0x4000000000000002, 0, ~0ull};
  const Corpus corpus{.inputs = {bytes_of(words), std::string(512, '\xff'), ""}, .tokens = {}, .longest = 2048};
  fuzz::fuzz(corpus, 150, [&](std::string_view input, Mutator& mutator) {
    tree.write(pagemap_file, input);
    tree.write("proc/kpageflags", input);
    tree.write("sys/kernel/mm/page_idle/bitmap", input);
    const std::uint64_t whole = input.size() / 8;

    const auto pagemap = Pagemap::open(tree.roots(), Process::open(tree.roots(), kPid)->id());
    ASSERT_TRUE(pagemap);
    std::vector<PagemapEntry> entries(1 + mutator.number(64));
    const std::uint64_t first = mutator.number(64);
    const auto got = pagemap->entries(first * kPageSize, entries);
    ASSERT_TRUE(got);
    ASSERT_EQ(*got, std::min<std::uint64_t>(entries.size(), whole > first ? whole - first : 0));

    const auto flags = PageFlagsTable::open(tree.roots());
    ASSERT_TRUE(flags);
    std::vector<PageFlags> some(1 + mutator.number(64));
    ASSERT_LE(flags->read(first, some).value_or(0), some.size());

    const auto bitmap = PageIdleBitmap::open(tree.roots());
    ASSERT_TRUE(bitmap);
    std::vector<std::uint64_t> frames;
    for (std::uint64_t i = 1 + mutator.number(100); i > 0; --i)
      frames.push_back(mutator.number(mutator.number(20) == 0 ? 1ull << 40 : 64 * (whole + 2)));
    std::ranges::sort(frames);
    std::vector<std::uint8_t> idle(frames.size(), 77);
    if (bitmap->read_frames(frames, idle)) {
      for (std::size_t i = 0; i < frames.size(); ++i) {
        const bool there = frames[i] / 64 < whole;
        ASSERT_EQ(idle[i] == PageIdleBitmap::kBeyondMemory, !there) << frames[i];
        if (there) {
          ASSERT_EQ(idle[i], (static_cast<unsigned char>(input[frames[i] / 8]) >> (frames[i] % 8)) & 1);
        }
      }
    }
  });
}

}  // namespace
}  // namespace tidepool::kernel
