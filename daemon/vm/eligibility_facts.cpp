// Collecting what eligibility.h decides on.
#include <unistd.h>

#include <algorithm>

#include "daemon/vm/eligibility.h"
#include "daemon/vm/vm_name.h"
#include "kmod-interfaces/proc_text.h"

namespace tidepool::daemon {
namespace {

using kernel::DescriptorKind;

constexpr unsigned kCapSysAdmin = 21;

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
  if (status.has_capability(kCapSysAdmin)) return true;
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

}  // namespace

Result<ProcessFacts> collect_facts(pid_t pid, const kernel::KernelRoots& roots, const MemorySelector& selector) {
  const auto process = kernel::Process::open(roots, pid);
  if (!process) return tl::unexpected(process.error());
  const auto stat = process->stat();
  if (!stat) return tl::unexpected(stat.error());
  ProcessFacts facts;
  facts.id = process->id();
  facts.comm = stat->comm;
  facts.is_self = pid == ::getpid();
  facts.kernel_thread = stat->is_kernel_thread();
  facts.zombie = stat->is_zombie();
  facts.ptrace_scope = kernel::read_number(roots.proc + "/sys/kernel/yama/ptrace_scope");
  const auto status = keep(process->status(), facts);
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
  std::vector<std::string> command_line;
  if (!facts.kernel_thread && !facts.zombie) {
    facts.executable = keep(process->executable(), facts).value_or("");
    facts.elf_class = keep(process->elf_class(), facts).value_or(kernel::ElfClass::unknown);
    facts.hypervisor = is_hypervisor(facts.executable);
    command_line = keep(process->command_line(), facts).value_or(std::vector<std::string>{});
    const auto mounts = keep(process->mounts(), facts).value_or(std::vector<kernel::Mount>{});
    if (const auto descriptors = keep(process->descriptors(), facts)) {
      for (const kernel::DescriptorInfo& descriptor : *descriptors)
        note_descriptor(roots, *process, descriptor, mounts, facts);
    }
    collect_memory(roots, *process, selector, command_line, mounts, facts);
  }
  facts.name = vm_name(facts.executable, command_line, facts.comm, pid);
  return facts;
}

}  // namespace tidepool::daemon
