// What tidepool-adopt does: one order from its socket, carried out in one stop of the target, and a report.
#pragma once

#include <span>
#include <vector>

#include "base/unique_fd.h"
#include "daemon/vm/adopt_helper_protocol.h"

namespace tidepool::daemon {

// The descriptor that the program finds its socket at.
inline constexpr int kHelperSocket = 3;

struct TakeResult {
  HelperReport report;
  std::vector<UniqueFd> userfaultfds;  // as many as were ordered; empty on failure
  UniqueFd ring;                       // if it was asked for
};

// The caller is single-threaded and needs CAP_SYS_PTRACE and, for targets with seccomp filters, CAP_SYS_ADMIN.
TakeResult carry_out(const TakeOrder& order);
// `descriptors`: of this process, one per number of the order.
HelperReport carry_out(const LetGoOrder& order, std::span<const UniqueFd> descriptors);

// Serves one order on `socket`. A foothold whose report is not acknowledged in time is taken back. The exit status.
int serve_one_order(int socket);

}  // namespace tidepool::daemon
