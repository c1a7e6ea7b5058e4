// Finding the process that somebody means.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/result.h"
#include "daemon/control/agent_service.h"
#include "kmod-interfaces/kernel_roots.h"

namespace tidepool::daemon {

inline constexpr std::size_t kMaxProcessesSearched = 4u << 20;

// Every process id of the host, ascending.
Result<std::vector<pid_t>> all_processes(const kernel::KernelRoots& roots);

// A control group's path as in /proc/PID/cgroup, from that or from a path below the mount point of its hierarchy
// (/sys/fs/cgroup/...). EINVAL: the root group, or a path with '.' or '..' in it.
Result<std::string> cgroup_path(const kernel::KernelRoots& roots, std::string path);

// The processes of a control group and of the groups below it, ascending. `path` as cgroup_path() takes it. Reads the
// membership of every process. EINVAL: there is no such group, either.
Result<std::vector<pid_t>> processes_of_cgroup(const kernel::KernelRoots& roots, const std::string& path);

// The one process that the request names: by pid, by the VM's name (ESRCH none, EINVAL several), or of a control group
// the process that has most memory.
Result<pid_t> find_process(const kernel::KernelRoots& roots, const AdoptRequest& request);

}  // namespace tidepool::daemon
