// Huge pages of 2 MiB for one test, and a hugetlbfs for files made of them.
#pragma once

#include <sys/types.h>

#include <string>

#include "base/unique_fd.h"
#include "base/units.h"

namespace tidepool::tests {

inline constexpr Bytes kHugePage{2ull << 20};

// The host may take `pages` more for as long as the object lives (nr_overcommit_hugepages): the kernel makes them when
// they are reserved, and takes them apart when their last user has gone. The limit is put back also when this process
// is killed: a child of it waits for its end. One test at a time: others wait.
class HugePages {
 public:
  explicit HugePages(unsigned pages);
  ~HugePages();
  HugePages(const HugePages&) = delete;
  HugePages& operator=(const HugePages&) = delete;

  // Why there are none; empty when so many can be reserved.
  const std::string& missing() const { return missing_; }
  // A path there, for this process and others. The file system is mounted nowhere, and gone with the last descriptor.
  std::string operator/(const std::string& name) const;

 private:
  std::string set_up(unsigned pages);
  std::string raise_limit(unsigned pages);
  std::string make_file_system();
  std::string try_out(unsigned pages) const;

  UniqueFd limit_;
  UniqueFd alive_;  // as long as it is open, nothing is put back
  pid_t keeper_ = -1;
  UniqueFd mount_;
  std::string missing_;
};

}  // namespace tidepool::tests
