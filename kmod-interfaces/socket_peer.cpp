#include "kmod-interfaces/socket_peer.h"

#include <sys/socket.h>

#include <string>

#include "kmod-interfaces/pidfd.h"

namespace tidepool::kernel {
namespace {

constexpr int kSoPeerPidfd = 77;  // SO_PEERPIDFD, asm-generic/socket.h since Linux 6.5

}  // namespace

Result<SocketPeer> socket_peer(int socket) {
  ucred credentials{};
  socklen_t length = sizeof credentials;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0)
    return errno_failure("read credentials of", "a unix socket's peer");
  SocketPeer peer{.pid = credentials.pid, .uid = credentials.uid, .gid = credentials.gid, .pidfd = {}};
  if (peer.pid <= 0) {
    return failure(std::errc::no_such_process, "find", "a unix socket's peer",
                   "it is in a pid namespace that cannot be seen from here");
  }
  int pidfd = -1;
  length = sizeof pidfd;
  if (::getsockopt(socket, SOL_SOCKET, kSoPeerPidfd, &pidfd, &length) == 0) {
    peer.pidfd = UniqueFd{pidfd};
  } else if (errno == ENOPROTOOPT) {
    auto opened = open_pidfd(peer.pid);
    if (!opened) return tl::unexpected(opened.error());
    peer.pidfd = std::move(*opened);
  } else {
    return errno_failure("open", "process " + std::to_string(peer.pid));
  }
  if (!pidfd_alive(peer.pidfd.get()))
    return failure(std::errc::no_such_process, "open", "process " + std::to_string(peer.pid), "it has ended");
  return peer;
}

}  // namespace tidepool::kernel
