// The probes against the running kernel: they agree with what can be tried directly, leave nothing behind, and need no
// rights.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "daemon/vm/doctor.h"
#include "kmod-interfaces/kernel_features.h"
#include "kmod-interfaces/meminfo.h"
#include "kmod-interfaces/proc_text.h"
#include "kmod-interfaces/psi.h"
#include "tests/support/child_process.h"

namespace tidepool::daemon {
namespace {

const kernel::KernelRoots kRoots;

std::ptrdiff_t open_descriptors() {
  std::ptrdiff_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++count;
  return count;
}

TEST(LiveKernel, ProbesAgreeWithTheKernel) {
  const auto features = kernel::probe_kernel_features(kRoots);
  utsname name{};
  ASSERT_EQ(::uname(&name), 0);
  EXPECT_EQ(features.release, name.release);
  const UniqueFd userfaultfd{static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC))};
  EXPECT_EQ(features.userfaultfd.syscall.works(), userfaultfd.valid());
  if (features.userfaultfd.usable()) {
    EXPECT_NE(features.userfaultfd.features, 0u);
  }
  if (features.at_least(6, 7)) {
    EXPECT_TRUE(features.syscalls.pagemap_scan.works());
  }
  if (features.at_least(5, 6)) {
    EXPECT_TRUE(features.syscalls.pidfd_open.works());
    EXPECT_TRUE(features.syscalls.pidfd_getfd.works());
  }
  EXPECT_GT(features.max_map_count, 0u);
  EXPECT_EQ(features.own.effective_uid, ::geteuid());
}

TEST(LiveKernel, ProbesLeaveNothingBehindAndChangeNothing) {
  const std::string damon = kRoots.sys + "/kernel/mm/damon/admin/kdamonds/nr_kdamonds";
  const auto before = kernel::read_value(damon);
  const std::ptrdiff_t descriptors = open_descriptors();
  for (int i = 0; i < 3; ++i) kernel::probe_kernel_features(kRoots);
  EXPECT_EQ(open_descriptors(), descriptors);
  EXPECT_EQ(kernel::read_value(damon), before);
}

TEST(LiveKernel, DoctorHasAnAnswerForEveryMechanismAndTracker) {
  const DoctorReport report = diagnose(kernel::probe_kernel_features(kRoots));
  for (const char* check : {"permissions", "userfaultfd", "pager:shared", "pager:private", "kernel-tier", "migrator",
                            "tracker:fault-sampling", "tracker:damon", "kernel", "limits"}) {
    const auto row = std::ranges::find(report.rows, check, &DoctorRow::check);
    ASSERT_NE(row, report.rows.end()) << check;
    EXPECT_FALSE(row->detail.empty()) << check;
  }
}

TEST(LiveKernel, DoctorWorksWithoutRightsAndNamesTheOneThatIsMissing) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to become somebody else";
  const ChildProcess stranger([]() -> std::string {
    if (::setgid(65534) != 0 || ::setuid(65534) != 0) return "setuid";
    const DoctorRow row = diagnose_permissions(kernel::probe_kernel_features(kRoots));
    return row.verdict == Verdict::kFail ? row.hint : "the verdict is not a failure";
  });
  EXPECT_NE(stranger.outcome().find("CAP_SYS_PTRACE"), std::string::npos) << stranger.outcome();
}

TEST(LiveKernel, HostFiguresMakeSense) {
  const auto info = kernel::read_meminfo(kRoots);
  ASSERT_TRUE(info);
  EXPECT_GT(info->total, Bytes{});
  EXPECT_LE(info->available, info->total);
  const auto pressure = kernel::read_host_memory_pressure(kRoots);
  EXPECT_EQ(pressure.has_value(), kernel::read_kernel_settings(kRoots).pressure);
}

TEST(LiveKernel, OwnMemoryGroupHoldsAtLeastWhatWasJustTouched) {
  const auto self = kernel::Process::open(kRoots, ::getpid());
  ASSERT_TRUE(self);
  const auto group = kernel::memory_group_of(kRoots, *self);
  if (!group) GTEST_SKIP() << "no memory control group here: " << group.error().message();
  const std::vector<char> touched(64u << 20, 'x');
  const auto usage = kernel::read_memory_group(*group);
  ASSERT_TRUE(usage) << usage.error().message();
  EXPECT_GE(usage->current, Bytes{touched.size()});
}

}  // namespace
}  // namespace tidepool::daemon
