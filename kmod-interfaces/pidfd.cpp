#include "kmod-interfaces/pidfd.h"

#include <linux/kcmp.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace tidepool::kernel {
namespace {

std::string link_target(const std::string& path) {
  std::array<char, 512> target{};
  const ssize_t length = ::readlink(path.c_str(), target.data(), target.size());
  return length > 0 ? std::string(target.data(), static_cast<std::size_t>(length)) : std::string{};
}

bool has_ended(int pidfd, int timeout_ms) {
  pollfd waiting{.fd = pidfd, .events = POLLIN, .revents = 0};
  return ::poll(&waiting, 1, timeout_ms) > 0;
}

}  // namespace

Result<UniqueFd> open_pidfd(pid_t pid) {
  const long fd = ::syscall(SYS_pidfd_open, pid, 0);
  if (fd < 0) return errno_failure("open", "process " + std::to_string(pid));
  return UniqueFd{static_cast<int>(fd)};
}

Result<UniqueFd> take_descriptor(int pidfd, int number) {
  const long fd = ::syscall(SYS_pidfd_getfd, pidfd, number, 0);
  if (fd < 0) return errno_failure("take", "descriptor " + std::to_string(number));
  return UniqueFd{static_cast<int>(fd)};
}

bool pidfd_alive(int pidfd) {
  return !has_ended(pidfd, 0);
}

bool await_end(int pidfd, Nanoseconds limit) {
  const SystemClock clock;
  const MonoTime deadline = clock.now() + limit;
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - clock.now());
    if (has_ended(pidfd, static_cast<int>(std::clamp<std::int64_t>(left.count(), 0, 1000)))) return true;
    if (left.count() <= 0) return false;
  }
}

std::string descriptor_target(int fd) {
  return link_target("/proc/self/fd/" + std::to_string(fd));
}

bool same_open_file(int mine, pid_t pid, int theirs) {
  const long order = ::syscall(SYS_kcmp, ::getpid(), pid, KCMP_FILE, mine, theirs);
  if (order >= 0) return order == 0;
  if (errno != ENOSYS) return false;
  const std::string target = descriptor_target(mine);
  return !target.empty() && target == link_target("/proc/" + std::to_string(pid) + "/fd/" + std::to_string(theirs));
}

}  // namespace tidepool::kernel
