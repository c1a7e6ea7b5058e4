// Where the kernel's file trees are mounted. Every reader takes them, so that tests run the real parsers over trees of
// their own.
#pragma once

#include <string>

namespace tidepool::kernel {

struct KernelRoots {
  std::string proc = "/proc";
  std::string sys = "/sys";
  std::string cgroup = "/sys/fs/cgroup";
  std::string dev = "/dev";
};

}  // namespace tidepool::kernel
