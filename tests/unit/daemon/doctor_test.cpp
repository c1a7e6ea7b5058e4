#include "daemon/vm/doctor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <set>

#include "kmod-interfaces/uapi/userfaultfd.h"
#include "tests/unit/kmod-interfaces/kernel_tree.h"

namespace tidepool::daemon {
namespace {

using kernel::KernelFeatures;

// A host on which everything works.
KernelFeatures good_host() {
  KernelFeatures f;
  f.release = "6.18.0";
  f.major = 6;
  f.minor = 18;
  f.userfaultfd.syscall = f.userfaultfd.syscall_user_mode = f.userfaultfd.device = {0};
  f.userfaultfd.features = (1u << 17) - 1;
  auto& calls = f.syscalls;
  calls.pidfd_open = calls.pidfd_getfd = calls.process_madvise = calls.pagemap_scan = {0};
  calls.io_uring = calls.io_uring_polled = calls.perf_page_faults = {0};
  calls.io_uring_madvise = calls.io_uring_restrictions = calls.soft_dirty = true;
  f.idle_page_bitmap = true;
  f.damon = {true, 0, false, std::nullopt};
  f.sampling.intel_pebs = true;
  f.swap = {{"/dev/zram0", Bytes{1u << 30}, {}, 100, true}};
  f.kernel_tier = {kernel::SwapKind::kZram, {"/dev/zram0"},  Bytes{1u << 30},
                   Bytes{1u << 29},         Bytes{1u << 29}, Bytes{1u << 27}};
  f.huge_pages = {"madvise", "never"};
  f.tiers.nodes_without_cpus = {1};
  f.cgroups.memory = kernel::CgroupVersion::v2;
  f.pressure = true;
  f.own.capabilities = ~0ull;
  f.own.open_files = 1u << 20;
  f.max_map_count = 65530;
  return f;
}

const DoctorRow* row_of(const DoctorReport& report, const std::string& check) {
  const auto row = std::ranges::find(report.rows, check, &DoctorRow::check);
  return row == report.rows.end() ? nullptr : &*row;
}

TEST(Doctor, FindsNothingWrongWithAGoodHost) {
  const DoctorReport report = diagnose(good_host());
  EXPECT_EQ(report.kernel, "6.18.0");
  std::set<std::string> checks;
  for (const DoctorRow& row : report.rows) {
    EXPECT_EQ(row.verdict, Verdict::kOk) << row.check << ": " << row.detail;
    EXPECT_TRUE(row.hint.empty()) << row.check;
    EXPECT_FALSE(row.detail.empty()) << row.check;
    EXPECT_TRUE(checks.insert(row.check).second) << row.check << " appears twice";
  }
}

struct Complaint {
  const char* check;
  Verdict verdict;
  const char* text;  // in the detail
  const char* hint;  // a part of it; empty: none
  std::function<void(KernelFeatures&)> spoil;
};

constexpr std::uint64_t kWithoutPtrace = ~(1ull << 19);

std::vector<Complaint> mechanism_complaints() {
  return {
      {"permissions", Verdict::kFail, "CAP_SYS_PTRACE", "grant CAP_SYS_PTRACE",
       [](auto& f) { f.own.capabilities = kWithoutPtrace; }},
      {"permissions", Verdict::kWarn, "missing: CAP_IPC_LOCK", "grant CAP_IPC_LOCK",
       [](auto& f) { f.own.capabilities = ~(1ull << 14); }},
      {"userfaultfd", Verdict::kFail, "Operation not permitted", "CAP_SYS_PTRACE",
       [](auto& f) { f.userfaultfd.syscall = f.userfaultfd.device = {EPERM}; }},
      {"userfaultfd", Verdict::kFail, std::strerror(ENOSYS), "CONFIG_USERFAULTFD",
       [](auto& f) { f.userfaultfd.syscall = {ENOSYS}, f.userfaultfd.device = {ENOENT}; }},
      {"userfaultfd", Verdict::kFail, "lacks events", "4.11",
       [](auto& f) { f.userfaultfd.features &= ~std::uint64_t{UFFD_FEATURE_EVENT_FORK}; }},
      {"pager:shared", Verdict::kFail, "CAP_SYS_PTRACE", "grant", [](auto& f) { f.own.capabilities = kWithoutPtrace; }},
      {"pager:shared", Verdict::kFail, "MINOR", "6.7",
       [](auto& f) { f.userfaultfd.features &= ~std::uint64_t{UFFD_FEATURE_MINOR_SHMEM}; }},
      {"pager:shared", Verdict::kFail, "PAGEMAP_SCAN", "6.7", [](auto& f) { f.syscalls.pagemap_scan = {ENOTTY}; }},
      {"pager:shared", Verdict::kFail, "ptrace_scope", "", [](auto& f) { f.ptrace_scope = 3; }},
      {"pager:private", Verdict::kFail, "io_uring_disabled is 2", "io_uring_disabled = 0",
       [](auto& f) { f.io_uring_disabled = 2; }},
      {"pager:private", Verdict::kWarn, "io_uring_disabled is 1", "io_uring_disabled = 0",
       [](auto& f) { f.io_uring_disabled = 1; }},
      {"pager:private", Verdict::kFail, "polling", "", [](auto& f) { f.syscalls.io_uring_polled = {EPERM}; }},
      {"pager:private", Verdict::kFail, "IORING_OP_MADVISE", "", [](auto& f) { f.syscalls.io_uring_madvise = false; }},
      {"pager:other-users", Verdict::kFail, "Permission denied", "/dev/userfaultfd",
       [](auto& f) { f.userfaultfd.device = {EACCES}; }},
      {"pager:other-users", Verdict::kOk, "unprivileged_userfaultfd is 1", "",
       [](auto& f) { f.userfaultfd.device = {EACCES}, f.unprivileged_userfaultfd = 1; }},
      {"pager:other-users", Verdict::kWarn, "apparmor", "denials",
       [](auto& f) {
         f.security_modules = {"capability", "apparmor"};
       }},
      {"kernel-tier", Verdict::kWarn, "no swap", "set up", [](auto& f) { f.kernel_tier = {}; }},
      {"kernel-tier", Verdict::kWarn, "uncompressed", "zram",
       [](auto& f) { f.kernel_tier = {kernel::SwapKind::kDisk, {"/dev/sda2"}, Bytes{1}, Bytes{1}, {}, {}}; }},
      {"kernel-tier", Verdict::kOk, "zswap", "", [](auto& f) { f.kernel_tier.kind = kernel::SwapKind::kZswap; }},
      {"kernel-tier", Verdict::kWarn, "process_madvise", "CAP_SYS_NICE",
       [](auto& f) { f.syscalls.process_madvise = {EPERM}; }},
      {"migrator", Verdict::kWarn, "no NUMA node", "", [](auto& f) { f.tiers = {}; }},
      {"migrator", Verdict::kWarn, "dax0.0", "daxctl", [](auto& f) { f.tiers = {}, f.tiers.dax_devices = {"dax0.0"}; }},
      {"migrator", Verdict::kWarn, "mem0", "cxl", [](auto& f) { f.tiers = {}, f.tiers.cxl_memories = {"mem0"}; }},
      {"reclaimer", Verdict::kWarn, "version 1", "unified",
       [](auto& f) { f.cgroups.memory = kernel::CgroupVersion::v1; }},
      {"reclaimer", Verdict::kWarn, "without pressure", "psi=1", [](auto& f) { f.pressure = false; }},
  };
}

std::vector<Complaint> tracker_and_host_complaints() {
  return {
      {"tracker:fault-sampling", Verdict::kFail, "userfaultfd", "",
       [](auto& f) { f.userfaultfd.syscall = f.userfaultfd.device = {EPERM}; }},
      {"tracker:fault-sampling", Verdict::kWarn, "write protection", "5.7",
       [](auto& f) { f.userfaultfd.features = 0; }},
      {"tracker:write-tracking", Verdict::kWarn, "6.7", "",
       [](auto& f) { f.userfaultfd.features &= ~std::uint64_t{UFFD_FEATURE_WP_ASYNC}; }},
      {"tracker:write-tracking", Verdict::kWarn, "PAGEMAP_SCAN", "",
       [](auto& f) { f.syscalls.pagemap_scan = {ENOTTY}; }},
      {"tracker:referenced", Verdict::kWarn, "CAP_SYS_NICE", "", [](auto& f) { f.syscalls.process_madvise = {EPERM}; }},
      {"tracker:idle-page", Verdict::kWarn, "hidden", "CAP_SYS_ADMIN", [](auto& f) { f.own.capabilities = 0; }},
      {"tracker:damon", Verdict::kWarn, "without their owners", "6.6", [](auto& f) { f.minor = 1; }},
      {"tracker:idle-page", Verdict::kWarn, "fault sampling", "IDLE_PAGE", [](auto& f) { f.idle_page_bitmap = false; }},
      {"tracker:damon", Verdict::kWarn, "owned by another user", "never taken over",
       [](auto& f) { f.damon.kdamonds = 1; }},
      {"tracker:damon", Verdict::kWarn, "not in this kernel", "CONFIG_DAMON", [](auto& f) { f.damon = {}; }},
      {"tracker:damon", Verdict::kWarn, "cannot be read", "root", [](auto& f) { f.damon.kdamonds.reset(); }},
      {"tracker:perf", Verdict::kWarn, "no access sampling", "", [](auto& f) { f.sampling = {}; }},
      {"tracker:perf", Verdict::kWarn, "paranoid is 3", "CAP_PERFMON",
       [](auto& f) { f.syscalls.perf_page_faults = {EACCES}, f.perf_paranoid = 3, f.own.capabilities = 0; }},
      {"tracker:soft-dirty", Verdict::kOk, "CONFIG_MEM_SOFT_DIRTY", "", [](auto& f) { f.syscalls.soft_dirty = false; }},
      {"tracker:soft-dirty", Verdict::kOk, "writes of all memory", "",
       [](auto& f) { f.userfaultfd.features &= ~std::uint64_t{UFFD_FEATURE_WP_ASYNC}; }},
      {"tracker:read-write-protection", Verdict::kOk, "not offered by this kernel", "", [](auto&) {}},
      {"tracker:read-write-protection", Verdict::kOk, "without RWP_ASYNC", "",
       [](auto& f) { f.userfaultfd.features |= UFFD_FEATURE_RWP; }},
      {"tracker:read-write-protection", Verdict::kOk, "with RWP_ASYNC), and not used", "",
       [](auto& f) { f.userfaultfd.features |= UFFD_FEATURE_RWP | UFFD_FEATURE_RWP_ASYNC; }},
      {"tracker:read-write-protection", Verdict::kOk, "not asked for", "",
       [](auto& f) { f.userfaultfd.syscall = f.userfaultfd.device = {EPERM}; }},
      {"tracker:newer", Verdict::kWarn, "bit20", "", [](auto& f) { f.userfaultfd.features |= 1u << 20; }},
      {"kernel", Verdict::kWarn, "6.1.0", "6.7", [](auto& f) { f.release = "6.1.0", f.minor = 1; }},
      {"huge-pages", Verdict::kWarn, "shared always", "shmem_enabled", [](auto& f) { f.huge_pages.shmem = "always"; }},
      {"accounting", Verdict::kWarn, "no memory controller", "cgroup_enable",
       [](auto& f) { f.cgroups.memory = kernel::CgroupVersion::none; }},
      {"pressure", Verdict::kWarn, "does not account", "psi=1", [](auto& f) { f.pressure = false; }},
      {"limits", Verdict::kWarn, "max_map_count 1000", "max_map_count", [](auto& f) { f.max_map_count = 1000; }},
      {"limits", Verdict::kWarn, "open files 1024", "LimitNOFILE", [](auto& f) { f.own.open_files = 1024; }},
      {"limits", Verdict::kWarn, "locked memory 8 MiB", "LimitMEMLOCK",
       [](auto& f) { f.own.memlock = Bytes{8u << 20}, f.own.capabilities = 0; }},
  };
}

TEST(Doctor, SaysWhatIsMissingWhatItMeansAndWhatHelps) {
  for (const auto& complaints : {mechanism_complaints(), tracker_and_host_complaints()}) {
    for (const Complaint& complaint : complaints) {
      KernelFeatures features = good_host();
      complaint.spoil(features);
      const DoctorReport report = diagnose(features);
      const DoctorRow* row = row_of(report, complaint.check);
      ASSERT_NE(row, nullptr) << complaint.check;
      EXPECT_EQ(row->verdict, complaint.verdict) << complaint.check << ": " << row->detail;
      EXPECT_NE(row->detail.find(complaint.text), std::string::npos) << complaint.check << ": " << row->detail;
      EXPECT_NE(row->hint.find(complaint.hint), std::string::npos) << complaint.check << ": " << row->hint;
    }
  }
}

TEST(Doctor, NamesTheBlindSpotOfEveryTracker) {
  for (const DoctorRow& row : diagnose_trackers(good_host())) {
    EXPECT_TRUE(row.check.starts_with("tracker:"));
    EXPECT_NE(row.detail.find("blind to"), std::string::npos) << row.check;
  }
}

TEST(Doctor, WorksOnAHostOfWhichNothingCanBeRead) {
  kernel::KernelTree tree;
  const DoctorReport report = diagnose(kernel::read_kernel_settings(tree.roots()));
  EXPECT_GE(report.rows.size(), 15u);
  ASSERT_NE(row_of(report, "userfaultfd"), nullptr);
  EXPECT_EQ(row_of(report, "userfaultfd")->verdict, Verdict::kFail);
  EXPECT_EQ(row_of(report, "permissions")->verdict, Verdict::kFail);
}

}  // namespace
}  // namespace tidepool::daemon
