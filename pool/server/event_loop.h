// One thread with an io_uring that serves many connections.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "pool/server/client_connection.h"
#include "pool/server/server_state.h"

namespace tidepool::pool::server {

class Ring;

// A socket that listens; stays its owner's.
struct Listening {
  int fd = -1;
  PeerRules rules;
  bool tcp = false;
};

struct Accepted {
  UniqueFd socket;
  PeerRules rules;
};

class EventLoop {
 public:
  // `accepted` is called on this loop's thread with each connection that came to one of `listening`.
  using OnAccept = std::function<void(Accepted)>;

  // The thread runs, and has its ring, when this returns. `limits` may change.
  static Result<std::unique_ptr<EventLoop>> start(ServerState& state, const Clock& clock,
                                                  std::vector<Listening> listening, OnAccept accepted);
  // Cuts all connections, and waits for the thread.
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // Any thread.
  void add(Accepted connection);
  void set_limits(const ConnectionLimits& limits);
  // Has every connection say what is new to say.
  void wake();
  const LoopCounters& counters() const { return counters_; }
  // Why the loop has ended by itself; empty while it runs.
  std::string trouble() const;

 private:
  EventLoop(ServerState& state, const Clock& clock, std::vector<Listening> listening, OnAccept accepted);
  void run(const std::function<void(Result<>)>& started);
  Result<> serve(Ring& ring);
  Result<> arm(Ring& ring);
  Result<> arm_listeners(Ring& ring);
  void complete(std::uint64_t what, int result, unsigned flags);
  void complete_accept(std::size_t listener, int result);
  void take_inbox();
  void look_at_clock();
  void touch(ClientConnection& connection);
  void sweep();

  ServerState& state_;
  const Clock& clock_;
  const std::vector<Listening> listening_;
  const OnAccept accepted_;
  UniqueFd bell_;
  std::uint64_t bell_count_ = 0;  // read into
  bool bell_armed_ = false;
  std::vector<bool> listener_armed_;
  MonoTime accept_again_{};  // out of descriptors: not before
  MonoTime now_{};
  MonoTime looked_{};
  std::unordered_map<ClientConnection*, std::unique_ptr<ClientConnection>> connections_;
  std::vector<ClientConnection*> touched_;  // may have something to submit
  LoopCounters counters_;

  mutable std::mutex mutex_;
  std::vector<Accepted> inbox_;
  ConnectionLimits limits_;
  std::string trouble_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace tidepool::pool::server
