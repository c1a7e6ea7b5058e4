#include "daemon/agent/host_account.h"

#include <unistd.h>

#include "daemon/agent/kernel_tier_view.h"
#include "kmod-interfaces/process.h"

namespace tidepool::daemon {
namespace {

// Calls visit(map) for every page map of the VM. Forked objects never change once their address space is in the list.
template <class Visit>
void for_each_map(const PagedVm& memory, Visit&& visit) {
  for (const auto& object : memory.objects) visit(*object->map);
  for (const auto& space : memory.spaces()) {
    for (const auto& object : space->forked_objects) visit(*object->map);
  }
}

// What a process has for itself: heap, stacks, program, and the page tables of all that it maps. Not shmem: that is the
// pool and the page maps, which are counted where they belong, mapped or not.
Bytes own_memory_of(const kernel::KernelRoots& roots, pid_t pid) {
  const auto process = kernel::Process::open(roots, pid);
  if (!process) return {};
  const auto status = process->status();
  if (!status) return {};
  return status->resident_anonymous + status->resident_file + status->page_tables;
}

}  // namespace

Bytes metadata_of(const PagedVm& memory) {
  Bytes sum;
  for_each_map(memory, [&](const PageMap& map) { sum += map.footprint(); });
  return sum;
}

HostOverhead overhead_of(const Context& context) {
  HostOverhead overhead;
  const pool::StoreUsage usage = context.pool->usage();
  overhead.pool = (context.pool->uses_host_dram() ? usage.used : usage.metadata) + usage.set_aside;
  overhead.kernel = kernel_tier_dram(context);
  overhead.frames = context.pager->buffers();
  Bytes counted = usage.process_memory + overhead.frames;
  for (const auto& vm : context.vms.by_kernel()) {
    const Bytes regions = vm->by_kernel()->footprint();
    overhead.metadata += regions;
    counted += regions;
  }
  for (const auto& vm : context.vms.paged()) {
    for_each_map(*vm->memory, [&](const PageMap& map) {
      overhead.metadata += map.footprint();
      counted += map.counters_footprint();
    });
  }
  overhead.agent = saturating_sub(own_memory_of(context.roots, ::getpid()), counted);
  if (const pid_t keeper = context.clerk->holder_pid(); keeper > 0)
    overhead.keeper = own_memory_of(context.roots, keeper);
  return overhead;
}

}  // namespace tidepool::daemon
