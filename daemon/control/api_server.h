// The admin API on a unix socket: HTTP/1.1 + JSON. One thread accepts, reads and writes; a few answer.
//
// What a client can do to the agent is bounded: connections, header and body sizes, the time to send a request and to
// take the answer, and requests waiting for a worker. Freezing, health and version have a worker of their own.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "base/result.h"
#include "daemon/control/agent_service.h"
#include "service/unix_listener.h"

namespace tidepool::daemon {

struct ApiServerOptions {
  std::string socket;
  std::string group = "tidepool";
  std::string audit_log;  // empty: to the log
  unsigned workers = 2;
  unsigned max_connections = 64;
  std::size_t max_waiting = 64;  // requests that wait for a worker
  std::size_t max_header = 8 << 10;
  std::size_t max_body = 64 << 10;
  // To send a whole request, to be answered, and to take the whole answer: each on its own.
  std::chrono::milliseconds request_timeout{std::chrono::seconds(10)};

  static ApiServerOptions from(const Config& config);
};

struct ApiServerCounters {
  std::uint64_t connections = 0;
  std::uint64_t turned_away = 0;  // beyond max_connections
  std::uint64_t requests = 0;
  std::uint64_t cut_off = 0;     // slow or malformed clients
  std::uint64_t overloaded = 0;  // 503: no room to wait for a worker
};

class ApiServer {
 public:
  // Answers when this returns. `service` must outlive the server. Whoever connected to `listener` before is answered
  // too.
  static Result<std::unique_ptr<ApiServer>> start(const ApiServerOptions& options, UnixListener listener,
                                                  AgentService& service);
  // With a listener of its own, whose errors are those of UnixListener.
  static Result<std::unique_ptr<ApiServer>> start(const ApiServerOptions& options, AgentService& service);
  // Stops accepting, closes connections, waits for calls of the service that are running.
  ~ApiServer();

  // Thread-safe.
  ApiServerCounters counters() const;
  Result<> reopen_audit_log();

 private:
  struct State;
  explicit ApiServer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace tidepool::daemon
