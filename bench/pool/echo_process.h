// The floor of a remote read: a process that sends back every 4 KiB that it is sent, over the transport that is
// measured.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstddef>

#include "base/unique_fd.h"

namespace tidepool::bench {

class EchoProcess {
 public:
  static constexpr std::size_t kBytes = 4096;

  // Forks, so before any thread is started.
  explicit EchoProcess(bool tcp);
  ~EchoProcess();
  EchoProcess(const EchoProcess&) = delete;
  EchoProcess& operator=(const EchoProcess&) = delete;

  // There and back. `spinning`: this side does not sleep while it waits.
  void round_trip(bool spinning);

 private:
  pid_t pid_ = -1;
  UniqueFd socket_;
  std::array<std::byte, kBytes> page_{};
};

}  // namespace tidepool::bench
