// One hand-off as it arrives over a unix stream socket: the message in as many pieces as it likes, and beside it
// (SCM_RIGHTS, with any of the pieces, in any order) the userfaultfd and perhaps the files behind shared memory.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "daemon/vm/handoff_message.h"
#include "kmod-interfaces/socket_peer.h"

namespace tidepool::daemon {

// Everything that a process handed off.
struct Handoff {
  kernel::SocketPeer peer;
  std::vector<HandoffRegion> regions;  // by address
  UniqueFd userfaultfd;
  std::vector<UniqueFd> files;  // regular files (memfds are); nobody has looked yet which memory is theirs
  UniqueFd connection;          // non-blocking
};

class HandoffReceiver {
 public:
  // A connection that was just accepted. ESRCH: nobody is at its other end.
  static Result<HandoffReceiver> begin(UniqueFd connection);

  // Reads what has arrived; never blocks. True when everything is there. Errors end the hand-off: EBADMSG, EMSGSIZE and
  // ENOTSUP as in HandoffMessage and for descriptors that make no sense, ECONNRESET when it ended in the middle.
  Result<bool> receive();
  // What has not arrived yet, for people.
  std::string missing() const;
  const kernel::SocketPeer& peer() const { return handoff_.peer; }
  int connection() const { return handoff_.connection.get(); }

  // After receive() was true.
  Handoff take() { return std::move(handoff_); }
  // After an error: the connection, to say so.
  UniqueFd take_connection() { return std::move(handoff_.connection); }

 private:
  explicit HandoffReceiver(Handoff handoff) : handoff_(std::move(handoff)) {}
  Result<> keep(UniqueFd descriptor);
  Result<bool> finish();

  Handoff handoff_;
  HandoffMessage message_;
};

}  // namespace tidepool::daemon
