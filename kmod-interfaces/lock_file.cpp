#include "kmod-interfaces/lock_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>

namespace tidepool::kernel {

Result<UniqueFd> take_lock_file(const std::string& path) {
  UniqueFd lock{::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600)};
  if (!lock.valid()) return errno_failure("create", path, "its folder must exist and be writable");
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return failure(std::errc::device_or_resource_busy, "lock", path);
    return errno_failure("lock", path);
  }
  const std::string pid = std::to_string(::getpid());
  if (::ftruncate(lock.get(), 0) != 0 || ::pwrite(lock.get(), pid.data(), pid.size(), 0) < 0)
    return errno_failure("write", path);
  return lock;
}

pid_t lock_file_owner(const std::string& path) {
  const UniqueFd file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)};
  std::array<char, 16> text{};
  const ssize_t length = file.valid() ? ::read(file.get(), text.data(), text.size()) : -1;
  pid_t pid = 0;
  if (length > 0) std::from_chars(text.data(), text.data() + length, pid);
  return pid;
}

std::string lock_file_owner_text(const std::string& path) {
  const pid_t pid = lock_file_owner(path);
  return pid > 0 ? ", pid " + std::to_string(pid) : "";
}

}  // namespace tidepool::kernel
