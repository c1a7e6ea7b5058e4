#include "daemon/vm/doctor.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>

#include "base/quantity_text.h"
#include "kmod-interfaces/uapi/capability.h"
#include "kmod-interfaces/uapi/userfaultfd.h"

namespace tidepool::daemon {
namespace {

using kernel::KernelFeatures;

struct NeededCapability {
  unsigned number;
  const char* name;
  const char* without;
};

// Those of the unit (systemd/tidepoold.service.in), in the order of what is lost without them.
constexpr std::array kNeeded{
    NeededCapability{kernel::kCapSysPtrace, "CAP_SYS_PTRACE", "no process of another user can be inspected or adopted"},
    NeededCapability{kernel::kCapSysAdmin, "CAP_SYS_ADMIN",
                     "processes under a strict seccomp filter cannot be adopted, nor their shared memory opened"},
    NeededCapability{kernel::kCapDacReadSearch, "CAP_DAC_READ_SEARCH",
                     "what processes of other users have open and mapped cannot be seen"},
    NeededCapability{kernel::kCapDacOverride, "CAP_DAC_OVERRIDE", "shared memory of other users cannot be moved out"},
    NeededCapability{kernel::kCapKill, "CAP_KILL", "a VM with a damaged page could not be stopped"},
    NeededCapability{kernel::kCapSysNice, "CAP_SYS_NICE", "process_madvise is refused: no kernel tier"},
    NeededCapability{kernel::kCapIpcLock, "CAP_IPC_LOCK", "the agent's own memory may be paged out under pressure"},
    NeededCapability{kernel::kCapSysResource, "CAP_SYS_RESOURCE",
                     "the agent may be chosen by the OOM killer, and has few descriptors"},
    NeededCapability{kernel::kCapChown, "CAP_CHOWN", "the admin socket cannot be given to its group"}};

std::string why(const kernel::Attempt& attempt) {
  return attempt.error < 0 ? "not tried" : std::strerror(attempt.error);
}

std::string join(const std::vector<std::string>& words, const char* separator = " ") {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : separator) + word;
  return out;
}

constexpr std::uint64_t kSharedFeatures =
    UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_WP_HUGETLBFS_SHMEM;
constexpr std::uint64_t kPrivateFeatures = UFFD_FEATURE_PAGEFAULT_FLAG_WP;
constexpr std::uint64_t kEvents =
    UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP;

DoctorRow diagnose_userfaultfd(const KernelFeatures& features) {
  const auto& uffd = features.userfaultfd;
  DoctorRow row{Verdict::kOk, "userfaultfd", "", ""};
  if (!uffd.usable()) {
    row.verdict = Verdict::kFail;
    row.detail = "system call: " + why(uffd.syscall) + "; /dev/userfaultfd: " + why(uffd.device);
    row.hint = uffd.syscall.error == ENOSYS ? "a kernel with CONFIG_USERFAULTFD is needed"
                                            : "grant CAP_SYS_PTRACE, or read and write access to /dev/userfaultfd";
    return row;
  }
  // What Tidepool uses of it; how each is lacking shows in the rows of the mechanisms.
  row.detail = "MISSING";
  const auto name = [&](std::uint64_t feature, const char* text) { row.detail += uffd.has(feature) ? text : ""; };
  name(UFFD_FEATURE_MINOR_SHMEM, " MINOR");
  name(kPrivateFeatures, " WP");
  name(UFFD_FEATURE_WP_ASYNC, " WP_ASYNC");
  if (uffd.has(kEvents)) row.detail += "; events of fork, mremap, munmap and madvise";
  row.detail += uffd.device.works() ? "; by device" : "";
  row.detail += uffd.syscall.works() ? "; by system call" : "";
  if (!uffd.has(kEvents)) {
    row.verdict = Verdict::kFail;
    row.detail += "; lacks events";
    row.hint = "a kernel with the FORK, REMAP, REMOVE and UNMAP events (4.11) is needed";
  }
  return row;
}

// What every way of adopting a running process needs.
std::string missing_for_adoption(const KernelFeatures& features) {
  if (!features.userfaultfd.usable()) return "userfaultfd";
  if (!features.own.has(kernel::kCapSysPtrace)) return "CAP_SYS_PTRACE";
  if (!features.syscalls.pidfd_getfd.works()) return "pidfd_getfd (Linux 5.6)";
  if (!features.syscalls.pagemap_scan.works()) return "PAGEMAP_SCAN (Linux 6.7)";
  if (features.ptrace_scope.value_or(0) >= 3) return "ptrace: kernel.yama.ptrace_scope is 3";
  return "";
}

DoctorRow mechanism(const char* name, const std::string& missing, const char* means, const char* hint) {
  if (missing.empty()) return {Verdict::kOk, name, means, ""};
  return {Verdict::kFail, name, std::string(means) + ": not here, for lack of " + missing, hint};
}

DoctorRow diagnose_shared(const KernelFeatures& features) {
  std::string missing = missing_for_adoption(features);
  const char* hint = "grant the agent what is missing; a kernel of 6.7 or later has all of it";
  if (missing.empty() && !features.userfaultfd.has(kSharedFeatures))
    missing = "MISSING, MINOR and WP on shared memory (Linux 5.19)";
  return mechanism("pager:shared", missing, "memfd, tmpfs and shared anonymous memory", hint);
}

DoctorRow diagnose_private(const KernelFeatures& features) {
  std::string missing = missing_for_adoption(features);
  const auto& calls = features.syscalls;
  const char* hint = "grant the agent what is missing; a kernel of 6.7 or later has all of it";
  if (missing.empty() && !features.userfaultfd.has(kPrivateFeatures)) missing = "write protection (Linux 5.7)";
  if (missing.empty() && features.io_uring_disabled.value_or(0) >= 2) {
    missing = "io_uring: kernel.io_uring_disabled is 2";
    hint = "set kernel.io_uring_disabled = 0, or give VMs shared memory (memory-backend-memfd,share=on)";
  }
  if (missing.empty() && !calls.io_uring_polled.works())
    missing = "io_uring with a polling thread: " + why(calls.io_uring_polled);
  if (missing.empty() && (!calls.io_uring_madvise || !calls.io_uring_restrictions))
    missing = "IORING_OP_MADVISE and restrictions (Linux 5.10)";
  DoctorRow row = mechanism("pager:private", missing, "private memory, QEMU's default", hint);
  if (row.verdict == Verdict::kOk && features.io_uring_disabled == 1u) {
    row.verdict = Verdict::kWarn;
    row.detail += "; kernel.io_uring_disabled is 1: only of processes with CAP_SYS_ADMIN or in io_uring_group";
    row.hint = "set kernel.io_uring_disabled = 0";
  }
  return row;
}

DoctorRow diagnose_other_users(const KernelFeatures& features) {
  DoctorRow row{Verdict::kOk, "pager:other-users", "", ""};
  if (features.userfaultfd.device.works()) {
    row.detail = "processes without privileges are served through /dev/userfaultfd";
  } else if (features.unprivileged_userfaultfd == 1u) {
    row.detail = "processes without privileges may use userfaultfd themselves (vm.unprivileged_userfaultfd is 1)";
  } else {
    row.verdict = Verdict::kFail;
    row.detail =
        "processes without privileges, such as libvirt's VMs: /dev/userfaultfd: " + why(features.userfaultfd.device);
    row.hint = "grant read and write access to /dev/userfaultfd (Linux 6.1)";
  }
  for (const std::string& module : features.security_modules) {
    if (module != "apparmor" && module != "selinux") continue;
    row.verdict = row.verdict == Verdict::kOk ? Verdict::kWarn : row.verdict;
    row.detail += "; " + module + " may forbid the hand-over of the descriptor";
    if (row.hint.empty()) row.hint = "look for denials of " + module + " when an adoption fails";
  }
  return row;
}

DoctorRow diagnose_kernel_tier(const KernelFeatures& features) {
  DoctorRow row{Verdict::kOk, "kernel-tier", "", ""};
  if (!features.syscalls.process_madvise.works()) {
    row = {Verdict::kWarn, "kernel-tier", "process_madvise: " + why(features.syscalls.process_madvise),
           "Linux 5.10 and CAP_SYS_NICE are needed"};
    return row;
  }
  const kernel::KernelTier& tier = features.kernel_tier;
  if (tier.kind == kernel::SwapKind::kNone) {
    row.verdict = Verdict::kWarn;
    row.detail = "no swap: the kernel has nowhere to put pages";
    row.hint = features.zram || features.zswap.has_value() ? "set up zram as swap, or zswap in front of a swap device"
                                                           : "set up swap";
    return row;
  }
  row.detail = std::string(name_of(tier.kind)) + " on " + join(tier.devices, ", ") + ", " + short_text(tier.free) +
               " of " + short_text(tier.size) + " free";
  if (tier.kind == kernel::SwapKind::kDisk) {
    row.verdict = Verdict::kWarn;
    row.detail += "; uncompressed, as slow as the device: not used unless pool.kernel.swap = \"any\"";
    row.hint = "set up zram or zswap";
  } else if (tier.stored != Bytes{}) {
    row.detail += ", holds " + short_text(tier.stored) + " in " + short_text(tier.dram) + " of DRAM";
  }
  return row;
}

DoctorRow diagnose_migrator(const KernelFeatures& features) {
  const auto& tiers = features.tiers;
  if (!tiers.nodes_without_cpus.empty()) {
    std::vector<std::string> nodes;
    for (const unsigned node : tiers.nodes_without_cpus) nodes.push_back(std::to_string(node));
    return {Verdict::kOk, "migrator",
            "far memory on NUMA node " + join(nodes, ", ") + "; the pager moves nothing between nodes", ""};
  }
  if (!tiers.dax_devices.empty())
    return {Verdict::kWarn, "migrator",
            "no far NUMA node; DAX devices can serve as a mapped pool: " + join(tiers.dax_devices, ", "),
            "daxctl reconfigure-device --mode=system-ram makes a DAX device a NUMA node"};
  if (!tiers.cxl_memories.empty())
    return {Verdict::kWarn, "migrator", "CXL memory without a region: " + join(tiers.cxl_memories, ", "),
            "cxl create-region"};
  return {Verdict::kWarn, "migrator", "no NUMA node without CPUs, no DAX and no CXL memory: the pool is DRAM or remote",
          ""};
}

DoctorRow diagnose_reclaimer(const KernelFeatures& features) {
  const auto version = features.cgroups.memory;
  if (version == kernel::CgroupVersion::v2)
    return {features.pressure ? Verdict::kOk : Verdict::kWarn, "reclaimer",
            features.pressure ? "memory.reclaim of control groups, with pressure figures; not used by the pager"
                              : "memory.reclaim without pressure figures",
            features.pressure ? "" : "boot with psi=1"};
  return {Verdict::kWarn, "reclaimer",
          version == kernel::CgroupVersion::v1 ? "memory is on control groups version 1, which has no memory.reclaim"
                                               : "no memory controller",
          "boot with systemd.unified_cgroup_hierarchy=1 and cgroup_no_v1=memory"};
}

}  // namespace

