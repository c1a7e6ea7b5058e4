// The bound on active VMs (safety.max_active_vms, safety.canary_time): whoever makes a VM active asks here.
#pragma once

#include <mutex>
#include <optional>

#include "daemon/agent/context.h"

namespace tidepool::daemon {

// Thread-safe: of several at once, no more than the bound allows become active.
class Canary {
 public:
  explicit Canary(Context& context) : context_(context) {}

  // Whether another VM than `name` may become active now. EPERM says why not.
  Result<> allows(const std::string& name) const;
  // Makes an adopted VM active, if that is allowed.
  Result<> activate(ManagedVm& vm);

 private:
  Result<> allows_locked(const std::string& name) const;

  Context& context_;
  mutable std::mutex mutex_;
  std::optional<MonoTime> since_;  // when the first VM became active
};

}  // namespace tidepool::daemon
