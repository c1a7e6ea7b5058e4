#include "base/unique_fd.h"

#include <fcntl.h>
#include <unistd.h>

namespace tidepool {

UniqueFd& UniqueFd::operator=(UniqueFd&& other) noexcept {
  if (this != &other) {
    reset();
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

void UniqueFd::reset() {
  // close(2) is never retried on EINTR: on Linux the descriptor is gone either way.
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

UniqueFd UniqueFd::duplicate() const {
  return UniqueFd{::fcntl(fd_, F_DUPFD_CLOEXEC, 0)};
}

}  // namespace tidepool
