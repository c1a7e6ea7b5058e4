#include "daemon/agent/canary.h"

namespace tidepool::daemon {

Result<> Canary::allows(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  return allows_locked(name);
}

Result<> Canary::allows_locked(const std::string& name) const {
  const Config::Safety safety = context_.config().safety;
  if (safety.max_active_vms == 0) return {};
  if (since_ && safety.canary_time.count() != 0 && context_.clock.now() - *since_ >= safety.canary_time) return {};
  unsigned active = 0;
  for (const auto& vm : context_.vms.all()) {
    const std::lock_guard vm_lock(vm->mutex);
    active += vm->policy.mode == Mode::kActive && vm->name != name ? 1 : 0;
  }
  if (active < safety.max_active_vms) return {};
  return failure(
      std::errc::operation_not_permitted, "make active", name,
      "safety.max_active_vms allows " + std::to_string(safety.max_active_vms) + " until the canary time has passed");
}

Result<> Canary::activate(ManagedVm& vm) {
  const std::lock_guard lock(mutex_);
  if (auto allowed = allows_locked(vm.name); !allowed) return allowed;
  const std::lock_guard vm_lock(vm.mutex);
  vm.policy.mode = Mode::kActive;
  vm.settle_demotion();
  if (!since_) since_ = context_.clock.now();
  return {};
}

}  // namespace tidepool::daemon
