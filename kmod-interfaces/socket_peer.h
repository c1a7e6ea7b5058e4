// Who is at the other end of a connected unix socket, as the kernel noted it at connect(2): unix(7) SO_PEERCRED, and
// SO_PEERPIDFD (Linux 6.5).
#pragma once

#include <sys/types.h>

#include "base/result.h"
#include "base/unique_fd.h"

namespace tidepool::kernel {

struct SocketPeer {
  pid_t pid = 0;  // as this process's pid namespace numbers it; 0: it is in none that is visible here
  uid_t uid = 0;
  gid_t gid = 0;
  // Names the process for good. Before Linux 6.5 it is opened by the pid: whoever has the pid now.
  UniqueFd pidfd;
};

// ESRCH when it has ended or cannot be seen from here.
Result<SocketPeer> socket_peer(int socket);

}  // namespace tidepool::kernel
