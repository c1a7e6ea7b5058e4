// Serves metrics in Prometheus' text format, whoever counts them.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"

namespace prometheus {
struct MetricFamily;
}

namespace tidepool {

// Serves GET /metrics over HTTP on one address, with two threads of its own; a client that stalls is dropped after some
// seconds.
class FamiliesEndpoint {
 public:
  // `address` is "127.0.0.1:9842", "[::1]:9842" or "localhost:9842"; port 0 lets the kernel choose. A bare port is
  // refused: it would listen everywhere. `families` is called on the endpoint's threads, possibly on two at once, until
  // the endpoint is destroyed; it must not throw and should answer within milliseconds. `key` names the setting to
  // change when the address cannot be had. Errors: invalid_argument, address_in_use and whatever bind(2) said.
  static Result<std::unique_ptr<FamiliesEndpoint>> serve(
      const std::string& address, const std::string& key,
      std::function<std::vector<prometheus::MetricFamily>()> families);

  // Waits for scrapes in progress.
  ~FamiliesEndpoint();
  FamiliesEndpoint(const FamiliesEndpoint&) = delete;
  FamiliesEndpoint& operator=(const FamiliesEndpoint&) = delete;

  int port() const;

 private:
  struct Impl;
  explicit FamiliesEndpoint(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tidepool