DoctorRow diagnose_permissions(const KernelFeatures& features) {
  DoctorRow row{Verdict::kOk, "permissions", "", ""};
  std::vector<std::string> missing;
  for (const NeededCapability& needed : kNeeded) {
    if (features.own.has(needed.number)) continue;
    if (missing.empty()) row.detail = std::string(needed.without);
    missing.emplace_back(needed.name);
  }
  if (missing.empty()) {
    row.detail = features.own.effective_uid == 0 ? "root" : "all that are needed, without root";
    return row;
  }
  row.verdict = features.own.has(kernel::kCapSysPtrace) ? Verdict::kWarn : Verdict::kFail;
  row.detail += "; missing: " + join(missing, ", ");
  row.hint = "run the agent as root, or grant " + join(missing, ", ") + " (AmbientCapabilities= of the unit)";
  return row;
}

std::vector<DoctorRow> diagnose_mechanisms(const KernelFeatures& features) {
  return {diagnose_userfaultfd(features), diagnose_shared(features),      diagnose_private(features),
          diagnose_other_users(features), diagnose_kernel_tier(features), diagnose_migrator(features),
          diagnose_reclaimer(features)};
}

DoctorReport diagnose(const KernelFeatures& features) {
  DoctorReport report;
  report.kernel = features.release;
  report.rows.push_back(diagnose_permissions(features));
  for (auto part : {diagnose_mechanisms(features), diagnose_trackers(features), diagnose_host(features)})
    std::ranges::move(part, std::back_inserter(report.rows));
  return report;
}

}  // namespace tidepool::daemon
