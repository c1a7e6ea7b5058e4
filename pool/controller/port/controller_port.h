// The way to the controller, for those who ask it: memory servers and agents.
#pragma once

#include <memory>

#include "base/result.h"
#include "pool/controller/core/requests.h"
#include "service/http/tls.h"

namespace tidepool::pool::controller {

// One call at a time, except stop().
class ControllerPort {
 public:
  virtual ~ControllerPort() = default;
  // Waits for the answer, with an end. Requests are such that they may be carried out twice. A Refusal is an answer.
  // Errors: nobody answers, or nobody who leads; whoever answers is no controller, or does not take us for what we are.
  virtual Result<Answer> call(const Request& request) = 0;
  // Any thread: the call that runs ends soon, all later ones at once.
  virtual void stop() = 0;
};

// By HTTP, to one of several controllers of which one leads: "unix:/path", "https://host:port", "http://host:port".
// Connects to nobody yet. Errors: an endpoint that makes no sense, https without the files that it needs.
Result<std::unique_ptr<ControllerPort>> make_http_port(std::vector<std::string> endpoints, http::TlsFiles tls,
                                                       std::string user_agent);

// What the answer should have been, or why it is not: a Refusal as an error with its message, arithmetic and remedy.
template <class Wanted>
Result<Wanted> expect(Result<Answer> answer);

// Of a Refusal: its code; of anything else none.
Error error_of(const Refusal& refusal);

template <class Wanted>
Result<Wanted> expect(Result<Answer> answer) {
  if (!answer) return Failure{answer.error()};
  if (auto* wanted = std::get_if<Wanted>(&*answer)) return std::move(*wanted);
  if (const auto* refusal = std::get_if<Refusal>(&*answer)) return Failure{error_of(*refusal)};
  return failure(std::errc::protocol_error, "ask", "the pool controller", "it answered something else");
}

}  // namespace tidepool::pool::controller
