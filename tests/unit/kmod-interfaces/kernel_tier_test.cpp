// Where the kernel would put pages, over trees of files.
#include "kmod-interfaces/kernel_tier.h"

#include <gtest/gtest.h>

#include "kmod-interfaces/kernel_features.h"
#include "tests/unit/kmod-interfaces/kernel_tree.h"

namespace tidepool::kernel {
namespace {

using namespace literals;

constexpr const char* kHead = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";

class KernelTierTest : public ::testing::Test {
 protected:
  void swaps(const std::string& lines) { tree_.write("proc/swaps", kHead + lines); }
  void zram(unsigned number, const std::string& mm_stat) {
    tree_.write("sys/block/zram" + std::to_string(number) + "/mm_stat", mm_stat);
  }
  KernelTier read() const { return read_kernel_tier(tree_.roots()); }

  KernelTree tree_;
};

TEST_F(KernelTierTest, WithoutSwapThereIsNone) {
  EXPECT_EQ(read().kind, SwapKind::kNone);
  swaps("");
  EXPECT_EQ(read().kind, SwapKind::kNone);
  EXPECT_EQ(read().ratio(), 0);
}

TEST_F(KernelTierTest, ZramSaysWhatItHoldsAndTakes) {
  swaps("/dev/zram0 partition\t1048576\t262144\t100\n");
  zram(0, "268435456 60000000 67108864        0 67108864    0    0    0    0\n");
  const KernelTier tier = read();
  EXPECT_EQ(tier.kind, SwapKind::kZram);
  EXPECT_EQ(tier.devices, std::vector<std::string>{"/dev/zram0"});
  EXPECT_EQ(tier.size, 1_GiB);
  EXPECT_EQ(tier.free, 768_MiB);
  EXPECT_EQ(tier.stored, 256_MiB);
  EXPECT_EQ(tier.dram, 64_MiB);
  EXPECT_DOUBLE_EQ(tier.ratio(), 0.25);
}

TEST_F(KernelTierTest, ZramsMemoryLimitBoundsWhatStillFits) {
  swaps("/dev/zram0 partition\t1048576\t262144\t100\n");
  zram(0, "268435456 0 67108864 100663296 67108864 0 0 0 0");
  EXPECT_EQ(read().free, 128_MiB) << "32 MiB left at four to one";
  zram(0, "268435456 0 67108864 1000 67108864 0 0 0 0");
  EXPECT_EQ(read().free, Bytes{}) << "beyond its limit";
}

TEST_F(KernelTierTest, NothingIsSaidOfCompressionBeforeThereIsAny) {
  swaps("/dev/zram0 partition\t1048576\t0\t100\n");
  zram(0, "4096 74 20480 0 20480 0 0 0 0\n");
  EXPECT_EQ(read().ratio(), 1);
}

TEST_F(KernelTierTest, TheHighestPriorityWithRoomDecides) {
  zram(0, "268435456 0 67108864 0 0 0 0 0 0\n");
  swaps("/swapfile file\t4194304\t0\t-2\n/dev/zram0 partition\t1048576\t1000\t100\n");
  EXPECT_EQ(read().kind, SwapKind::kZram);
  EXPECT_EQ(read().size, 1_GiB) << "the file is no part of it";
  swaps("/swapfile file\t4194304\t0\t-2\n/dev/zram0 partition\t1048576\t1048576\t100\n");
  EXPECT_EQ(read().kind, SwapKind::kDisk) << "zram is full: the file is next";
  EXPECT_DOUBLE_EQ(read().ratio(), 0.25) << "of what is stored, wherever";
  swaps("/swapfile file\t4194304\t0\t100\n/dev/zram0 partition\t1048576\t0\t100\n");
  EXPECT_EQ(read().kind, SwapKind::kDisk) << "filled in turn";
}

TEST_F(KernelTierTest, TwoZramDevicesAreOneTier) {
  zram(0, "268435456 0 67108864 0 0 0 0 0 0\n");
  zram(1, "268435456 0 67108864 0 0 0 0 0 0\n");
  swaps("/dev/zram0 partition\t1048576\t1048576\t100\n/dev/zram1 partition\t1048576\t0\t50\n");
  const KernelTier tier = read();
  EXPECT_EQ(tier.size, 2_GiB);
  EXPECT_EQ(tier.free, 1_GiB);
  EXPECT_EQ(tier.dram, 128_MiB);
}

TEST_F(KernelTierTest, ZswapIsCountedByTheHost) {
  tree_.write("sys/module/zswap/parameters/enabled", "Y\n");
  tree_.write("proc/meminfo", "MemTotal: 1024 kB\nZswap: 1024 kB\nZswapped: 4096 kB\n");
  swaps("/dev/vda2 partition\t1048576\t8192\t-2\n");
  const KernelTier tier = read();
  EXPECT_EQ(tier.kind, SwapKind::kZswap);
  EXPECT_EQ(tier.stored, 4_MiB);
  EXPECT_EQ(tier.dram, 1_MiB);
  tree_.write("sys/module/zswap/parameters/enabled", "N\n");
  EXPECT_EQ(read().kind, SwapKind::kDisk);
}

TEST_F(KernelTierTest, BelievesNoNonsense) {
  zram(0, "268435456 0 67108864 0 0 0 0 0 0\n");
  for (const char* line : {"/dev/zram0/../sda partition\t8\t0\t1\n", "/dev/zramx partition\t8\t0\t1\n",
                           "/dev/zram7 partition\t8\t0\t1\n", "/dev/zram partition\t8\t0\t1\n"}) {
    swaps(line);
    EXPECT_EQ(read().kind, SwapKind::kDisk) << line;
  }
  swaps("/dev/zram0 partition\t8\t99999999999999999999\tx\n/dev/zram0\n\n \t\n");
  EXPECT_EQ(read().free, 8_KiB);
  swaps("/dev/zram0 partition\t8\t4000000\t1\n");
  EXPECT_EQ(read().free, Bytes{}) << "more used than there is";
  for (const char* text :
       {"", "1", "1 2 3", "-1 0 0 0", "a b c d", "99999999999999999999 0 0 0", "4503599627370497 0 0 0"})
    EXPECT_FALSE(parse_zram_use(text)) << text;
  EXPECT_TRUE(parse_zram_use("1 2 3 4"));
}

}  // namespace
}  // namespace tidepool::kernel
