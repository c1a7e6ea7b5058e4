#include "service/unix_listener.h"

#include <grp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "kmod-interfaces/lock_file.h"

namespace tidepool {
namespace {

constexpr int kBacklog = 128;

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path)
    return failure(std::errc::filename_too_long, "listen on", path, "a socket's path has at most 107 bytes");
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

const sockaddr* generic(const sockaddr_un& address) {
  return static_cast<const sockaddr*>(static_cast<const void*>(&address));
}

Failure in_use(const std::string& path, const std::string& why) {
  return failure(std::errc::address_in_use, "listen on", path, why);
}

Result<UniqueFd> take_lock(const std::string& path, const std::string& who) {
  const std::string lock_path = path + ".lock";
  auto lock = kernel::take_lock_file(lock_path);
  if (!lock && lock.error().code == std::errc::device_or_resource_busy)
    return in_use(path, "another " + who + " is running" + kernel::lock_file_owner_text(lock_path) +
                            "; stop it first, or give this one a socket of its own");
  return lock;
}

// With the lock held, whatever stands at the path is a leftover, unless a program without manners listens there.
Result<> clear_leftover(const std::string& path, const sockaddr_un& address) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) {
    if (errno == ENOENT) return {};
    return errno_failure("stat", path);
  }
  if (!S_ISSOCK(info.st_mode)) return in_use(path, "it exists and is not a socket; move it away");
  const UniqueFd probe{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
  if (!probe.valid()) return errno_failure("create", "a socket");
  // EAGAIN: somebody listens and its backlog is full.
  if (::connect(probe.get(), generic(address), sizeof address) == 0 || errno == EAGAIN)
    return in_use(path, "another program answers there");
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return errno_failure("remove stale socket", path);
  return {};
}

// Absent groups are normal (tests, a first try-out): the socket is then root's alone.
void hand_to_group(const std::string& path, const std::string& group) {
  struct group entry {};
  struct group* found = nullptr;
  std::array<char, 16384> buffer{};
  if (::getgrnam_r(group.c_str(), &entry, buffer.data(), buffer.size(), &found) != 0 || !found) return;
  // Best effort: without the privilege to chown, the socket stays with this process's own group.
  [[maybe_unused]] const int changed = ::lchown(path.c_str(), static_cast<uid_t>(-1), found->gr_gid);
}

}  // namespace

Result<UnixListener> UnixListener::bind(const std::string& path, const std::string& group, const std::string& who) {
  const Result<sockaddr_un> address = address_of(path);
  if (!address) return Failure(address.error());
  UnixListener listener;
  Result<UniqueFd> lock = take_lock(path, who);
  if (!lock) return Failure(lock.error());
  listener.lock_ = std::move(*lock);
  if (Result<> cleared = clear_leftover(path, *address); !cleared) return Failure(cleared.error());
  listener.fd_ = UniqueFd{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
  if (!listener.fd_.valid()) return errno_failure("create", "a socket");
  // bind(2) gives the file the mode of the socket's own inode: no moment in which others could connect, and no umask,
  // which belongs to all threads.
  if (::fchmod(listener.fd_.get(), 0600) != 0) return errno_failure("chmod", path);
  if (::bind(listener.fd_.get(), generic(*address), sizeof *address) != 0) return errno_failure("bind", path);
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) return errno_failure("stat", path);
  listener.path_ = path;
  listener.device_ = info.st_dev;
  listener.inode_ = info.st_ino;
  hand_to_group(path, group);
  if (::chmod(path.c_str(), 0660) != 0) return errno_failure("chmod", path);
  if (::listen(listener.fd_.get(), kBacklog) != 0) return errno_failure("listen on", path);
  return listener;
}

UnixListener::~UnixListener() {
  if (!fd_.valid() || path_.empty()) return;
  struct stat info {};
  if (::lstat(path_.c_str(), &info) == 0 && info.st_dev == device_ && info.st_ino == inode_) ::unlink(path_.c_str());
}

}  // namespace tidepool
