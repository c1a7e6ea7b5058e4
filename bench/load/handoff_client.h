// The other side of docs/handoff.md: hands this process's memory off as Firecracker does, and reads Tidepool's answer.
#pragma once

#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "bench/load/workload_memory.h"
#include "kmod-interfaces/userfaultfd.h"

namespace tidepool::load {

// What must stay open for as long as the memory is used: without the userfaultfd, absent pages would read as zero.
struct HandedOff {
  kernel::Userfaultfd userfaultfd;
  UniqueFd connection;
  std::string vm;  // what it is called over there
};

// Memory of which nothing was touched yet. Blocks until the answer is there.
Result<HandedOff> hand_off(const WorkloadMemory& memory, const std::string& socket);

}  // namespace tidepool::load
