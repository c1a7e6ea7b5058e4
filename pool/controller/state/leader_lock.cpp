#include "pool/controller/state/leader_lock.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>

#include "base/text.h"
#include "kmod-interfaces/lock_file.h"

namespace tidepool::pool::controller {

std::string leader_lock_file(const std::string& database) {
  return database + ".lock";
}

Result<UniqueFd> take_leader_lock(const std::string& database, const std::string& name) {
  Result<UniqueFd> lock = kernel::take_lock_file(leader_lock_file(database));
  if (!lock) return lock;
  // Behind the pid that stands there.
  const std::string line = "\n" + name + "\n";
  const off_t end = ::lseek(lock->get(), 0, SEEK_END);
  if (end < 0 || ::pwrite(lock->get(), line.data(), line.size(), end) != static_cast<ssize_t>(line.size()))
    return errno_failure("write", leader_lock_file(database), "its file system may be full");
  return lock;
}

std::string leader_lock_owner(const std::string& database) {
  const UniqueFd file{::open(leader_lock_file(database).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)};
  std::array<char, 512> bytes{};
  const ssize_t length = file.valid() ? ::read(file.get(), bytes.data(), bytes.size()) : 0;
  const std::string text(bytes.data(), length > 0 ? static_cast<std::size_t>(length) : 0);
  const std::size_t begin = text.find('\n');
  if (begin == std::string::npos) return {};
  return printable(text.substr(begin + 1, text.find('\n', begin + 1) - begin - 1));
}

}  // namespace tidepool::pool::controller
