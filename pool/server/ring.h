// An io_uring for one thread, as good as the kernel has it.
#pragma once

#include <liburing.h>

#include <chrono>
#include <utility>

#include "base/result.h"

namespace tidepool::pool::server {

// Made, used and destroyed on one thread.
class Ring {
 public:
  // Tries what spares interrupts of the thread first (IORING_SETUP_DEFER_TASKRUN, Linux 6.1; COOP_TASKRUN, 5.19), then
  // without.
  static Result<Ring> create(unsigned entries);
  Ring(Ring&& other) noexcept;
  Ring& operator=(Ring&&) = delete;
  ~Ring();

  // Submits what is there already when there is no room for another.
  Result<io_uring_sqe*> submission();
  // Submits, and waits for a completion or for the time to pass.
  Result<> submit_and_wait(std::chrono::milliseconds patience);
  // Calls with each completion that is there; they are gone afterwards.
  template <class Visit>
  void for_each_completion(const Visit& visit) {
    unsigned head = 0;
    unsigned seen = 0;
    io_uring_cqe* completion = nullptr;
    io_uring_for_each_cqe(&ring_, head, completion) {
      ++seen;
      visit(*completion);
    }
    io_uring_cq_advance(&ring_, seen);
  }
  // IORING_RECVSEND_POLL_FIRST, Linux 5.19 as COOP_TASKRUN is.
  bool can_poll_first() const { return (ring_.flags & (IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_COOP_TASKRUN)) != 0; }
  bool deferred() const { return (ring_.flags & IORING_SETUP_DEFER_TASKRUN) != 0; }

 private:
  Ring() = default;
  io_uring ring_{};
  bool valid_ = false;
};

}  // namespace tidepool::pool::server
