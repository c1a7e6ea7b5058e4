// Whether a process that is being adopted is still the one that was looked at, with the memory that was chosen. It runs
// all the while: what it changes before its memory is registered raises no event.
#pragma once

#include "base/result.h"
#include "daemon/pager/paged_vm.h"
#include "kmod-interfaces/kernel_roots.h"

namespace tidepool::daemon {

// EBUSY: what the process shows at `range` is not what was looked at.
Failure memory_changed(pid_t pid, AddressRange range);

// ESRCH when one of the processes has ended, whoever has its pid now.
Result<> check_processes_alive(const PagedVm& vm);

// EBUSY when an address range no longer shows the object that it was registered for: a hole, another file, another
// offset. Reads the processes' maps.
Result<> check_mappings_unchanged(const kernel::KernelRoots& roots, const PagedVm& vm);

}  // namespace tidepool::daemon
