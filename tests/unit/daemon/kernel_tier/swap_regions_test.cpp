// The account of where a process's pages are.
#include "daemon/kernel_tier/swap_regions.h"

#include <gtest/gtest.h>

#include <random>

#include "daemon/kernel_tier/workload.h"

namespace tidepool::daemon {
namespace {

using namespace literals;
using policy::kAllUnits;
using policy::kRegionPages;

constexpr std::uint64_t kRegion = kRegionPages * kPageSize;

AddressRange pages(std::uint64_t first, std::uint64_t count) {
  return {first * kPageSize, (first + count) * kPageSize};
}

using Pieces = std::vector<SwapPiece>;
SwapPiece piece(std::uint64_t address_page, std::uint64_t count, std::uint64_t first) {
  return {pages(address_page, count), PageIndex{first}};
}

RegionLook look(std::initializer_list<std::pair<unsigned, unsigned>> present,
                std::initializer_list<std::pair<unsigned, unsigned>> swapped) {
  RegionLook found;
  for (const auto& [from, to] : present)
    for (unsigned page = from; page < to; ++page) found.present.set(page);
  for (const auto& [from, to] : swapped)
    for (unsigned page = from; page < to; ++page) found.swapped.set(page);
  return found;
}

TEST(SwapRegions, AreTwoMebibytesOfAddressSpaceWhateverTheMappingsAre) {
  SwapRegions regions;
  // Two mappings in one region, one that spans two regions, one whole region elsewhere.
  EXPECT_TRUE(regions.set_mappings({pages(512, 64), pages(600, 16), pages(1000, 100), pages(4096, 512)}));
  EXPECT_FALSE(regions.set_mappings({pages(512, 64), pages(600, 16), pages(1000, 100), pages(4096, 512)}));
  ASSERT_EQ(regions.count(), 3u);
  EXPECT_EQ(regions.mapped(), to_bytes(PageCount{64 + 16 + 100 + 512}));
  EXPECT_EQ(regions.parts(0, 2), (Pieces{piece(512, 64, 0), piece(600, 16, 88), piece(1000, 100, 488)}));
  EXPECT_EQ(regions.parts(2, 1), (Pieces{piece(4096, 512, 1024)}));
  EXPECT_EQ(regions.unit_parts(0, policy::UnitMask{0b11}), (Pieces{piece(512, 32, 0)}));
  EXPECT_EQ(regions.unit_parts(0, kAllUnits).size(), 3u) << "the rest of the region belongs to nobody";
  EXPECT_TRUE(regions.unit_parts(0, policy::UnitMask{1u << 4}).empty()) << "pages 64 to 80 are not mapped";
}

TEST(SwapRegions, KeepTheirNumbersWhenMemoryComesAndGoes) {
  SwapRegions regions;
  regions.set_mappings({pages(4096, 512)});
  regions.take(0, look({{0, 512}}, {}));
  EXPECT_TRUE(regions.set_mappings({pages(512, 512), pages(4096, 512), pages(8192, 1024)}));
  ASSERT_EQ(regions.count(), 4u);
  EXPECT_EQ(regions.parts(0, 1), (Pieces{piece(4096, 512, 0)}));
  EXPECT_EQ(regions.parts(1, 1), (Pieces{piece(512, 512, 512)}));
  EXPECT_EQ(regions.resident().value, 512u);
  EXPECT_TRUE(regions.set_mappings({pages(8192, 1024)}));
  EXPECT_EQ(regions.count(), 4u);
  EXPECT_TRUE(regions.unit_parts(0, kAllUnits).empty());
  regions.take(0, {});
  EXPECT_EQ(regions.resident().value, 0u);
  const auto segments = regions.segments(7);
  ASSERT_EQ(segments.size(), 1u);
  EXPECT_EQ(segments[0].object, 7u);
  EXPECT_EQ(segments[0].first.value, 2u * kRegionPages);
  EXPECT_EQ(segments[0].addresses, pages(8192, 1024));
}

TEST(SwapRegions, SegmentsNameEachPageByItsRegion) {
  SwapRegions regions;
  regions.set_mappings({pages(4096, 512)});
  regions.set_mappings({pages(4000, 700)});  // regions before and behind it are numbered later
  const auto segments = regions.segments(0);
  ASSERT_EQ(segments.size(), 3u);
  EXPECT_EQ(segments[0].first.value, 1 * kRegionPages + 4000 % kRegionPages);
  EXPECT_EQ(segments[1].first.value, 0u);
  EXPECT_EQ(segments[2].first.value, 2u * kRegionPages);
  std::uint64_t sum = 0;
  for (const auto& segment : segments) sum += segment.addresses.size();
  EXPECT_EQ(sum, 700 * kPageSize);
}

// As the pager numbers memory: two mappings of one 2 MiB may be in different regions, and a region in two places.
TEST(SwapRegions, TakeNumbersThatSomebodyElseGave) {
  SwapRegions regions;
  EXPECT_TRUE(regions.set_pieces({piece(4096, 100, 512), piece(8000, 300, 0)}, PageCount{700}));
  EXPECT_FALSE(regions.set_pieces({piece(8000, 300, 0), piece(4096, 100, 512)}, PageCount{700}));
  ASSERT_EQ(regions.count(), 2u);
  EXPECT_EQ(regions.mapped(), to_bytes(PageCount{400}));
  EXPECT_EQ(regions.parts(0, 2), (Pieces{piece(8000, 300, 0), piece(4096, 100, 512)}));
  EXPECT_EQ(regions.unit_parts(0, policy::UnitMask{1u << 18}), (Pieces{piece(8288, 12, 288)}));
  // A part moved away from the rest; memory that is new.
  EXPECT_TRUE(regions.set_pieces({piece(8000, 10, 0), piece(100, 290, 10), piece(9000, 512, 1024)}, PageCount{1536}));
  ASSERT_EQ(regions.count(), 3u);
  EXPECT_EQ(regions.parts(0, 1), (Pieces{piece(8000, 10, 0), piece(100, 290, 10)}));
  EXPECT_TRUE(regions.parts(1, 1).empty());
  // Pages beyond those that there are belong to nobody.
  regions.set_pieces({piece(8000, 10, 0), piece(100, 600, 1000)}, PageCount{1536});
  EXPECT_EQ(regions.parts(0, 3), (Pieces{piece(8000, 10, 0)}));
  // No page is in two places.
  regions.set_pieces({piece(8000, 10, 0), piece(9000, 10, 9), piece(7000, 5, 10)}, PageCount{1536});
  EXPECT_EQ(regions.parts(0, 3), (Pieces{piece(8000, 10, 0), piece(7000, 5, 10)}));
}

TEST(SwapRegions, CountAPageThatCameBackAsUsedUnlessItWasBroughtHome) {
  SwapRegions regions;
  regions.set_mappings({pages(512, 512)});
  EXPECT_EQ(regions.take(0, look({{0, 512}}, {})), 0u);
  EXPECT_EQ(regions.take(0, look({{0, 256}}, {{256, 512}})), 0u);
  EXPECT_EQ(regions.far().value, 256u);
  EXPECT_EQ(regions.take(0, look({{0, 266}}, {{266, 512}})), 10u);
  EXPECT_EQ(regions.at(0).refaults, 10u);
  // Freed while it was swapped: gone, and not used.
  EXPECT_EQ(regions.take(0, look({{0, 266}}, {{300, 512}})), 0u);
  EXPECT_EQ(regions.far().value, 212u);
  regions.bring_home(0, look({}, {{400, 512}}).swapped);
  EXPECT_EQ(regions.far().value, 100u);
  EXPECT_EQ(regions.take(0, look({{0, 266}, {400, 512}}, {{301, 400}})), 0u);
  EXPECT_EQ(regions.take_refaults(0), 10u);
  EXPECT_EQ(regions.take_refaults(0), 0u);
  EXPECT_EQ(regions.resident().value, 266u + 112u);
  regions.clear();
  EXPECT_EQ(regions.resident().value + regions.far().value + regions.mapped().value, 0u);
}

TEST(SwapRegions, KeepTheirSumsWhateverLooksFind) {
  std::minstd_rand random(20261127);
  SwapRegions regions;
  regions.set_mappings({pages(0, 4 * 512)});
  for (int step = 0; step < 5000; ++step) {
    RegionLook found;
    for (unsigned page = 0; page < kRegionPages; ++page) {
      const std::uint64_t what = random() % 3;
      found.present[page] = what == 0;
      found.swapped[page] = what == 1;
    }
    const auto region = static_cast<std::uint32_t>(random() % 4);
    if (random() % 4 == 0) regions.bring_home(region, found.swapped);
    if (random() % 64 == 0) regions.take_refaults(region);
    regions.take(region, found);
    std::uint64_t resident = 0;
    std::uint64_t far = 0;
    for (std::uint32_t r = 0; r < 4; ++r) resident += regions.at(r).resident, far += regions.at(r).far();
    ASSERT_EQ(regions.resident().value, resident) << step;
    ASSERT_EQ(regions.far().value, far) << step;
    ASSERT_LE(regions.at(region).resident + regions.at(region).far(), kRegionPages);
  }
}

TEST(SwapRegions, HaveABound) {
  SwapRegions regions;
  const std::uint64_t most = SwapRegions::kMostRegions;
  regions.set_mappings({pages(0, (most + 5) * kRegionPages)});
  EXPECT_EQ(regions.count(), most);
  EXPECT_TRUE(regions.left_out());
  EXPECT_EQ(regions.mapped().value, most * kRegion);
  EXPECT_EQ(regions.segments(0).size(), 1u);
}

TEST(SwappableMappings, ArePrivateAnonymousAndWritable) {
  const auto maps = kernel::parse_maps(
      "00400000-00500000 r-xp 00000000 fe:00 247134 /usr/bin/x\n"
      "00600000-00700000 rw-p 00000000 fe:00 247134 /usr/bin/x\n"
      "01000000-01100000 rw-p 00000000 00:00 0 [heap]\n"
      "7f0000000000-7f0000100000 rw-p 00000000 00:00 0\n"
      "7f0000100000-7f0000200000 rw-p 00000000 00:00 0 [anon:jvm]\n"
      "7f0000300000-7f0000400000 ---p 00000000 00:00 0\n"
      "7f0000400000-7f0000500000 rw-s 00000000 00:01 1025 /memfd:x (deleted)\n"
      "7f0000600000-7f0000601000 rw-p 00000000 00:00 0\n"
      "7ffc00000000-7ffc00800000 rw-p 00000000 00:00 0 [stack]\n"
      "7ffd00000000-7ffd00800000 rw-p 00000000 00:00 0 [vvar]\n");
  EXPECT_EQ(swappable_mappings(maps),
            (std::vector<AddressRange>{{0x1000000, 0x1100000}, {0x7f0000000000, 0x7f0000200000}}));
  // Nothing that a kernel would say.
  EXPECT_TRUE(swappable_mappings(kernel::parse_maps("1-100001 rw-p 00000000 00:00 0\n")).empty());
}

}  // namespace
}  // namespace tidepool::daemon
