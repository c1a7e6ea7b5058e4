// Process and the search for other holders, over trees of files.
#include "kmod-interfaces/process.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "kmod-interfaces/process_holders.h"
#include "tests/unit/kmod-interfaces/kernel_tree.h"

namespace tidepool::kernel {
namespace {

InodeId inode_of(const std::string& path) {
  struct stat info {};
  EXPECT_EQ(::stat(path.c_str(), &info), 0) << path;
  return InodeId{{major(info.st_dev), minor(info.st_dev)}, info.st_ino};
}

std::string map_line(const InodeId& file, const std::string& name) {
  char line[256];
  std::snprintf(line, sizeof line, "7f0000000000-7f0000100000 rw-s 00000000 %02x:%02x %lu      ", file.device.major,
                file.device.minor, file.inode);
  return line + name + "\n";
}

TEST(Process, NamesTheFileThatCannotBeRead) {
  KernelTree tree;
  tree.add_process(71, "web", "/usr/bin/web");
  std::filesystem::remove(tree.path_of("proc/71/smaps"));
  const auto process = Process::open(tree.roots(), 71);
  ASSERT_TRUE(process);
  const auto smaps = process->smaps();
  ASSERT_FALSE(smaps);
  EXPECT_NE(smaps.error().message().find("proc/71/smaps"), std::string::npos);
}

TEST(Process, RefusesPidsThatAreNotThere) {
  KernelTree tree;
  EXPECT_EQ(Process::open(tree.roots(), 71).error().code, std::errc::no_such_process);
  EXPECT_EQ(Process::open(tree.roots(), 0).error().code, std::errc::invalid_argument);
  EXPECT_EQ(Process::open(tree.roots(), -1).error().code, std::errc::invalid_argument);
}

TEST(Process, RefusesAThreadAndNamesItsProcess) {
  KernelTree tree;
  tree.add_process(72, "web", "/usr/bin/web");
  tree.write("proc/72/status", "Tgid:\t71\nPid:\t72\n");
  const auto process = Process::open(tree.roots(), 72);
  ASSERT_FALSE(process);
  EXPECT_EQ(process.error().code, std::errc::no_such_process);
  EXPECT_NE(process.error().message().find("71"), std::string::npos);
}

TEST(Process, NoticesThatThePidNowBelongsToAnother) {
  KernelTree tree;
  tree.add_process(71, "web", "/usr/bin/web");
  const auto process = Process::open(tree.roots(), 71);
  ASSERT_TRUE(process);
  EXPECT_TRUE(process->check_alive());
  tree.write("proc/71/stat", stat_line(71, "other", 'S', 0, 4712));
  EXPECT_EQ(process->check_alive().error().code, std::errc::no_such_process);
}

TEST(Process, ReportsAStatThatMakesNoSense) {
  KernelTree tree;
  tree.add_process(71, "web", "/usr/bin/web");
  tree.write("proc/71/stat", "71 (web");
  EXPECT_EQ(Process::open(tree.roots(), 71).error().code, std::errc::bad_message);
}

TEST(Process, ListsThreadsAndTellsWorkersApart) {
  KernelTree tree;
  tree.add_process(71, "web", "/usr/bin/web");
  tree.write("proc/71/task/72/stat", stat_line(72, "iou-sqp-71", 'S', 0x4040));
  tree.write("proc/71/task/71/syscall", "7 0x1 0x2 0x3 0x0 0x0 0x0 0x7ffc11f1ff00 0x7f0011\n");
  const auto threads = Process::open(tree.roots(), 71)->threads();
  ASSERT_TRUE(threads);
  ASSERT_EQ(threads->size(), 2u);
  EXPECT_FALSE((*threads)[0].user_worker);
  EXPECT_EQ((*threads)[0].stack_pointer, 0x7ffc11f1ff00u);
  EXPECT_TRUE((*threads)[1].user_worker);
  EXPECT_EQ((*threads)[1].stack_pointer, std::nullopt);
}

TEST(Process, ListsDescriptorsWithTheirDetails) {
  KernelTree tree;
  tree.add_process(71, "web", "/usr/bin/web");
  tree.add_descriptor(71, 3, "anon_inode:[io_uring]", "flags:\t02\nUserBufs:\t1\n    0: 0x1000/4096\n");
  tree.add_descriptor(71, 12, "/disk.img", "flags:\t0140002\nino:\t5\n");
  const auto process = Process::open(tree.roots(), 71);
  const auto descriptors = process->descriptors();
  ASSERT_TRUE(descriptors);
  ASSERT_EQ(descriptors->size(), 2u);
  EXPECT_EQ((*descriptors)[0].number, 3);
  EXPECT_EQ((*descriptors)[0].fixed_buffers, 1u);
  EXPECT_TRUE((*descriptors)[1].is_direct());
  EXPECT_EQ(process->descriptors(RingDetail::skip)->front().fixed_buffers, std::nullopt);
}

TEST(MemoryHolders, AreFoundByMappingAndByDescriptorWhateverTheName) {
  KernelTree tree;
  tree.write("dev/shm/cache", "x");
  const InodeId file = inode_of(tree.path_of("dev/shm/cache"));
  const std::string fdinfo = "flags:\t02\nino:\t" + std::to_string(file.inode) + "\n";
  for (const pid_t pid : {10, 11, 12, 13, 14}) tree.add_process(pid, "p" + std::to_string(pid), "/bin/p");
  tree.write("proc/10/maps", map_line(file, "/dev/shm/cache") + map_line(file, "/dev/shm/cache"));
  tree.write("proc/11/maps", map_line({{9, 9}, file.inode}, "/dev/shm/cache"));
  tree.add_descriptor(12, 4, tree.path_of("dev/shm/cache"), fdinfo);
  tree.add_descriptor(12, 5, tree.path_of("dev/shm/cache"), fdinfo);
  // The same inode number on another device is another file.
  tree.add_descriptor(13, 4, "/proc/self/status", fdinfo);
  const auto scan = find_memory_holders(tree.roots(), std::array{file});
  ASSERT_TRUE(scan);
  ASSERT_EQ(scan->holders.size(), 2u);
  EXPECT_EQ(scan->holders[0].id, (ProcessId{10, 4711}));
  EXPECT_EQ(scan->holders[0].comm, "p10");
  EXPECT_EQ(scan->holders[0].uid, 1000u);
  EXPECT_EQ(scan->holders[0].mapped, std::vector{file});
  EXPECT_TRUE(scan->holders[0].opened.empty());
  EXPECT_EQ(scan->holders[1].id.pid, 12);
  EXPECT_EQ(scan->holders[1].opened, std::vector{file});
  EXPECT_TRUE(scan->unreadable.empty());
}

TEST(MemoryHolders, SayWhoCouldNotBeLookedInto) {
  KernelTree tree;
  tree.add_process(10, "open", "/bin/p");
  tree.add_process(11, "closed", "/bin/p");
  tree.add_process(12, "half", "/bin/p");
  tree.add_process(13, "kthread", "/bin/p");
  tree.add_process(14, "zombie", "/bin/p");
  std::filesystem::remove(tree.path_of("proc/11/maps"));
  tree.write("proc/12/stat", stat_line(12, "half", 'Z', 0, 1, 3));
  tree.write("proc/13/stat", stat_line(13, "kthread", 'S', 0x200000));
  tree.write("proc/14/stat", stat_line(14, "zombie", 'Z'));
  for (const pid_t pid : {13, 14}) std::filesystem::remove(tree.path_of("proc/" + std::to_string(pid) + "/maps"));
  const auto scan = find_memory_holders(tree.roots(), std::array{InodeId{{0, 1}, 1025}});
  ASSERT_TRUE(scan);
  EXPECT_TRUE(scan->holders.empty());
  EXPECT_EQ(scan->unreadable, (std::vector<pid_t>{11, 12}));
}

TEST(MemoryHolders, OfNothingAreNobody) {
  KernelTree tree;
  tree.add_process(10, "p", "/bin/p");
  const auto scan = find_memory_holders(tree.roots(), {});
  ASSERT_TRUE(scan);
  EXPECT_TRUE(scan->holders.empty());
}

}  // namespace
}  // namespace tidepool::kernel
