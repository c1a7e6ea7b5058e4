// Finding processes by what people call them.
#include "daemon/agent/process_search.h"

#include <gtest/gtest.h>

#include "tests/unit/kmod-interfaces/kernel_tree.h"

namespace tidepool::daemon {
namespace {

class ProcessSearch : public testing::Test {
 protected:
  ProcessSearch() {
    add(70, "/", "/sbin/init");
    add(80, "/system.slice/cache.service", "/usr/bin/memcached");
    add(81, "/system.slice/cache.service/workers", "/usr/bin/memcached");
    add(82, "/system.slice/cache.service-2", "/usr/bin/memcached");
    tree_.write("proc/90/ignored", "");
    tree_.write("proc/self-or-so/ignored", "");
  }
  void add(pid_t pid, const std::string& cgroup, const std::string& exe, std::uint64_t resident_kib = 1000) {
    tree_.add_process(pid, exe.substr(exe.rfind('/') + 1).substr(0, 15), exe);
    const std::string folder = "proc/" + std::to_string(pid);
    tree_.write(folder + "/cgroup", "5:cpu,cpuacct:" + cgroup + "\n4:memory:" + cgroup + "/m\n0::" + cgroup + "\n");
    tree_.write(folder + "/status",
                "Name:\tx\nTracerPid:\t0\nVmSize:\t 100 kB\nVmRSS:\t " + std::to_string(resident_kib) + " kB\n");
  }
  std::vector<pid_t> members(const std::string& path) {
    const auto found = processes_of_cgroup(tree_.roots(), path);
    EXPECT_TRUE(found) << found.error().message();
    return found ? *found : std::vector<pid_t>{};
  }
  AdoptRequest group(const std::string& path) {
    AdoptRequest request;
    request.cgroup = path;
    return request;
  }

  kernel::KernelTree tree_;
};

TEST_F(ProcessSearch, FindsAGroupWithTheGroupsBelowItAndNoNeighbour) {
  EXPECT_EQ(members("/system.slice/cache.service"), (std::vector<pid_t>{80, 81}));
  EXPECT_EQ(members("/system.slice/cache.service/"), (std::vector<pid_t>{80, 81}));
  EXPECT_EQ(members("system.slice/cache.service"), (std::vector<pid_t>{80, 81}));
  EXPECT_EQ(members("/system.slice"), (std::vector<pid_t>{80, 81, 82}));
}

TEST_F(ProcessSearch, TakesPathsBelowTheMountPoint) {
  // Hierarchies of version 1, each with a mount point of its own.
  EXPECT_EQ(members(tree_.roots().cgroup + "/memory/system.slice/cache.service-2/m"), (std::vector<pid_t>{82}));
  EXPECT_EQ(members(tree_.roots().cgroup + "/unified/system.slice/cache.service"), (std::vector<pid_t>{80, 81}));
  // Version 2.
  tree_.write("cgroup/cgroup.procs", "");
  EXPECT_EQ(members(tree_.roots().cgroup + "/system.slice/cache.service"), (std::vector<pid_t>{80, 81}));
}

TEST_F(ProcessSearch, RefusesTheRootGroupAndPathsThatLeadUp) {
  for (const std::string& path :
       {std::string("/"), std::string(), tree_.roots().cgroup, tree_.roots().cgroup + "/memory", std::string("/a/../b"),
        std::string("/a/./b"), std::string("..")}) {
    const auto found = processes_of_cgroup(tree_.roots(), path);
    ASSERT_FALSE(found) << path;
    EXPECT_EQ(found.error().code, std::errc::invalid_argument);
  }
}

TEST_F(ProcessSearch, MeansTheProcessOfAGroupThatHasMostMemory) {
  add(81, "/system.slice/cache.service/workers", "/usr/bin/memcached", 5000);
  const auto found = find_process(tree_.roots(), group("/system.slice/cache.service"));
  ASSERT_TRUE(found) << found.error().message();
  EXPECT_EQ(*found, 81);
  tree_.write("cgroup/memory/idle/cgroup.procs", "");
  EXPECT_EQ(find_process(tree_.roots(), group("/idle")).error().code, std::errc::no_such_process);
}

TEST_F(ProcessSearch, TellsAGroupWithoutProcessesFromNone) {
  tree_.write("cgroup/memory/idle/cgroup.procs", "");
  EXPECT_TRUE(members("/idle").empty());
  for (const char* path : {"/nobody", "/system.slice/cache", "/idle/cgroup.procs", "/system.slice/cache.service-2/x"}) {
    const auto found = processes_of_cgroup(tree_.roots(), path);
    ASSERT_FALSE(found) << path;
    EXPECT_EQ(found.error().code, std::errc::invalid_argument) << path;
  }
  // Version 2.
  tree_.write("cgroup/cgroup.procs", "");
  tree_.write("cgroup/calm/cgroup.procs", "");
  EXPECT_TRUE(members("/calm").empty());
}

TEST_F(ProcessSearch, FindsADomainByItsNameOnly) {
  AdoptRequest request;
  request.domain = "web-3";
  EXPECT_EQ(find_process(tree_.roots(), request).error().code, std::errc::no_such_process);
  add(100, "/", "/usr/bin/qemu-system-x86_64");
  tree_.write("proc/100/cmdline", std::string_view("qemu\0-name\0guest=web-3,x=y\0", 27));
  const auto found = find_process(tree_.roots(), request);
  ASSERT_TRUE(found) << found.error().message();
  EXPECT_EQ(*found, 100);
  add(101, "/", "/usr/bin/qemu-system-x86_64");
  tree_.write("proc/101/cmdline", std::string_view("qemu\0-name\0web-3\0", 17));
  EXPECT_EQ(find_process(tree_.roots(), request).error().code, std::errc::invalid_argument) << "two carry the name";
}

}  // namespace
}  // namespace tidepool::daemon
