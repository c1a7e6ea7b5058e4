// The arithmetic of changes that people ask for, before anything is changed: what would differ, whether it is allowed,
// and what to ask for instead. Pure.
#pragma once

#include <optional>

#include "daemon/control/agent_service.h"
#include "daemon/control/config.h"
#include "policy/snapshot.h"

namespace tidepool::daemon {

struct SettingsPlan {
  VmPolicy after;
  ChangeReport report;
};

// Of one VM. `promised`: all of its adopted memory. `immovable`: why nothing of it may ever be moved out, if so.
SettingsPlan plan_settings(const Config& config, const VmPolicy& before, const VmSettings& changes, Bytes promised,
                           const std::optional<Finding>& immovable);

// Of the pool, of which `used` is taken. `in_host_dram`: what it may hold is not there for anybody else on this host.
ChangeReport plan_capacity(Bytes wanted, Bytes now, Bytes used, bool in_host_dram, const policy::HostView& host);

}  // namespace tidepool::daemon
