// HTTP/1.1 requests, one at a time, to one of several endpoints that serve the same: over a unix socket, TCP, or TCP
// with mutual TLS. Connections are kept for the next request.
//
// Blocking, on the caller's thread; no thread of its own. One call at a time (not thread-safe), except stop(). Every
// wait has an end, and so has every answer's size.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "service/http/endpoint.h"
#include "service/http/tls.h"

namespace tidepool::http {

struct ClientOptions {
  std::vector<std::string> endpoints;  // at least one; tried in this order, beginning with the last that answered
  TlsFiles tls;                        // for https endpoints
  std::string user_agent = "tidepool";
  std::chrono::milliseconds connect_timeout{std::chrono::seconds(2)};  // per endpoint, with the TLS handshake
  std::chrono::milliseconds timeout{std::chrono::seconds(10)};         // for a whole request, over all endpoints
  std::size_t max_answer = 16 << 20;
  // Requests may be carried out twice: then one whose connection broke before an answer came is sent to the next
  // endpoint whatever its method. Otherwise only GET is.
  bool repeatable = false;
};

struct Answer {
  unsigned status = 0;
  std::string body;
  std::string etag;
  std::string location;
  std::optional<std::string> leader = std::nullopt;  // see Response::leader
};

class Client {
 public:
  // Connects to nobody. Errors: no endpoint, one that makes no sense, https without TLS files.
  static Result<std::unique_ptr<Client>> make(const ClientOptions& options);
  ~Client();

  // An answer of whatever status. An endpoint that cannot be reached, or that says that it does not lead (503 with
  // Tidepool-Leader), is passed over: the leader that it names when that is one of the endpoints, else the next; each
  // at most twice. When nobody leads, the last answer of such is returned.
  // Errors: timed_out; operation_canceled (stop() was called); message_size (answer too large); connection_aborted (the
  // connection ended early: the request may have been carried out); permission_denied (the server is not who it should
  // be, or it does not take our certificate; see the text); else why the last endpoint could not be reached.
  Result<Answer> request(std::string_view method, std::string_view target, std::string_view body = {});
  Result<Answer> request(std::string_view method, std::string_view target, std::string_view body,
                         std::chrono::milliseconds timeout);

  // An answer without an end (etcd's watch): `piece` has its body as it comes, in whatever portions, until it returns
  // false (the result is then empty), the server ends it, or `silence` passes without a byte (timed_out). Uses a
  // connection of its own that is closed at the end. A status other than 200 is a protocol_error with the body's
  // beginning in the text. `piece` does not call this client.
  Result<> follow(std::string_view method, std::string_view target, std::string_view body,
                  std::chrono::milliseconds silence, const std::function<bool(std::string_view)>& piece);

  // Any thread. The call that runs ends soon, all later ones at once, with operation_canceled.
  void stop();

  // That answered last; before: the first.
  std::string endpoint() const;

 private:
  struct State;
  explicit Client(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace tidepool::http
