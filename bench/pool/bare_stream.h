// The floor of demotion to a server: a process that takes what it is sent, over the transport that is measured, and
// says so when it has all. Both sides use io_uring; nothing is looked at.
#pragma once

#include <liburing.h>
#include <sys/types.h>

#include <cstddef>
#include <vector>

#include "base/unique_fd.h"

namespace tidepool::bench {

class BareStream {
 public:
  static constexpr std::size_t kChunk = 256 << 10;

  // Forks, so before any thread is started. A round is `chunks` chunks.
  BareStream(bool tcp, unsigned chunks);
  ~BareStream();
  BareStream(const BareStream&) = delete;
  BareStream& operator=(const BareStream&) = delete;

  void round();
  pid_t pid() const { return pid_; }

 private:
  unsigned chunks_;
  pid_t pid_ = -1;
  UniqueFd socket_;
  io_uring ring_{};
  std::vector<std::byte> buffer_;
};

}  // namespace tidepool::bench
