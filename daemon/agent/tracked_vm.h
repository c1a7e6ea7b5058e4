// Adopted VMs as trackers want to see them.
#pragma once

#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "daemon/agent/managed_vm.h"
#include "telemetry/hotness/tracked_memory.h"

namespace tidepool::daemon {

// Turns the agent's VMs into tracked memory. A VM whose memory is as it was keeps its view, pointer and epoch. One
// thread; the pager must outlive the use of the views.
class TrackedVms {
 public:
  // Dead and leaving VMs are left out.
  telemetry::MemoryList of(Pager& pager, const std::vector<std::shared_ptr<ManagedVm>>& vms);

 private:
  // What a view was made from, to see whether it still holds.
  struct Source {
    std::shared_ptr<AddressSpace> space;
    std::shared_ptr<const SegmentTable> table;
    bool operator==(const Source&) const = default;
  };
  struct View {
    std::vector<Source> sources;
    std::uint64_t pages = 0;
    std::vector<std::pair<kernel::ProcessId, std::uint64_t>> processes;  // of a workload, with their epochs
    std::shared_ptr<const telemetry::TrackedMemory> memory;
  };
  void add_workload(const ManagedVm& vm, telemetry::MemoryList& list, std::map<VmId, View>& views) const;
  static std::shared_ptr<telemetry::TrackedMemory> make_view(Pager& pager, const ManagedVm& vm,
                                                             const std::vector<Source>& sources);

  std::map<VmId, View> views_;
};

}  // namespace tidepool::daemon
