// The memory control group of a process: what the host charges it and at which point it stops. Both versions of control
// groups.
#pragma once

#include <optional>
#include <string>

#include "base/result.h"
#include "base/units.h"
#include "kmod-interfaces/kernel_roots.h"
#include "kmod-interfaces/process.h"

namespace tidepool::kernel {

enum class CgroupVersion : std::uint8_t { none, v1, v2 };

struct MemoryGroup {
  CgroupVersion version = CgroupVersion::none;
  std::string directory;  // below the mount point of the hierarchy
};

struct MemoryGroupUsage {
  Bytes current;
  std::optional<Bytes> limit;  // nullopt: none but the host's
  Bytes anonymous;             // of memory.stat
  Bytes shmem;
  Bytes swapped;
};

// What may still be charged before the kernel looks for a process to kill.
struct MemoryGroupRoom {
  Bytes left;   // file pages, which the kernel gives up for others, count as free
  Bytes limit;  // of the group that has least left
};

// Where cgroup2 is mounted: at the root of control groups, or below it in "unified" beside version 1. nullopt: nowhere.
std::optional<std::string> cgroup2_root(const KernelRoots& roots);
// The group that is charged for the process's memory. ENOENT when no memory controller is at work, or when the group is
// not visible from here (a process in another cgroup namespace).
Result<MemoryGroup> memory_group_of(const KernelRoots& roots, const Process& process);
Result<MemoryGroupUsage> read_memory_group(const MemoryGroup& group);
// Of the group and of those above it, as far as they are visible, the one with least room. nullopt: none has a limit.
// Of what swap could make free it knows nothing.
std::optional<MemoryGroupRoom> memory_group_room(const KernelRoots& roots, const MemoryGroup& group);
// The cgroup2 directory of the process, for its pressure; ENOENT where cgroup2 is not mounted.
Result<std::string> cgroup2_directory_of(const KernelRoots& roots, const Process& process);

}  // namespace tidepool::kernel
