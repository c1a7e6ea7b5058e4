// HTTP/1.1 + JSON for programs that serve: on a unix socket, over TCP with mutual TLS, or both. One thread accepts,
// reads and writes; a few answer.
//
// What a client can do is bounded: connections, connections whose peer is not proven yet, header and body sizes, the
// time for the handshake, to send a request and to take the answer, and requests waiting for a worker. Urgent routes
// have a worker of their own. Changing requests are in the audit log.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "service/http/message.h"
#include "service/http/tls.h"
#include "service/unix_listener.h"

namespace tidepool::http {

// What the owner of a server gives it. Called by several threads at once.
class Handler {
 public:
  struct Route {
    bool changes = false;  // recorded in the audit log
    bool urgent = false;   // answered by a thread of its own, so that slow work never delays it
    // They hold secrets: the audit log leaves them out.
    bool hide_body = false;    // of the request
    bool hide_answer = false;  // of an answer below 300
    std::size_t max_body = 0;  // of a request; 0: options.max_body
  };

  virtual ~Handler() = default;

  // On the server's own thread, for every request: must not wait.
  virtual Route route(std::string_view method, std::string_view target) const = 0;
  // On a worker's thread. Does not throw; may take as long as it must, but the client is told timed_out at some time.
  virtual Response answer(const Request& request) = 0;
  // The audit log cannot be written, and why; empty: it can again.
  virtual void audit_trouble(std::string_view) {}
};

struct ServerOptions {
  std::string who = "agent";  // who serves, for texts: "the agent did not answer in time"
  std::string socket;         // unix; empty: none
  std::string group = "tidepool";
  std::string address;  // "host:port" for mutual TLS ("[::]:9843"; port 0: any); empty: none
  TlsFiles tls;
  std::string audit_log;  // empty: to the log
  unsigned workers = 2;
  unsigned max_connections = 64;  // of both kinds together
  unsigned max_unproven = 32;     // TLS connections whose handshake is not done; of max_connections
  std::size_t max_waiting = 64;   // requests that wait for a worker
  std::size_t max_header = 8 << 10;
  std::size_t max_body = 64 << 10;
  // For the TLS handshake, to send a whole request (from the end of the one before), to be answered, and to take the
  // whole answer: each on its own.
  std::chrono::milliseconds request_timeout{std::chrono::seconds(10)};
};

struct ServerCounters {
  std::uint64_t connections = 0;
  std::uint64_t turned_away = 0;  // beyond max_connections or max_unproven
  std::uint64_t unproven = 0;     // TLS handshakes that failed
  std::uint64_t requests = 0;
  std::uint64_t cut_off = 0;     // slow or malformed clients
  std::uint64_t overloaded = 0;  // 503: no room to wait for a worker
};

class Server {
 public:
  // Answers when this returns. `handler` must outlive the server. With a `listener` it serves on that one instead of
  // binding options.socket: whoever connected to it before is answered too. Errors: those of UnixListener, of the TLS
  // files, of binding the address; neither socket nor address.
  static Result<std::unique_ptr<Server>> start(const ServerOptions& options, Handler& handler,
                                               std::optional<UnixListener> listener = std::nullopt);
  // Stops accepting, closes connections, waits for calls of the handler that are running.
  ~Server();

  // "127.0.0.1:9843", with the port that it got; empty without TLS.
  const std::string& address() const;

  // Thread-safe.
  ServerCounters counters() const;
  Result<> reopen_audit_log();
  // Reads the certificates again: for connections from now on. On an error the old ones stay.
  Result<> reload_tls();

 private:
  struct State;
  explicit Server(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace tidepool::http
