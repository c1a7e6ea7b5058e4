// How cold memory can be found here, what each way does not see, and the host's settings that matter.
#include <cstring>

#include "daemon/vm/doctor.h"
#include "kmod-interfaces/uapi/capability.h"
#include "kmod-interfaces/uapi/userfaultfd.h"

namespace tidepool::daemon {
namespace {

using kernel::KernelFeatures;

// A process may have this many mappings before registrations, which split mappings, begin to fail for it.
constexpr std::uint64_t kComfortableMapCount = 65530;
constexpr std::uint64_t kComfortableOpenFiles = 8192;

DoctorRow fault_sampling(const KernelFeatures& features) {
  const char* name = "tracker:fault-sampling";
  if (!features.userfaultfd.usable()) return {Verdict::kFail, name, "needs userfaultfd", ""};
  const bool protects = features.userfaultfd.has(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
  if (!protects)
    return {Verdict::kWarn, name, "shared memory only: private memory needs write protection", "Linux 5.7"};
  return {Verdict::kOk, name,
          "what the pager manages: shared memory, reads and writes; private memory, writes; far memory, everything; "
          "blind to reads of resident private memory, and to regions between samples",
          ""};
}

// What divides mappings for trackers.
std::string missing_for_division(const KernelFeatures& features) {
  if (!features.userfaultfd.usable()) return "userfaultfd";
  if (!features.userfaultfd.has(UFFD_FEATURE_WP_ASYNC)) return "asynchronous write protection (Linux 6.7)";
  return "";
}

DoctorRow referenced(const KernelFeatures& features) {
  std::string missing = missing_for_division(features);
  if (missing.empty() && !features.syscalls.process_madvise.works()) missing = "process_madvise (CAP_SYS_NICE)";
  if (!missing.empty()) return {Verdict::kWarn, "tracker:referenced", "not here, for lack of " + missing, ""};
  return {
      Verdict::kOk, "tracker:referenced",
      "reads and writes, without faults, of memory that the pager does not manage; blind to KVM guests and to locked "
      "memory",
      ""};
}

DoctorRow write_tracking(const KernelFeatures& features) {
  std::string missing = missing_for_division(features);
  if (missing.empty() && !features.syscalls.pagemap_scan.works()) missing = "PAGEMAP_SCAN (Linux 6.7)";
  if (!missing.empty()) return {Verdict::kWarn, "tracker:write-tracking", "not here, for lack of " + missing, ""};
  return {Verdict::kOk, "tracker:write-tracking",
          "all writes, cheaply, of memory that the pager does not manage; blind to reads", ""};
}

DoctorRow soft_dirty(const KernelFeatures& features) {
  if (!features.syscalls.soft_dirty)
    return {Verdict::kOk, "tracker:soft-dirty", "not in this kernel (CONFIG_MEM_SOFT_DIRTY); blind to reads", ""};
  const bool better = missing_for_division(features).empty() && features.syscalls.pagemap_scan.works();
  return {Verdict::kOk, "tracker:soft-dirty",
          std::string("writes of ") + (better ? "memory that the pager does not manage" : "all memory") +
              ", if trackers.soft_dirty allows it, since it disturbs others such as CRIU; blind to reads",
          ""};
}

DoctorRow idle_page(const KernelFeatures& features) {
  if (!features.idle_page_bitmap)
    return {Verdict::kWarn, "tracker:idle-page", "not in this kernel; fault sampling takes its place",
            "CONFIG_IDLE_PAGE_TRACKING"};
  if (!features.own.has(kernel::kCapSysAdmin))
    return {Verdict::kWarn, "tracker:idle-page", "page frame numbers are hidden; fault sampling takes its place",
            "grant CAP_SYS_ADMIN"};
  return {Verdict::kOk, "tracker:idle-page", "reads and writes, page by page; blind to who touched a shared page", ""};
}

DoctorRow damon(const KernelFeatures& features) {
  const auto& found = features.damon;
  if (!found.present)
    return {Verdict::kWarn, "tracker:damon", "not in this kernel; using fault sampling",
            "CONFIG_DAMON_SYSFS and CONFIG_DAMON_VADDR"};
  if (found.kdamonds.value_or(0) > 0) {
    return {
        Verdict::kWarn, "tracker:damon",
        std::string("owned by another user") + (found.running ? ", who has it running" : "") + "; using fault sampling",
        "end the other use of DAMON; it is never taken over"};
  }
  if (!features.at_least(6, 6))
    return {Verdict::kWarn, "tracker:damon", "lists regions without their owners; using fault sampling", "Linux 6.6"};
  if (!found.kdamonds)
    return {Verdict::kWarn, "tracker:damon", "its settings cannot be read; using fault sampling", "run as root"};
  return {Verdict::kOk, "tracker:damon",
          "reads and writes of regions, estimated; blind to what happens between its samples", ""};
}

DoctorRow perf(const KernelFeatures& features) {
  const auto& attempt = features.syscalls.perf_page_faults;
  const bool privileged = features.own.has(kernel::kCapPerfmon) || features.own.has(kernel::kCapSysAdmin);
  const std::string paranoid =
      features.perf_paranoid ? "; kernel.perf_event_paranoid is " + std::to_string(*features.perf_paranoid) : "";
  if (!attempt.works()) {
    const std::string reason = attempt.error < 0 ? "not tried" : std::strerror(attempt.error);
    return {Verdict::kWarn, "tracker:perf", "page fault events: " + reason + paranoid + "; using fault sampling",
            privileged ? "a kernel with CONFIG_PERF_EVENTS" : "grant CAP_PERFMON"};
  }
  if (features.sampling.intel_pebs)
    return {Verdict::kOk, "tracker:perf",
            "loads that the processor samples (PEBS), if the kernel opens them; blind to writes, to KVM guests and to "
            "what is not sampled",
            ""};
  if (features.sampling.amd_ibs)
    return {Verdict::kOk, "tracker:perf",
            "loads and stores that the processor samples (IBS), if the kernel opens them; blind to KVM guests and to "
            "what is not sampled",
            ""};
  return {Verdict::kWarn, "tracker:perf",
          "page faults only, which say nothing of memory that is present; no access sampling by hardware (PEBS, IBS), "
          "as usual in a VM",
          ""};
}

DoctorRow kernel_version(const KernelFeatures& features) {
  const std::string release = features.release.empty() ? "unknown" : features.release;
  if (features.at_least(6, 7)) return {Verdict::kOk, "kernel", release, ""};
  return {Verdict::kWarn, "kernel", release + ": older than what is needed", "Linux 6.7 or later"};
}

DoctorRow huge_pages(const KernelFeatures& features) {
  const auto& settings = features.huge_pages;
  if (settings.anonymous.empty()) return {Verdict::kOk, "huge-pages", "none in this kernel", ""};
  const std::string text =
      "private " + settings.anonymous + ", shared " + (settings.shmem.empty() ? "never" : settings.shmem);
  const bool shared = !settings.shmem.empty() && settings.shmem != "never" && settings.shmem != "deny";
  if (!shared) return {Verdict::kOk, "huge-pages", text, ""};
  return {Verdict::kWarn, "huge-pages", text + ": dropping parts of shared huge pages splits them, which costs time",
          "echo never > /sys/kernel/mm/transparent_hugepage/shmem_enabled"};
}

DoctorRow accounting(const KernelFeatures& features) {
  switch (features.cgroups.memory) {
    case kernel::CgroupVersion::v2:
      return {Verdict::kOk, "accounting", "control groups version 2", ""};
    case kernel::CgroupVersion::v1:
      return {Verdict::kOk, "accounting", "control groups version 1", ""};
    case kernel::CgroupVersion::none:
      break;
  }
  return {Verdict::kWarn, "accounting", "no memory controller: what a VM is charged cannot be checked",
          "boot with cgroup_enable=memory"};
}

DoctorRow pressure(const KernelFeatures& features) {
  if (!features.pressure) return {Verdict::kWarn, "pressure", "the kernel does not account it", "boot with psi=1"};
  return {Verdict::kOk, "pressure",
          "some and full; waits for far pages are not part of it and are measured by the agent", ""};
}

DoctorRow limits(const KernelFeatures& features) {
  DoctorRow row{Verdict::kOk, "limits", "", ""};
  const auto& own = features.own;
  row.detail =
      "max_map_count " + std::to_string(features.max_map_count) + ", open files " +
      (own.open_files ? std::to_string(*own.open_files) : "unlimited") + ", locked memory " +
      (own.memlock && !own.has(kernel::kCapIpcLock) ? std::to_string(own.memlock->value >> 20) + " MiB" : "unlimited");
  const auto advise = [&](const char* what) {
    row.verdict = Verdict::kWarn;
    row.hint += std::string(row.hint.empty() ? "" : "; ") + what;
  };
  if (features.max_map_count < kComfortableMapCount) advise("raise vm.max_map_count to 65530 or more");
  if (own.open_files && *own.open_files < kComfortableOpenFiles)
    advise("raise the limit of open files (LimitNOFILE=) for many VMs");
  if (own.memlock && !own.has(kernel::kCapIpcLock)) advise("lift the limit of locked memory (LimitMEMLOCK=infinity)");
  return row;
}

// What userfaultfd has for finding working sets. No kernel has been at hand on which a tracker by it could be tried.
DoctorRow read_write_protection(const KernelFeatures& features) {
  const char* name = "tracker:read-write-protection";
  if (!features.userfaultfd.usable())
    return {Verdict::kOk, name,
            "not asked for, since userfaultfd cannot be used here; blind to memory that is not there", ""};
  if (!features.userfaultfd.has(UFFD_FEATURE_RWP))
    return {Verdict::kOk, name,
            "not offered by this kernel (userfaultfd's RWP, announced for Linux 7.2); blind to memory "
            "that is not there",
            ""};
  const bool by_itself = features.userfaultfd.has(UFFD_FEATURE_RWP_ASYNC);
  return {Verdict::kOk, name,
          std::string("offered (userfaultfd's RWP, ") + (by_itself ? "with" : "without") +
              " RWP_ASYNC), and not used by this version; blind to memory that is not there",
          ""};
}

// Features of a newer kernel.
std::vector<DoctorRow> unknown_features(const KernelFeatures& features) {
  std::string unknown;
  for (const std::string& name : features.userfaultfd.names()) {
    if (name.starts_with("bit")) unknown += (unknown.empty() ? "" : " ") + name;
  }
  if (unknown.empty()) return {};
  return {{Verdict::kWarn, "tracker:newer",
           "userfaultfd has features that this version does not know (" + unknown + ") and does not use", ""}};
}

}  // namespace

std::vector<DoctorRow> diagnose_trackers(const KernelFeatures& features) {
  std::vector<DoctorRow> rows{
      fault_sampling(features), idle_page(features),  damon(features), referenced(features),
      write_tracking(features), soft_dirty(features), perf(features),  read_write_protection(features)};
  for (DoctorRow& row : unknown_features(features)) rows.push_back(std::move(row));
  return rows;
}

std::vector<DoctorRow> diagnose_host(const KernelFeatures& features) {
  return {kernel_version(features), huge_pages(features), accounting(features), pressure(features), limits(features)};
}

}  // namespace tidepool::daemon
