// A tmpfs for one test: a file system that is full soon, or that is made read-only.
#pragma once

#include <sys/mount.h>

#include <string>

#include "tests/support/program.h"

namespace tidepool::tests {

class SmallTmpfs {
 public:
  explicit SmallTmpfs(const char* options)
      : mounted_(::mount("tmpfs", folder_.path().c_str(), "tmpfs", 0, options) == 0) {}
  ~SmallTmpfs() {
    if (mounted_) ::umount2(folder_.path().c_str(), MNT_DETACH);
  }
  SmallTmpfs(const SmallTmpfs&) = delete;
  SmallTmpfs& operator=(const SmallTmpfs&) = delete;
  bool mounted() const { return mounted_; }  // it needs root
  bool make_read_only() {
    return ::mount(nullptr, folder_.path().c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr) == 0;
  }
  std::string operator/(const std::string& name) const { return folder_ / name; }

 private:
  TestFolder folder_;
  bool mounted_;
};

}  // namespace tidepool::tests
