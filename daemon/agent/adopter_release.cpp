// The way back: everything home, and the process as it was found.
#include <algorithm>
#include <condition_variable>
#include <utility>

#include "daemon/agent/adopter.h"

namespace tidepool::daemon {

// Waits until everything is home and unregistered, or the process is gone. An error leaves the VM served.
Result<> Adopter::bring_home(const std::shared_ptr<ManagedVm>& vm, const Operations::Handle* handle) {
  struct Wait {
    std::mutex mutex;
    std::condition_variable wake;
    std::optional<Result<>> result;
  };
  auto wait = std::make_shared<Wait>();
  const std::uint64_t total = vm->memory->count(PageState::kFar);
  context_.pager->release(vm->memory, [wait](Result<> result) {
    const std::lock_guard lock(wait->mutex);
    wait->result = std::move(result);
    wait->wake.notify_one();
  });
  std::unique_lock lock(wait->mutex);
  const auto deadline = std::chrono::steady_clock::now() + kReleasePatience;
  while (!wait->wake.wait_for(lock, std::chrono::milliseconds(200), [&] { return wait->result.has_value(); })) {
    const std::uint64_t left = vm->memory->count(PageState::kFar);
    if (handle != nullptr)
      handle->step("bringing pages home", to_bytes(PageCount{total - std::min(total, left)}),
                   to_bytes(PageCount{total}));
    if (vm->memory->dead || std::chrono::steady_clock::now() > deadline) break;
  }
  if (vm->memory->dead) return {};
  if (wait->result) return *wait->result;
  return failure(std::errc::timed_out, "release", vm->name, "the process may be stopped; it stays served");
}

// Nothing of the VM is far, or nobody is left to ask for it.
void Adopter::leave_pool(ManagedVm& vm) {
  if (std::exchange(vm.in_pool, false)) context_.pool->close_for(vm.name);
  for (const std::string& name : vm.held_names) (void)context_.clerk->remove(name);
  vm.held_names.clear();
}

Result<> Adopter::release(const std::shared_ptr<ManagedVm>& vm, const Operations::Handle* handle) {
  {
    const std::lock_guard lock(vm->mutex);
    if (vm->state == VmState::kReleasing)
      return failure(std::errc::device_or_resource_busy, "release", vm->name, "it is being released already");
    vm->state = VmState::kReleasing;
  }
  if (vm->workload) return release_workload(vm, handle);
  if (vm->beside) unswap(*vm, handle);
  if (auto home = bring_home(vm, handle); !home) {
    const std::lock_guard lock(vm->mutex);
    vm->state = VmState::kOk;
    if (vm->beside) vm->beside->releasing = false;
    return home;
  }
  forget_beside(*vm);
  // What is under way for a process that is gone never ends by itself.
  if (vm->memory->dead) context_.pager->abandon(vm->memory);
  if (handle != nullptr) handle->step("leaving the process as it was found");
  for (const PlacedFoothold& foothold : vm->footholds) {
    if (foothold.number < 0) continue;
    LetGoRequest request;
    request.id = foothold.id;
    request.descriptors.push_back({foothold.number, foothold.space->userfaultfd.fd()});
    request.helper.program = context_.config().adopt.helper;
    if (auto gone = let_go(request); !gone && gone.error().code != std::errc::no_such_process) {
      context_.event(vm->name, "released",
                     "its descriptor " + std::to_string(foothold.number) + " stays open: " + gone.error().message());
    }
  }
  leave_pool(*vm);
  context_.vms.remove(vm->name);
  context_.event(vm->name, "released", "everything is home");
  const std::lock_guard lock(vm->mutex);
  vm->connection.reset();  // tells a process that handed itself off
  return {};
}

void Adopter::bury(const std::shared_ptr<ManagedVm>& vm) {
  if (vm->by_kernel()) context_.swap_mover->forget(vm->by_kernel());
  leave_pool(*vm);
  context_.vms.remove(vm->name);
  context_.event(vm->name, "gone", "the process ended");
}

}  // namespace tidepool::daemon
