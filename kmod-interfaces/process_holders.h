// Who else has this memory: every process that maps given files, or holds a descriptor of them.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "kmod-interfaces/kernel_roots.h"
#include "kmod-interfaces/process.h"

namespace tidepool::kernel {

inline constexpr std::size_t kMaxProcesses = 4u << 20;

struct MemoryHolder {
  ProcessId id;
  std::string comm;
  pid_t parent = 0;
  uid_t uid = 0;
  std::vector<InodeId> mapped;  // which of the objects, sorted, once each
  std::vector<InodeId> opened;
};

struct HolderScan {
  std::vector<MemoryHolder> holders;  // by pid; includes the process one started from
  // Processes that could not be looked into: without them the answer is no proof.
  std::vector<pid_t> unreadable;
};

// Reads maps and descriptors of every process once. A process that starts, maps or receives a descriptor meanwhile may
// be missed: scan again after the memory was registered. Costs some tens of microseconds per process.
Result<HolderScan> find_memory_holders(const KernelRoots& roots, std::span<const InodeId> objects);

}  // namespace tidepool::kernel
