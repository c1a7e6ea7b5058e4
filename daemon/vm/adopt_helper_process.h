// The agent's side of tidepool-adopt: starting it, talking to it, and being rid of it in any case. Detail of
// foothold.h.
#pragma once

#include <sys/types.h>

#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "daemon/vm/adopt_helper_protocol.h"

namespace tidepool::daemon {

// One running helper. Reaped when this goes; killed before that only if it does not end by itself. Used by one thread.
class HelperProcess {
 public:
  // `program` empty: tidepool-adopt beside the running program's own executable. `limit` is for everything that
  // follows.
  static Result<HelperProcess> start(const std::string& program, Nanoseconds limit);
  HelperProcess(HelperProcess&& other) noexcept;
  HelperProcess& operator=(HelperProcess&&) = delete;
  ~HelperProcess();

  Result<> send(const HelperOrder& order, std::span<const int> descriptors) const;
  struct Answer {
    HelperReport report;
    std::vector<UniqueFd> descriptors;
  };
  // ETIMEDOUT, or ECHILD when the helper ended without a word.
  Result<Answer> receive() const;
  // The helper's own descriptor `number`, while it waits for the acknowledgement.
  Result<UniqueFd> take(int number) const;

 private:
  HelperProcess(pid_t pid, UniqueFd pidfd, UniqueFd socket, MonoTime deadline)
      : pid_(pid), pidfd_(std::move(pidfd)), socket_(std::move(socket)), deadline_(deadline) {}
  Nanoseconds left() const;

  pid_t pid_;
  UniqueFd pidfd_;
  UniqueFd socket_;
  MonoTime deadline_;
};

// What the helper may take of `limit`, so that it ends by itself long before.
HelperLimits helper_limits(Nanoseconds limit);

}  // namespace tidepool::daemon
