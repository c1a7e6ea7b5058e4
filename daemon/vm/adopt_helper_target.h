// The process that an order is about: looked at before anything is done to it, and stopped. Detail of tidepool-adopt.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "daemon/vm/adopt_helper_protocol.h"
#include "kmod-interfaces/process.h"
#include "kmod-interfaces/ptrace_injector.h"

namespace tidepool::daemon {

class AdoptTarget {
 public:
  // Refuses what cannot be adopted, with the reason: see take_foothold() for the errors.
  static Result<AdoptTarget> open(const kernel::ProcessId& id);

  // Stops the thread that suits best; another one when that ends meanwhile. The target outlives the stop.
  Result<kernel::PtraceInjector> stop(const HelperLimits& limits) const;
  // ESRCH when it ended, whoever has its pid now.
  Result<> check_alive() const;

  pid_t pid() const { return process_.id().pid; }
  int pidfd() const { return pidfd_.get(); }

 private:
  AdoptTarget(kernel::Process process, UniqueFd pidfd, std::uint64_t instruction)
      : process_(std::move(process)), pidfd_(std::move(pidfd)), instruction_(instruction) {}

  kernel::Process process_;
  UniqueFd pidfd_;
  std::uint64_t instruction_;
};

}  // namespace tidepool::daemon
