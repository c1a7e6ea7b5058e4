// What is read of a kernel's settings, over trees of files.
#include <gtest/gtest.h>

#include "kmod-interfaces/kernel_features.h"
#include "tests/unit/kmod-interfaces/kernel_tree.h"

namespace tidepool::kernel {
namespace {

TEST(KernelSettings, OfAnEmptyTreeSayThatNothingIsThere) {
  KernelTree tree;
  const KernelFeatures features = read_kernel_settings(tree.roots());
  EXPECT_EQ(features.release, "");
  EXPECT_FALSE(features.at_least(1, 0));
  EXPECT_FALSE(features.idle_page_bitmap || features.damon.present || features.pressure || features.kvm ||
               features.zram);
  EXPECT_TRUE(features.swap.empty() && features.tiers.nodes.empty() && features.security_modules.empty());
  EXPECT_EQ(features.zswap, std::nullopt);
  EXPECT_EQ(features.mglru, std::nullopt);
  EXPECT_EQ(features.cgroups.memory, CgroupVersion::none);
  EXPECT_FALSE(features.userfaultfd.usable());
}

TEST(KernelSettings, ReleasesAreCompared) {
  KernelTree tree;
  const auto release = [&](const char* text) {
    tree.write("proc/sys/kernel/osrelease", text);
    return read_kernel_settings(tree.roots());
  };
  EXPECT_TRUE(release("6.18.44-fc\n").at_least(6, 7));
  EXPECT_FALSE(release("6.1.0-21-cloud-amd64\n").at_least(6, 7));
  EXPECT_TRUE(release("7.0\n").at_least(6, 18));
  EXPECT_FALSE(release("99999999999999.1\n").at_least(6, 7));
  EXPECT_FALSE(release("unknown\n").at_least(6, 7));
}

TEST(KernelSettings, SeeThatDamonBelongsToSomebodyElse) {
  KernelTree tree;
  const std::string admin = "sys/kernel/mm/damon/admin/kdamonds/";
  tree.write(admin + "nr_kdamonds", "0\n");
  EXPECT_TRUE(read_kernel_settings(tree.roots()).damon.present);
  EXPECT_EQ(read_kernel_settings(tree.roots()).damon.kdamonds, 0u);
  tree.write(admin + "nr_kdamonds", "1\n");
  tree.write(admin + "0/state", "on\n");
  tree.write(admin + "0/contexts/0/avail_operations", "vaddr\nfvaddr\npaddr\n");
  const DamonFeatures damon = read_kernel_settings(tree.roots()).damon;
  EXPECT_EQ(damon.kdamonds, 1u);
  EXPECT_TRUE(damon.running);
  EXPECT_EQ(damon.virtual_addresses, true);
  tree.write(admin + "0/contexts/0/avail_operations", "paddr\n");
  EXPECT_EQ(read_kernel_settings(tree.roots()).damon.virtual_addresses, false);
}

TEST(KernelSettings, FindFarMemory) {
  KernelTree tree;
  const std::string nodes = "sys/devices/system/node/";
  tree.write(nodes + "online", "0-2\n");
  tree.write(nodes + "has_cpu", "0-1\n");
  tree.write(nodes + "has_memory", "0-2\n");
  tree.make_directory("sys/bus/dax/devices/dax0.0");
  tree.make_directory("sys/bus/cxl/devices/mem0");
  tree.make_directory("sys/bus/cxl/devices/root0");
  tree.write("sys/kernel/mm/numa/demotion_enabled", "true\n");
  const MemoryTiers tiers = read_kernel_settings(tree.roots()).tiers;
  EXPECT_EQ(tiers.nodes, (std::vector<unsigned>{0, 1, 2}));
  EXPECT_EQ(tiers.nodes_without_cpus, std::vector<unsigned>{2});
  EXPECT_EQ(tiers.dax_devices, std::vector<std::string>{"dax0.0"});
  EXPECT_EQ(tiers.cxl_memories, std::vector<std::string>{"mem0"});
  EXPECT_TRUE(tiers.demotion_enabled);
}

TEST(KernelSettings, FindSwapAndWhatCompressesIt) {
  KernelTree tree;
  tree.write("proc/swaps",
             "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n/dev/zram0  partition\t4096\t0\t100\n/swap\\040file "
             "file\t8\t0\t-2\n");
  tree.write("sys/module/zswap/parameters/enabled", "N\n");
  tree.make_directory("sys/block/zram0");
  const KernelFeatures features = read_kernel_settings(tree.roots());
  ASSERT_EQ(features.swap.size(), 2u);
  EXPECT_TRUE(features.swap[0].is_zram);
  EXPECT_EQ(features.swap[0].size, Bytes{4096u << 10});
  EXPECT_FALSE(features.swap[1].is_zram);
  EXPECT_EQ(features.zswap, false);
  EXPECT_TRUE(features.zram);
}

TEST(KernelSettings, ReadLimitsSwitchesAndOwnRights) {
  KernelTree tree;
  tree.write("proc/self/status", "Uid:\t0\t1000\t0\t0\nCapEff:\t0000000000080000\n");
  tree.write("proc/self/limits",
             "Limit                     Soft Limit           Hard Limit           Units     \n"
             "Max open files            1024                 524288               files     \n"
             "Max locked memory         unlimited            unlimited            bytes     \n");
  tree.write("proc/sys/kernel/perf_event_paranoid", "-1\n");
  tree.write("proc/sys/vm/max_map_count", "65530\n");
  tree.write("proc/sys/kernel/io_uring_disabled", "2\n");
  tree.write("sys/kernel/mm/lru_gen/enabled", "0x0007\n");
  tree.write("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
  tree.write("sys/kernel/mm/transparent_hugepage/shmem_enabled", "always within_size advise [never] deny force\n");
  tree.write("sys/kernel/security/lsm", "lockdown,capability,apparmor");
  tree.write("sys/bus/event_source/devices/ibs_op/type", "11\n");
  const KernelFeatures features = read_kernel_settings(tree.roots());
  EXPECT_TRUE(features.own.has(19));
  EXPECT_FALSE(features.own.has(21));
  EXPECT_EQ(features.own.effective_uid, 1000u);
  EXPECT_EQ(features.own.open_files, 1024u);
  EXPECT_EQ(features.own.memlock, std::nullopt);
  EXPECT_EQ(features.perf_paranoid, -1);
  EXPECT_EQ(features.max_map_count, 65530u);
  EXPECT_EQ(features.io_uring_disabled, 2u);
  EXPECT_EQ(features.mglru, true);
  EXPECT_EQ(features.huge_pages.anonymous, "madvise");
  EXPECT_EQ(features.huge_pages.shmem, "never");
  EXPECT_EQ(features.security_modules, (std::vector<std::string>{"lockdown", "capability", "apparmor"}));
  EXPECT_TRUE(features.sampling.amd_ibs);
  EXPECT_FALSE(features.sampling.intel_pebs);
}

TEST(KernelSettings, KnowWhichControlGroupsAccountMemory) {
  KernelTree tree;
  tree.write("cgroup/unified/cgroup.controllers", "hugetlb\n");
  tree.write("cgroup/memory/memory.usage_in_bytes", "1\n");
  EXPECT_EQ(read_kernel_settings(tree.roots()).cgroups.memory, CgroupVersion::v1);
  EXPECT_TRUE(read_kernel_settings(tree.roots()).cgroups.v2_mounted);
  tree.write("cgroup/unified/cgroup.controllers", "hugetlb memory\n");
  EXPECT_EQ(read_kernel_settings(tree.roots()).cgroups.memory, CgroupVersion::v2);
}

TEST(UserfaultfdFeatures, NamesEveryBitTheNewestToo) {
  UserfaultfdFeatures features;
  features.features = 1u | (1u << 15) | (1ull << 40);
  EXPECT_EQ(features.names(), (std::vector<std::string>{"WP", "WP_ASYNC", "bit40"}));
}

}  // namespace
}  // namespace tidepool::kernel
