// Listens for processes that hand themselves off (adopt.handoff_socket) and has them taken over. docs/handoff.md.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "daemon/vm/handoff_receiver.h"

namespace tidepool::daemon {

struct HandoffServerOptions {
  std::string socket;
  std::string group;  // owns the socket where it exists
  // From the connection to the last byte and descriptor.
  std::chrono::milliseconds patience{std::chrono::seconds(10)};
  // Connections whose hand-off is under way; of one user at most a quarter of them (root excepted), so that nobody can
  // keep the others out.
  std::size_t max_pending = 64;
};

class HandoffServer {
 public:
  // Called on one of the server's two working threads; blocks it. Returns the VM's name. On failure the connection is
  // still in the hand-off.
  using TakeOver = std::function<Result<std::string>(Handoff&)>;

  static Result<std::unique_ptr<HandoffServer>> start(const HandoffServerOptions& options, TakeOver take_over);
  // Connections that are under way are closed without an answer; take-overs that run are finished first.
  virtual ~HandoffServer() = default;
  // While false, whoever hands off is refused. Returns when no take-over is under way any more.
  virtual void accept(bool on) = 0;
};

}  // namespace tidepool::daemon
