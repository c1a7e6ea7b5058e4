// The soft-dirty bits of a process: which pages it wrote to since they were last cleared, through /proc/PID/clear_refs
// and /proc/PID/pagemap. Documentation/admin-guide/mm/soft-dirty.rst; needs CONFIG_MEM_SOFT_DIRTY.
//
// There is one set of bits for everybody: clearing them takes them from others who go by them (CRIU's incremental
// dumps). The kernel holds the process's mmap lock for writing while it clears, so its page faults wait that long.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/result.h"
#include "kmod-interfaces/pagemap.h"

namespace tidepool::kernel {

// One process, held by descriptors: when it ends, both calls fail or find nothing, whoever gets its pid.
class SoftDirtyProcess {
 public:
  virtual ~SoftDirtyProcess() = default;
  // As Pagemap::entries(). Memory that was mapped since the last clearing has the bit throughout.
  virtual Result<std::size_t> entries(std::uint64_t address, std::span<PagemapEntry> out) const = 0;
  // Of all of the process; the next write to each page costs it a fault, which the kernel resolves itself.
  virtual Result<> clear() = 0;
};

// ESRCH: the pid is another process's now. Clears nothing.
Result<std::unique_ptr<SoftDirtyProcess>> open_soft_dirty(const KernelRoots& roots, const ProcessId& process);

}  // namespace tidepool::kernel
