#include "daemon/pager/punch_dropper.h"

#include <fcntl.h>

#include <cerrno>

namespace tidepool::daemon {

bool PunchDropper::submit(const Drop& drop) {
  if (completed_.size() >= kMaxCompleted) return false;
  int error = 0;
  while (::fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(drop.file_offset),
                     static_cast<off_t>(drop.addresses.size())) != 0) {
    if (errno == EINTR) continue;
    error = errno;
    break;
  }
  completed_.push_back({drop.cookie, error});
  return true;
}

std::size_t PunchDropper::reap(std::span<DropCompletion> out) {
  std::size_t count = 0;
  while (count < out.size() && !completed_.empty()) {
    out[count++] = completed_.front();
    completed_.pop_front();
  }
  return count;
}

}  // namespace tidepool::daemon
