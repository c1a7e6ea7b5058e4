#include "kmod-interfaces/own_process.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <chrono>

#include "base/unique_fd.h"

namespace tidepool::kernel {
namespace {

constexpr std::chrono::nanoseconds kShortTurn = std::chrono::microseconds(100);  // the least that the kernel takes

// struct sched_attr (include/uapi/linux/sched/types.h), which the C library does not have yet.
struct SchedulingAttributes {
  std::uint32_t size = sizeof(SchedulingAttributes);
  std::uint32_t policy = 0;
  std::uint64_t flags = 0;
  std::int32_t nice = 0;
  std::uint32_t priority = 0;
  std::uint64_t runtime_ns = 0;
  std::uint64_t deadline_ns = 0;
  std::uint64_t period_ns = 0;
  std::uint32_t least_utilization = 0;
  std::uint32_t most_utilization = 0;
};

}  // namespace

Result<> lock_memory(LockMemory what) {
  const int flags = MCL_CURRENT | MCL_FUTURE | (what == LockMemory::kTouched ? MCL_ONFAULT : 0);
  if (::mlockall(flags) != 0) return errno_failure("lock", "memory", "grant CAP_IPC_LOCK or raise RLIMIT_MEMLOCK");
  return {};
}

Result<> set_oom_score_adjust(const KernelRoots& roots, int value) {
  const std::string path = roots.proc + "/self/oom_score_adj";
  const UniqueFd file{::open(path.c_str(), O_WRONLY | O_CLOEXEC)};
  if (!file.valid()) return errno_failure("open", path);
  const std::string text = std::to_string(value);
  if (::write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    return errno_failure("write", path, "grant CAP_SYS_RESOURCE");
  return {};
}

Result<std::uint64_t> raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return errno_failure("read", "RLIMIT_NOFILE");
  limit.rlim_cur = limit.rlim_max;
  if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) return errno_failure("raise", "RLIMIT_NOFILE");
  return static_cast<std::uint64_t>(limit.rlim_cur);
}

void take_short_turns() {
  SchedulingAttributes attributes;
  if (::syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0) != 0) return;
  attributes.size = sizeof attributes;
  attributes.runtime_ns = kShortTurn.count();
  static_cast<void>(::syscall(SYS_sched_setattr, 0, &attributes, 0));
}

Result<std::string> program_beside_own(const KernelRoots& roots, const std::string& name) {
  const std::string link = roots.proc + "/self/exe";
  std::array<char, 4096> path{};
  const ssize_t length = ::readlink(link.c_str(), path.data(), path.size());
  if (length < 0) return errno_failure("read link", link);
  const std::string own(path.data(), static_cast<std::size_t>(length));
  return own.substr(0, own.rfind('/') + 1) + name;
}

Result<std::string> describe_own_descriptor(const KernelRoots& roots, int fd) {
  const std::string path = roots.proc + "/self/fd/" + std::to_string(fd);
  std::array<char, 512> target{};
  const ssize_t length = ::readlink(path.c_str(), target.data(), target.size());
  if (length < 0) return errno_failure("read link", path);
  return std::string(target.data(), static_cast<std::size_t>(length));
}

}  // namespace tidepool::kernel
