// One request at a time to the agent's unix socket.
#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include "base/result.h"

namespace tidepool::cli {

struct Reply {
  unsigned status = 0;  // HTTP
  std::string body;
};

class ApiClient {
 public:
  ApiClient(std::string socket, std::chrono::milliseconds timeout) : socket_(std::move(socket)), timeout_(timeout) {}

  // Connects, asks, and reads the whole answer within the time-out. Errors: timed_out; everything else means that no
  // agent answers as it should.
  Result<Reply> request(std::string_view method, std::string_view target, std::string_view body = {}) const;

  const std::string& socket() const { return socket_; }

 private:
  std::string socket_;
  std::chrono::milliseconds timeout_;
};

// For a path segment or a query value.
std::string percent_encoded(std::string_view text);

}  // namespace tidepool::cli
