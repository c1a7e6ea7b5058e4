// A memory server at its controller: it registers, tells how it is every few seconds, and does what it is asked for.
//
// When the server is to end, it says so, and the controller has what is lent moved to other servers.
//
// A thread of its own. That the controller is away harms nobody: what is lent goes on, and it registers anew when the
// controller asks for it.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "pool/controller/port/controller_port.h"
#include "pool/protocol/handshake.h"
#include "pool/server/server.h"

namespace tidepool::pool::server {

struct RegistrationOptions {
  std::string name;
  std::string address;  // that clients reach the server at
  std::string domain;
  protocol::ServerKey key{};  // of this boot
};

struct RegistrationFigures {
  bool registered = false;
  bool draining = false;       // the controller takes its slices elsewhere
  Nanoseconds silent{0};       // since the last answer, or the start
  std::string trouble{};       // why there is none; empty: there is
  std::uint64_t freed = 0;     // slices, since start
  std::uint64_t failures = 0;  // calls without an answer, since start
};

class Registration {
 public:
  // `server` and `clock` must outlive it.
  Registration(std::unique_ptr<controller::ControllerPort> port, RegistrationOptions options, Server& server,
               const Clock& clock);
  // Says that the server leaves, if somebody hears it within a moment.
  ~Registration();
  Registration(const Registration&) = delete;
  Registration& operator=(const Registration&) = delete;

  // The server wants to end when nothing of it is lent any more: tells the controller soon, and from then on.
  void drain();

  RegistrationFigures figures() const;

 private:
  void run();
  Result<controller::Answer> tell(bool leaving);
  void take(const Result<controller::Answer>& answer);
  void free(const std::vector<controller::FreeCommand>& commands);
  bool wait(Nanoseconds time);

  const std::unique_ptr<controller::ControllerPort> port_;
  const RegistrationOptions options_;
  Server& server_;
  const Clock& clock_;

  // The thread's own.
  std::vector<controller::FreeCommand> done_;
  std::vector<controller::FreeCommand> told_;  // done, in the heartbeat that is under way
  Nanoseconds pause_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  bool draining_ = false;
  bool hurry_ = false;  // something is to be told now
  bool ending_ = false;
  bool ended_ = false;
  RegistrationFigures figures_;
  MonoTime heard_;
  std::thread thread_;
};

}  // namespace tidepool::pool::server
