// A small tree of files that stands in for /proc, /sys and the rest, so that tests run the real parsers over it. Gone
// with the object.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>
#include <string_view>

#include "kmod-interfaces/kernel_roots.h"

namespace tidepool::kernel {

class KernelTree {
 public:
  KernelTree();
  ~KernelTree();
  KernelTree(const KernelTree&) = delete;
  KernelTree& operator=(const KernelTree&) = delete;

  // Folders on the way are made. Paths begin with proc/, sys/, cgroup/ or dev/.
  void write(const std::string& path, std::string_view text);
  void link(const std::string& path, const std::string& target);
  void make_directory(const std::string& path);

  // A process with the files that every process has: one thread, no descriptors, no mappings; change what the test is
  // about.
  void add_process(pid_t pid, const std::string& comm, const std::string& executable);
  // Descriptor `number` of a process: where it points, and its fdinfo.
  void add_descriptor(pid_t pid, int number, const std::string& target, std::string_view fdinfo);

  KernelRoots roots() const;
  std::string path_of(const std::string& path) const { return (root_ / path).string(); }

 private:
  std::filesystem::path root_;
};

// A line of /proc/PID/stat.
std::string stat_line(pid_t pid, const std::string& comm, char state = 'S', std::uint32_t flags = 0x400000,
                      std::uint64_t start_ticks = 4711, unsigned threads = 1);

}  // namespace tidepool::kernel
