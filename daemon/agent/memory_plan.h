// From the mappings that were chosen of a process to what the pager is given of them.
#pragma once

#include <span>
#include <vector>

#include "base/result.h"
#include "daemon/control/agent_service.h"
#include "daemon/pager/pager.h"
#include "daemon/vm/eligibility.h"
#include "kmod-interfaces/kernel_roots.h"
#include "kmod-interfaces/process.h"

namespace tidepool::daemon {

// Objects: one per shared file, one for all private memory.
struct MemoryPlan {
  std::vector<ObjectSpec> objects;
  std::vector<kernel::InodeId> files;  // of each object; all zero for private memory
  std::vector<MappingSpec> mappings;
  bool has_private = false;
};

// `handed`: files that the process gave us; they are used where they are the ones behind its memory and can be written
// to, otherwise the mapping itself is opened (CAP_SYS_ADMIN). EBADF: one of them is behind none of the memory.
Result<MemoryPlan> plan_memory(const kernel::KernelRoots& roots, const ProcessFacts& facts,
                               std::vector<UniqueFd> handed = {});

// Where another process shows the plan's shared memory.
std::vector<MappingSpec> shown_in(const kernel::Process& member, const MemoryPlan& plan);

std::vector<VmMappingStatus> mapping_status(const std::vector<ManagedMapping>& chosen);

// Threads of it that can wait for a fault at once: its vCPUs, or as many as the host has CPUs.
unsigned fault_threads_of(const kernel::KernelRoots& roots, const ProcessFacts& facts);

}  // namespace tidepool::daemon
