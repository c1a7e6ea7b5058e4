// What this host offers, and what that means for Tidepool: the report of `tidectl doctor`. Pure: judges what was
// probed.
#pragma once

#include <string>
#include <vector>

#include "daemon/control/agent_service.h"
#include "kmod-interfaces/kernel_features.h"

namespace tidepool::daemon {

// Rows in the order in which people read them: permissions, the mechanisms that move memory, the trackers that find
// cold memory and what each of them does not see, then the host. Verdicts: ok works; safe holds; warn works less well,
// or another takes its place; fail cannot work. Every row that is not ok says in its hint what would change it, where
// anything would.
DoctorReport diagnose(const kernel::KernelFeatures& features);

// Parts of it.
DoctorRow diagnose_permissions(const kernel::KernelFeatures& features);
std::vector<DoctorRow> diagnose_mechanisms(const kernel::KernelFeatures& features);
std::vector<DoctorRow> diagnose_trackers(const kernel::KernelFeatures& features);
std::vector<DoctorRow> diagnose_host(const kernel::KernelFeatures& features);

}  // namespace tidepool::daemon
