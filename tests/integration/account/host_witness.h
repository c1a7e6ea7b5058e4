// What the kernel says of memory, asked independently of the agent.
#pragma once

#include <sys/types.h>

#include <span>
#include <string>

#include "base/units.h"
#include "kmod-interfaces/memcg.h"

namespace tidepool::tests {

// A memory control group of the test's own: this process moves into it, and whatever it starts is charged to it. Both
// versions of control groups. Left, and removed, at the end.
class MemoryGroup {
 public:
  MemoryGroup();
  ~MemoryGroup();
  MemoryGroup(const MemoryGroup&) = delete;
  MemoryGroup& operator=(const MemoryGroup&) = delete;
  // Why there is none; empty when there is one.
  const std::string& missing() const { return missing_; }
  Bytes usage() const;

 private:
  std::string home_;  // the group that we came from
  kernel::MemoryGroup group_;
  std::string missing_;
};

// Memory that these processes have, each byte once: their share of anonymous memory and of mapped files, page tables,
// and all of the memfds that any of them has open, mapped or not. Huge pages that are mapped in part only count in
// part, though they cost the host all of it: that is what a MemoryGroup is for.
Bytes memory_of_processes(std::span<const pid_t> pids);

// Memory of a process that is the kernel's page of zeros, which costs nothing. When a huge page is split, the kernel
// puts it in place of those of its pages that hold only zeros (Linux 6.12, mm/migrate.c,
// try_to_map_unused_to_zeropage): a saving that nobody claims.
Bytes in_page_of_zeros(pid_t pid);

// Free memory that MemAvailable leaves out: pages that each processor has freed and keeps at hand for itself, which it
// gives back little by little (/proc/zoneinfo: count, at most high_max, which is an eighth of a zone for all processors
// together).
Bytes free_in_lists_of_processors();

}  // namespace tidepool::tests
