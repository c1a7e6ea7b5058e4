// What Tidepool takes of this host's DRAM, so that whatever is called saved is net of it.
//
// The parts do not overlap, and together they leave nothing out that grows with the memory managed: the pool's content
// and tables, what workloads have in the kernel's tier, page maps (those of forked children too), buffers, and
// everything else that agent and keeper have resident, the kernel's page tables for it included. Source of the
// processes' figures: /proc/PID/status, proc_pid_status(5).
#pragma once

#include "daemon/agent/context.h"

namespace tidepool::daemon {

HostOverhead overhead_of(const Context& context);
// Page maps of one VM.
Bytes metadata_of(const PagedVm& memory);

}  // namespace tidepool::daemon
