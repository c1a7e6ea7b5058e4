#include "daemon/agent/tracked_vm.h"

#include <algorithm>

namespace tidepool::daemon {
namespace {

using telemetry::TrackedMemory;
using telemetry::TrackedObject;
using telemetry::TrackedSpace;

// One memory object of a VM.
class PagedVmObject final : public telemetry::PagedObject {
 public:
  PagedVmObject(Pager& pager, std::shared_ptr<PagedVm> vm, MemoryObject& object)
      : pager_(pager), vm_(std::move(vm)), object_(object) {}

  std::uint64_t regions() const override { return vm_->dead ? 0 : object_.map->regions(); }
  Region look(std::uint64_t region) const override {
    const RegionCounters& counters = object_.map->region(region);
    const auto armed = counters.armed.load(std::memory_order_relaxed);
    const auto touched = counters.touches.load(std::memory_order_relaxed);
    Region seen;
    seen.resident = counters.resident.load(std::memory_order_relaxed);
    seen.far = counters.far.load(std::memory_order_relaxed);
    seen.armed = armed > touched ? static_cast<std::uint16_t>(armed - touched) : std::uint16_t{0};
    return seen;
  }
  std::uint16_t take_touches(std::uint64_t region) override {
    RegionCounters& counters = object_.map->region(region);
    // A look is cheap, an exchange is not, and most regions have nothing to tell.
    if (counters.touches.load(std::memory_order_relaxed) == 0) return 0;
    const auto touches = counters.touches.exchange(0, std::memory_order_relaxed);
    const auto armed = counters.armed.load(std::memory_order_relaxed);
    counters.armed.fetch_sub(std::min(armed, touches), std::memory_order_relaxed);
    return touches;
  }
  std::uint16_t take_refaults(std::uint64_t region) override {
    auto& refaults = object_.map->region(region).refaults;
    return refaults.load(std::memory_order_relaxed) == 0 ? std::uint16_t{0}
                                                         : refaults.exchange(0, std::memory_order_relaxed);
  }
  policy::Sees sees() const override {
    return pager_.sampling_sees_reads(object_) ? policy::Sees::kReadsAndWrites : policy::Sees::kWrites;
  }
  std::size_t arm(std::span<const PageIndex> pages) override {
    return vm_->dead || vm_->releasing ? 0 : pager_.arm_samples(*vm_, object_, pages);
  }
  void disarm(std::uint64_t region) override { object_.map->region(region).armed = 0; }

 private:
  Pager& pager_;
  std::shared_ptr<PagedVm> vm_;
  MemoryObject& object_;
};

kernel::ProcessId identity_of(const ManagedVm& vm, const std::shared_ptr<AddressSpace>& space) {
  for (const PlacedFoothold& foothold : vm.footholds) {
    if (foothold.space == space) return foothold.id;
  }
  return {};
}

std::uint64_t pages_of(const PagedVm& memory) {
  std::uint64_t pages = 0;
  for (const auto& object : memory.objects) pages += object->map->pages().value;
  return pages;
}

}  // namespace

telemetry::MemoryList TrackedVms::of(Pager& pager, const std::vector<std::shared_ptr<ManagedVm>>& vms) {
  telemetry::MemoryList list;
  std::map<VmId, View> views;
  for (const auto& vm : vms) {
    if (vm->workload) {
      add_workload(*vm, list, views);
      continue;
    }
    PagedVm& memory = *vm->memory;
    if (memory.dead || memory.releasing) continue;
    View next;
    next.pages = pages_of(memory);
    for (const auto& space : memory.spaces()) {
      if (space->alive && space->pid > 0) next.sources.push_back({space, space->segments()});
    }
    const auto known = views_.find(memory.id);
    const bool first = known == views_.end();
    if (!first && known->second.sources == next.sources && known->second.pages == next.pages) {
      next.memory = known->second.memory;
    } else {
      const auto view = make_view(pager, *vm, next.sources);
      view->epoch = first ? 1 : known->second.memory->epoch + 1;
      next.memory = view;
    }
    list.push_back(next.memory);
    views.emplace(memory.id, std::move(next));
  }
  views_ = std::move(views);
  return list;
}

// A workload's memory changes with the mappings of its processes, and with the processes themselves.
void TrackedVms::add_workload(const ManagedVm& vm, telemetry::MemoryList& list, std::map<VmId, View>& views) const {
  const Workload& workload = *vm.workload;
  if (workload.dead || workload.releasing) return;
  View next;
  workload.for_each([&](const WorkloadProcess& process) {
    next.processes.emplace_back(process.alive ? process.id : kernel::ProcessId{}, process.epoch);
  });
  const auto known = views_.find(workload.id);
  const bool first = known == views_.end();
  if (!first && known->second.processes == next.processes) {
    next.memory = known->second.memory;
  } else {
    auto view = std::make_shared<TrackedMemory>();
    view->vm = workload.id;
    view->guest = vm.hypervisor;
    view->epoch = first ? 1 : known->second.memory->epoch + 1;
    workload.for_each([&](const WorkloadProcess& process) {
      TrackedObject tracked;
      const auto position = static_cast<std::uint32_t>(view->objects.size());
      tracked.id = {workload.id, position};
      tracked.pages = process.regions.pages();
      view->objects.push_back(std::move(tracked));
      if (process.alive)
        view->spaces.push_back({process.id, process.pidfd, process.regions.segments(position), nullptr});
    });
    next.memory = std::move(view);
  }
  list.push_back(next.memory);
  views.emplace(workload.id, std::move(next));
}

std::shared_ptr<TrackedMemory> TrackedVms::make_view(Pager& pager, const ManagedVm& vm,
                                                     const std::vector<Source>& sources) {
  auto view = std::make_shared<TrackedMemory>();
  const PagedVm& memory = *vm.memory;
  view->vm = memory.id;
  view->guest = vm.hypervisor;
  std::map<const MemoryObject*, std::uint32_t> positions;
  for (std::uint32_t i = 0; i < memory.objects.size(); ++i) {
    MemoryObject& object = *memory.objects[i];
    TrackedObject tracked;
    tracked.id = {memory.id, i};
    tracked.pages = object.map->pages();
    tracked.shared = object.shared;
    tracked.paged = std::make_shared<PagedVmObject>(pager, vm.memory, object);
    positions.emplace(&object, i);
    view->objects.push_back(std::move(tracked));
  }
  for (const Source& source : sources) {
    TrackedSpace space;
    space.process = identity_of(vm, source.space);
    if (space.process.pid <= 0) continue;  // a forked child that has not been identified
    space.pidfd = std::shared_ptr<const UniqueFd>(source.space, &source.space->pidfd);
    for (const Segment& segment : source.table->all()) {
      const auto position = positions.find(segment.object);
      if (position != positions.end()) space.segments.push_back({segment.addresses, position->second, segment.first});
    }
    view->spaces.push_back(std::move(space));
  }
  return view;
}

}  // namespace tidepool::daemon
