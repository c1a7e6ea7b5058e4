// One request at a time to whoever serves an API: the agent on its unix socket, or the pool's controllers.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "service/http/target.h"

namespace tidepool::http {
class Client;
}

namespace tidepool::cli {

using http::percent_encoded;  // for a path segment or a query value

struct Reply {
  unsigned status = 0;  // HTTP
  std::string body;
};

// Whom to ask, and how messages call it.
struct Peer {
  std::string who = "agent";
  std::string program = "tidepoold";   // that serves there
  std::vector<std::string> endpoints;  // "unix:/path", "https://host:port"; see service/http/endpoint.h
  std::string identity;                // for https: DIR/NAME of DIR/NAME.pem, DIR/NAME.key and DIR/ca.pem
  std::chrono::milliseconds timeout{10'000};
};

class ApiClient {
 public:
  explicit ApiClient(Peer peer);
  ~ApiClient();
  ApiClient(ApiClient&&) noexcept;

  // Connects, asks, and reads the whole answer within the time-out. Errors: timed_out; invalid_argument: the peer makes
  // no sense; everything else means that nobody answers as he should.
  Result<Reply> request(std::string_view method, std::string_view target, std::string_view body = {});

  const Peer& peer() const { return peer_; }
  // For messages: "/run/tidepool/agent.sock", "https://controller:9843".
  std::string where() const;

 private:
  Peer peer_;
  std::unique_ptr<http::Client> client_;  // from the first request on
};

}  // namespace tidepool::cli
