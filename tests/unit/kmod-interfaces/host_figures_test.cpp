// The host's memory figures, pressure and control groups, over recorded and hostile text.
#include <gtest/gtest.h>

#include <random>

#include "kmod-interfaces/memcg.h"
#include "kmod-interfaces/meminfo.h"
#include "kmod-interfaces/psi.h"
#include "tests/unit/kmod-interfaces/kernel_tree.h"

namespace tidepool::kernel {
namespace {

constexpr std::string_view kMemInfo =
    "MemTotal:       24684084 kB\nMemFree:        24363364 kB\nMemAvailable:   24351580 kB\nBuffers:            2588 "
    "kB\n"
    "Cached:            70516 kB\nShmem:              9448 kB\nMlocked:           16552 kB\nSwapTotal:          4096 "
    "kB\n"
    "SwapFree:           1024 kB\nZswap:                8 kB\nHugePages_Total:       7\nHugePages_Free:        3\n"
    "Hugepagesize:       2048 kB\nDirectMap4k:       53096 kB\n";
constexpr std::string_view kPressure =
    "some avg10=12.50 avg60=3.00 avg300=0.00 total=123456\nfull avg10=1.25 avg60=0.00 avg300=0.00 total=65\n";

TEST(MemInfo, ReadsTheFiguresThatDecide) {
  const MemInfo info = parse_meminfo(kMemInfo);
  EXPECT_EQ(info.total, Bytes{24684084ull << 10});
  EXPECT_EQ(info.available, Bytes{24351580ull << 10});
  EXPECT_EQ(info.shmem, Bytes{9448u << 10});
  EXPECT_EQ(info.locked, Bytes{16552u << 10});
  EXPECT_EQ(info.swap_total, Bytes{4096u << 10});
  EXPECT_EQ(info.swap_free, Bytes{1024u << 10});
  EXPECT_EQ(info.zswap, Bytes{8u << 10});
  EXPECT_EQ(info.huge_pages_total, 7u);
  EXPECT_EQ(info.huge_pages_free, 3u);
  EXPECT_EQ(info.huge_page_size, Bytes{2048u << 10});
}

TEST(MemInfo, WithoutATotalIsAnError) {
  KernelTree tree;
  EXPECT_EQ(read_meminfo(tree.roots()).error().code, std::errc::no_such_file_or_directory);
  tree.write("proc/meminfo", "MemFree: 12 kB\n");
  EXPECT_EQ(read_meminfo(tree.roots()).error().code, std::errc::bad_message);
  tree.write("proc/meminfo", kMemInfo);
  EXPECT_EQ(read_meminfo(tree.roots())->cached, Bytes{70516u << 10});
}

TEST(MemInfo, ValuesThatDoNotFitAreZero) {
  EXPECT_EQ(parse_meminfo("MemTotal: 99999999999999999999 kB\nMemFree: -3 kB\n").total, Bytes{});
}

TEST(Pressure, ReadsSharesAndTotals) {
  const auto pressure = parse_pressure(kPressure);
  ASSERT_TRUE(pressure);
  EXPECT_DOUBLE_EQ(pressure->some.average_10s, 0.125);
  EXPECT_DOUBLE_EQ(pressure->some.average_60s, 0.03);
  EXPECT_EQ(pressure->some.total, std::chrono::microseconds(123456));
  EXPECT_DOUBLE_EQ(pressure->full.average_10s, 0.0125);
  EXPECT_EQ(pressure->full.total, std::chrono::microseconds(65));
}

TEST(Pressure, RefusesWhatMakesNoSense) {
  for (const char* bad :
       {"", "some", "some avg10=x avg60=0 avg300=0 total=0", "some avg10=101.00 avg60=0 avg300=0 total=0",
        "some avg10=nan avg60=0 avg300=0 total=0", "some avg10=0 avg60=0 avg300=0",
        "some avg10=0 avg60=0 avg300=0 total=18446744073709551615", "full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"})
    EXPECT_FALSE(parse_pressure(bad)) << bad;
}

TEST(Pressure, IsReadForTheHostAndForAGroup) {
  KernelTree tree;
  EXPECT_EQ(read_host_memory_pressure(tree.roots()).error().code, std::errc::no_such_file_or_directory);
  tree.write("proc/pressure/memory", kPressure);
  tree.write("cgroup/web/memory.pressure", "some");
  EXPECT_TRUE(read_host_memory_pressure(tree.roots()));
  EXPECT_EQ(read_cgroup_memory_pressure(tree.path_of("cgroup/web")).error().code, std::errc::bad_message);
}

class MemoryGroupTest : public ::testing::Test {
 protected:
  Result<MemoryGroup> group_of(std::string_view cgroup_file) {
    tree_.add_process(71, "web", "/bin/web");
    tree_.write("proc/71/cgroup", cgroup_file);
    return memory_group_of(tree_.roots(), *Process::open(tree_.roots(), 71));
  }
  KernelTree tree_;
};

TEST_F(MemoryGroupTest, VersionOneWinsWhereItHasTheController) {
  tree_.write("cgroup/unified/cgroup.controllers", "");
  tree_.write("cgroup/memory/vms/web/memory.usage_in_bytes", "1000\n");
  tree_.write("cgroup/memory/vms/web/memory.limit_in_bytes", "9223372036854771712\n");
  tree_.write("cgroup/memory/vms/web/memory.stat", "cache 5\nrss 7\nshmem 3\nswap 2\n");
  const auto group = group_of("4:cpu,memory:/vms/web\n0::/\n");
  ASSERT_TRUE(group);
  EXPECT_EQ(group->version, CgroupVersion::v1);
  const auto usage = read_memory_group(*group);
  ASSERT_TRUE(usage);
  EXPECT_EQ(usage->current, Bytes{1000});
  EXPECT_EQ(usage->limit, std::nullopt);
  EXPECT_EQ(usage->anonymous, Bytes{7});
  EXPECT_EQ(usage->shmem, Bytes{3});
  EXPECT_EQ(usage->swapped, Bytes{2});
  tree_.write("cgroup/memory/vms/web/memory.limit_in_bytes", "4096\n");
  EXPECT_EQ(read_memory_group(*group)->limit, Bytes{4096});
}

TEST_F(MemoryGroupTest, VersionTwoIsFoundAtTheRootOrBesideVersionOne) {
  for (const std::string root : {"cgroup/", "cgroup/unified/"}) {
    tree_.write(root + "cgroup.controllers", "cpu memory\n");
    tree_.write(root + "web/memory.current", "2000\n");
    tree_.write(root + "web/memory.max", "max\n");
    tree_.write(root + "web/memory.swap.current", "5\n");
    const auto group = group_of("0::/web\n");
    ASSERT_TRUE(group) << group.error().message();
    EXPECT_EQ(group->version, CgroupVersion::v2);
    EXPECT_EQ(read_memory_group(*group)->current, Bytes{2000});
    EXPECT_EQ(read_memory_group(*group)->limit, std::nullopt);
    EXPECT_EQ(read_memory_group(*group)->swapped, Bytes{5});
    std::filesystem::remove_all(tree_.path_of("cgroup"));
  }
}

TEST_F(MemoryGroupTest, PathsThatLeaveTheTreeAreNotFollowed) {
  tree_.write("cgroup/cgroup.controllers", "memory\n");
  tree_.write("cgroup/memory/memory.usage_in_bytes", "1\n");
  tree_.write("proc/memory.current", "1\n");
  for (const char* text :
       {"0::/../proc\n", "4:memory:/../../x\n", "4:memory:/..\n", "0::relative\n", "", "0::/absent\n"})
    EXPECT_FALSE(group_of(text)) << text;
}

TEST_F(MemoryGroupTest, WithoutFiguresIsAnErrorThatNamesTheFile) {
  tree_.write("cgroup/cgroup.controllers", "memory\n");
  tree_.write("cgroup/web/memory.current", "lots\n");
  const auto group = group_of("0::/web\n");
  ASSERT_TRUE(group);
  const auto usage = read_memory_group(*group);
  ASSERT_FALSE(usage);
  EXPECT_NE(usage.error().subject.find("web/memory.current"), std::string::npos);
}

TEST_F(MemoryGroupTest, RoomIsThatOfTheNarrowestGroupAndCountsFilesAsFree) {
  const auto write = [&](const std::string& folder, const char* usage, const char* limit, const char* stat) {
    tree_.write("cgroup/memory/" + folder + "memory.usage_in_bytes", usage);
    tree_.write("cgroup/memory/" + folder + "memory.limit_in_bytes", limit);
    tree_.write("cgroup/memory/" + folder + "memory.stat", stat);
  };
  constexpr const char* kNone = "9223372036854771712\n";
  write("", "90000\n", kNone, "");
  write("vms/", "9000\n", kNone, "");
  write("vms/web/", "1000\n", kNone, "");
  const auto group = group_of("4:memory:/vms/web\n");
  ASSERT_TRUE(group);
  EXPECT_FALSE(memory_group_room(tree_.roots(), *group));
  write("vms/", "9000\n", "10000\n", "active_file 9\ntotal_active_file 200\ntotal_inactive_file 100\n");
  ASSERT_TRUE(memory_group_room(tree_.roots(), *group));
  EXPECT_EQ(memory_group_room(tree_.roots(), *group)->left, Bytes{1300});
  EXPECT_EQ(memory_group_room(tree_.roots(), *group)->limit, Bytes{10000});
  write("vms/web/", "1000\n", "1500\n", "");
  EXPECT_EQ(memory_group_room(tree_.roots(), *group)->left, Bytes{500});
  write("vms/web/", "2000\n", "1500\n", "");
  EXPECT_EQ(memory_group_room(tree_.roots(), *group)->left, Bytes{0});
}

TEST_F(MemoryGroupTest, RoomOfVersionTwo) {
  tree_.write("cgroup/cgroup.controllers", "memory\n");
  tree_.write("cgroup/vms/memory.current", "5000\n");
  tree_.write("cgroup/vms/memory.max", "6000\n");
  tree_.write("cgroup/vms/web/memory.current", "5000\n");
  tree_.write("cgroup/vms/web/memory.max", "max\n");
  tree_.write("cgroup/vms/memory.stat", "active_file 100\ninactive_file 50\n");
  const auto group = group_of("0::/vms/web\n");
  ASSERT_TRUE(group);
  ASSERT_TRUE(memory_group_room(tree_.roots(), *group));
  EXPECT_EQ(memory_group_room(tree_.roots(), *group)->left, Bytes{1150});
}

TEST(HostFigures, SurviveDamagedText) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (int round = 0; round < 5000; ++round) {
    std::string text(round % 2 == 0 ? kMemInfo : kPressure);
    text.resize(random() % text.size() + 1);
    for (int edits = 0; edits < 8; ++edits) text[random() % text.size()] = static_cast<char>(random());
    parse_meminfo(text);
    if (const auto pressure = parse_pressure(text)) {
      EXPECT_GE(pressure->some.average_10s, 0);
      EXPECT_LE(pressure->some.average_10s, 1);
    }
  }
}

}  // namespace
}  // namespace tidepool::kernel
