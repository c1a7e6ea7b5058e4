// One adopted VM as the agent knows it: who it is, what was placed in it, what it is held to, and how it fares.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "daemon/control/agent_service.h"
#include "daemon/kernel_tier/workload.h"
#include "daemon/pager/pager.h"
#include "daemon/vm/foothold.h"
#include "daemon/vm/mappings.h"

namespace tidepool::daemon {

// How a VM came into our care.
enum class VmOrigin : std::uint8_t { kAsked, kRule, kHandedOff };

// One of the VM's processes, and what adoption left in it.
struct PlacedFoothold {
  ProcessIdentity id;
  int number = -1;  // of the userfaultfd in the process; -1: nothing was left
  std::shared_ptr<AddressSpace> space;
};

struct VmRates {
  MonoTime at{};
  std::uint64_t stall_ns = 0;
  std::uint64_t faults = 0;
  double stall = 0;         // share of its threads' time, averaged over some ten seconds
  double stall_minute = 0;  // the same over a minute
  double faults_per_second = 0;
  double fault_cost = 0;  // mean wait for a far page, in seconds; 0: not yet known
};

struct ManagedVm {
  std::string name;
  std::string uuid;  // empty where the process has none
  ProcessIdentity id;
  std::string exe;
  std::uint32_t uid = 0;
  bool hypervisor = false;
  VmOrigin origin = VmOrigin::kAsked;
  MemorySelector selector;           // which of its memory was asked for
  UniqueFd connection;               // of a VM that handed itself off: open for as long as it is served
  std::optional<Finding> immovable;  // why nothing of it may ever be moved out
  std::vector<VmMappingStatus> mappings;
  WallTime adopted_at{};
  Nanoseconds stopped{0};  // how long adoption stopped a thread of it
  unsigned fault_threads =
      1;  // threads of it that can wait for a fault at once: vCPUs, or as many as the host has CPUs
  // Exactly one of the two: who moves its memory, the pager or the kernel on our word.
  std::shared_ptr<PagedVm> memory;
  std::shared_ptr<Workload> workload;
  // Beside the pager: its private memory, which the kernel may move as well; null where that is not wanted.
  std::shared_ptr<Workload> beside;
  std::vector<PlacedFoothold> footholds;
  std::vector<std::string> held_names;  // descriptors that the holder has
  bool in_pool = false;                 // has a store of its name there

  Bytes pinned_before;                // pinned and locked memory at adoption
  std::vector<AddressRange> growing;  // of the policy thread: new mappings, when last looked for

  // The rest is guarded.
  mutable std::mutex mutex;
  VmPolicy policy;
  bool held = false;
  std::string hold_reason;
  Bytes pinned;             // or locked, since adoption: see PinWatch
  bool evacuating = false;  // all of it is being brought home
  VmState state = VmState::kOk;
  VmRates rates;
  std::vector<std::string> blocked;

  VmId number() const { return memory ? memory->id : workload ? workload->id : VmId{}; }
  bool dead() const { return memory ? memory->dead.load() : workload && workload->dead; }
  // What of it the kernel moves.
  const std::shared_ptr<Workload>& by_kernel() const { return workload ? workload : beside; }
  Bytes swapped() const { return by_kernel() ? by_kernel()->memory().far : Bytes{}; }
  // Whoever changes one of these calls it, with the mutex held: what is ordered or on its way out is let go of once
  // nothing may go.
  void settle_demotion() {
    const bool allowed = policy.mode == Mode::kActive && !held && !evacuating && pinned == Bytes{};
    if (memory) memory->demotion_allowed = allowed;
    if (by_kernel()) by_kernel()->demotion_allowed = allowed;
  }
};

// All adopted VMs, by name. Thread-safe.
class VmRegistry {
 public:
  // False when the name is taken.
  bool add(std::shared_ptr<ManagedVm> vm) {
    const std::lock_guard lock(mutex_);
    return vms_.emplace(vm->name, vm).second;
  }
  void remove(const std::string& name) {
    const std::lock_guard lock(mutex_);
    vms_.erase(name);
  }
  std::shared_ptr<ManagedVm> find(std::string_view name) const {
    const std::lock_guard lock(mutex_);
    const auto found = vms_.find(std::string(name));
    return found == vms_.end() ? nullptr : found->second;
  }
  // The only one with that UUID. Nothing forbids two processes to claim one: then neither is found by it.
  std::shared_ptr<ManagedVm> find_uuid(std::string_view uuid) const {
    const std::lock_guard lock(mutex_);
    std::shared_ptr<ManagedVm> found;
    for (const auto& [name, vm] : vms_) {
      if (vm->uuid.empty() || vm->uuid != uuid) continue;
      if (found) return nullptr;
      found = vm;
    }
    return found;
  }
  std::shared_ptr<ManagedVm> find(VmId id) const {
    const std::lock_guard lock(mutex_);
    for (const auto& [name, vm] : vms_) {
      if (vm->number() == id) return vm;
    }
    return nullptr;
  }
  std::shared_ptr<ManagedVm> find(const ProcessIdentity& id) const {
    const std::lock_guard lock(mutex_);
    for (const auto& [name, vm] : vms_) {
      if (vm->workload && vm->workload->has(id)) return vm;
      for (const PlacedFoothold& foothold : vm->footholds) {
        if (foothold.id == id) return vm;
      }
    }
    return nullptr;
  }
  // Those whose memory the pager moves.
  std::vector<std::shared_ptr<ManagedVm>> paged() const {
    auto list = all();
    std::erase_if(list, [](const auto& vm) { return vm->memory == nullptr; });
    return list;
  }
  // Those of which the kernel moves something.
  std::vector<std::shared_ptr<ManagedVm>> by_kernel() const {
    auto list = all();
    std::erase_if(list, [](const auto& vm) { return vm->by_kernel() == nullptr; });
    return list;
  }
  std::vector<std::shared_ptr<ManagedVm>> all() const {
    const std::lock_guard lock(mutex_);
    std::vector<std::shared_ptr<ManagedVm>> list;
    for (const auto& [name, vm] : vms_) list.push_back(vm);
    return list;
  }

 private:
  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<ManagedVm>> vms_;
};

}  // namespace tidepool::daemon
