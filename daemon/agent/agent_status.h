// What the agent says of itself, its VMs and the host: read from the parts, no state of its own.
#pragma once

#include "daemon/agent/context.h"
#include "daemon/agent/policy_driver.h"

namespace tidepool::daemon {

VmMemory memory_of(const ManagedVm& vm);
VmStatus status_of(const Context& context, const ManagedVm& vm, bool with_mappings);
HostStatus host_status(const Context& context, const PolicyDriver& driver);
EvacuationReport evacuation_report(const Context& context);
Explanation explanation_of(const Context& context, const PolicyDriver& driver, const ManagedVm& vm);

}  // namespace tidepool::daemon
