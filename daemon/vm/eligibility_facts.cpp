// Collecting what eligibility.h decides on.
#include <unistd.h>

#include <algorithm>

#include "daemon/vm/eligibility.h"
#include "daemon/vm/vm_name.h"
#include "kmod-interfaces/proc_text.h"
#include "kmod-interfaces/uapi/capability.h"

namespace tidepool::daemon {
namespace {

using kernel::DescriptorKind;

// Keeps the value, or notes that it may not be read. A file that vanished or says nonsense leaves the value empty: the
// process is ending, and whoever adopts it will notice.
template <class T>
std::optional<T> keep(Result<T> result, ProcessFacts& facts) {
  if (result) return std::move(*result);
  if (result.error().code == std::errc::permission_denied || result.error().code == std::errc::operation_not_permitted)
    facts.denied.push_back(result.error().subject);
  return std::nullopt;
}

bool io_uring_allowed(const kernel::KernelRoots& roots, const kernel::ProcessStatus& status) {
  // Documentation/admin-guide/sysctl/kernel.rst: 1 = only CAP_SYS_ADMIN and members of io_uring_group, 2 = nobody.
  const std::uint64_t disabled = kernel::read_number(roots.proc + "/sys/kernel/io_uring_disabled").value_or(0);
  if (disabled == 0) return true;
  if (disabled >= 2) return false;
  if (status.has_capability(kernel::kCapSysAdmin)) return true;
  const auto group = kernel::read_number(roots.proc + "/sys/kernel/io_uring_group");  // -1 (nobody) is no number
  if (!group) return false;
  return status.effective_gid == *group || std::ranges::find(status.groups, *group) != status.groups.end();
}

void note_descriptor(const kernel::KernelRoots& roots, const kernel::Process& process,
                     const kernel::DescriptorInfo& descriptor, std::span<const kernel::Mount> mounts,
                     ProcessFacts& facts) {
  switch (descriptor.kind) {
    case DescriptorKind::vfio:
      facts.passthrough.push_back(descriptor.target);
      return;
    case DescriptorKind::iommufd:
      facts.iommufd.push_back(descriptor.target);
      return;
    case DescriptorKind::vhost_vdpa:
      facts.vdpa.push_back(descriptor.target);
      return;
    case DescriptorKind::userfaultfd:
      facts.userfaultfds.push_back(descriptor.number);
      return;
    case DescriptorKind::io_uring:
      if (!descriptor.fixed_buffers)
        facts.rings_unknown.push_back(descriptor.number);
      else if (*descriptor.fixed_buffers > 0)
        facts.rings_with_fixed_buffers.push_back(descriptor.number);
      return;
    case DescriptorKind::kvm_vm:
    case DescriptorKind::kvm_vcpu:
      facts.hypervisor = true;
      return;
    default:
      if (descriptor.is_direct())
        facts.direct.push_back(
            {descriptor.number, descriptor.target, kernel::storage_of(roots, process, descriptor, mounts)});
  }
}

void collect_memory(const kernel::KernelRoots& roots, const kernel::Process& process, const MemorySelector& selector,
                    std::span<const std::string> command_line, std::span<const kernel::Mount> mounts,
                    ProcessFacts& facts) {
  const auto mappings = keep(process.smaps(), facts);
  if (!mappings) return;
  std::vector<std::uint64_t> stack_pointers;
  if (const auto threads = keep(process.threads(), facts)) {
    for (const kernel::ThreadInfo& thread : *threads) {
      if (thread.stack_pointer) stack_pointers.push_back(*thread.stack_pointer);
    }
  }
  facts.mappings = choose_mappings({*mappings, mounts, stack_pointers, facts.executable, command_line}, selector);
  const std::vector<kernel::InodeId> objects = facts.mappings.objects();
  if (objects.empty()) return;
  if (auto scan = keep(kernel::find_memory_holders(roots, objects), facts)) {
    std::erase_if(scan->holders, [&](const kernel::MemoryHolder& holder) { return holder.id == facts.id; });
    facts.holders = std::move(scan->holders);
    facts.holders_unknown = std::move(scan->unreadable);
  }
}

// Whether a userfaultfd watches every place where the process shows one of the objects.
bool is_watched(const kernel::KernelRoots& roots, const kernel::ProcessId& id,
                std::span<const kernel::InodeId> objects) {
  const auto process = kernel::Process::open(roots, id.pid);
  if (!process || process->id() != id) return true;  // ended meanwhile: it shows nothing
  const auto mappings = process->smaps();
  if (!mappings) return !process->check_alive();
  return std::ranges::all_of(*mappings, [&](const kernel::MappingUsage& usage) {
    const bool shown = usage.map.shared && std::ranges::find(objects, usage.map.file) != objects.end();
    return !shown || usage.has_flag("um") || usage.has_flag("ui");
  });
}

// One process as it was read, and what its memory is read with.
struct Reading {
  kernel::Process process;
  ProcessFacts facts;
  std::vector<std::string> command_line;
  std::vector<kernel::Mount> mounts;
};

Result<Reading> read_process(pid_t pid, const kernel::KernelRoots& roots) {
  auto process = kernel::Process::open(roots, pid);
  if (!process) return tl::unexpected(process.error());
  const auto stat = process->stat();
  if (!stat) return tl::unexpected(stat.error());
  Reading reading{std::move(*process), {}, {}, {}};
  ProcessFacts& facts = reading.facts;
  facts.id = reading.process.id();
  facts.comm = stat->comm;
  facts.is_self = pid == ::getpid();
  facts.kernel_thread = stat->is_kernel_thread();
  facts.zombie = stat->is_zombie();
  facts.ptrace_scope = kernel::read_number(roots.proc + "/sys/kernel/yama/ptrace_scope");
  const auto status = keep(reading.process.status(), facts);
  if (status) {
    facts.uid = status->uid;
    facts.gid = status->gid;
    facts.seccomp = status->seccomp;
    facts.pinned = status->pinned;
    facts.locked = status->locked;
    facts.swapped = status->swapped;
    facts.tracer = status->tracer;
    facts.may_use_io_uring = io_uring_allowed(roots, *status);
  }
  if (facts.tracer != 0) {
    const auto tracer = kernel::Process::open(roots, facts.tracer);
    const auto tracer_stat = tracer ? tracer->stat() : Result<kernel::ProcessStat>(tl::unexpected(tracer.error()));
    if (tracer_stat) facts.tracer_comm = tracer_stat->comm;
  }
  if (!facts.kernel_thread && !facts.zombie) {
    facts.executable = keep(reading.process.executable(), facts).value_or("");
    facts.elf_class = keep(reading.process.elf_class(), facts).value_or(kernel::ElfClass::unknown);
    facts.hypervisor = is_hypervisor(facts.executable);
    reading.command_line = keep(reading.process.command_line(), facts).value_or(std::vector<std::string>{});
    reading.mounts = keep(reading.process.mounts(), facts).value_or(std::vector<kernel::Mount>{});
    if (const auto descriptors = keep(reading.process.descriptors(), facts)) {
      for (const kernel::DescriptorInfo& descriptor : *descriptors)
        note_descriptor(roots, reading.process, descriptor, reading.mounts, facts);
    }
  }
  facts.name = vm_name(facts.executable, reading.command_line, facts.comm, pid);
  facts.uuid = vm_uuid(facts.executable, reading.command_line);
  return reading;
}

}  // namespace

Result<std::vector<kernel::MemoryHolder>> find_newcomers(const kernel::KernelRoots& roots,
                                                         std::span<const kernel::InodeId> objects,
                                                         std::span<const kernel::ProcessId> known) {
  std::vector<kernel::MemoryHolder> newcomers;
  if (objects.empty()) return newcomers;
  auto scan = kernel::find_memory_holders(roots, objects);
  if (!scan) return tl::unexpected(scan.error());
  for (kernel::MemoryHolder& holder : scan->holders) {
    if (std::ranges::find(known, holder.id) != known.end()) continue;
    if (!holder.mapped.empty() && is_watched(roots, holder.id, objects)) continue;
    newcomers.push_back(std::move(holder));
  }
  return newcomers;
}

Result<ProcessFacts> collect_process_facts(pid_t pid, const kernel::KernelRoots& roots) {
  auto reading = read_process(pid, roots);
  if (!reading) return tl::unexpected(reading.error());
  return std::move(reading->facts);
}

Result<ProcessFacts> collect_facts(pid_t pid, const kernel::KernelRoots& roots, const MemorySelector& selector) {
  auto reading = read_process(pid, roots);
  if (!reading) return tl::unexpected(reading.error());
  ProcessFacts& facts = reading->facts;
  facts.selector = selector;
  if (!facts.kernel_thread && !facts.zombie)
    collect_memory(roots, reading->process, selector, reading->command_line, reading->mounts, facts);
  return std::move(facts);
}

}  // namespace tidepool::daemon
