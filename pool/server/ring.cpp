#include "pool/server/ring.h"

#include <array>
#include <cerrno>

namespace tidepool::pool::server {

Result<Ring> Ring::create(unsigned entries) {
  constexpr std::array<unsigned, 3> kWays{IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
                                          IORING_SETUP_COOP_TASKRUN, 0};
  int error = 0;
  for (const unsigned flags : kWays) {
    Ring ring;
    error = io_uring_queue_init(entries, &ring.ring_, flags);
    if (error == 0) {
      ring.valid_ = true;
      return ring;
    }
    if (error != -EINVAL) break;
  }
  return failure_from(-error, "set up", "an io_uring",
                      error == -EPERM || error == -ENOSYS
                          ? "the kernel must allow it: see kernel.io_uring_disabled and the service's system calls"
                          : "");
}

Ring::Ring(Ring&& other) noexcept : ring_(other.ring_), valid_(std::exchange(other.valid_, false)) {}

Ring::~Ring() {
  if (valid_) io_uring_queue_exit(&ring_);
}

Result<io_uring_sqe*> Ring::submission() {
  io_uring_sqe* entry = io_uring_get_sqe(&ring_);
  if (entry) return entry;
  if (const int done = io_uring_submit(&ring_); done < 0) return failure_from(-done, "submit to", "the io_uring");
  entry = io_uring_get_sqe(&ring_);
  if (!entry) return failure(std::errc::device_or_resource_busy, "submit to", "the io_uring");
  return entry;
}

Result<> Ring::submit_and_wait(std::chrono::milliseconds patience) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(patience);
  __kernel_timespec time{};
  time.tv_sec = seconds.count();
  time.tv_nsec = std::chrono::nanoseconds(patience - seconds).count();
  io_uring_cqe* first = nullptr;
  const int done = io_uring_submit_and_wait_timeout(&ring_, &first, 1, &time, nullptr);
  if (done >= 0 || done == -ETIME || done == -EINTR || done == -EAGAIN || done == -EBUSY) return {};
  return failure_from(-done, "wait on", "the io_uring");
}

}  // namespace tidepool::pool::server
