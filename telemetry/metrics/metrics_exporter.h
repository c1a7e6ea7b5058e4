// The agent's metrics in Prometheus' text format: a snapshot is asked for at each scrape and turned into series.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "telemetry/metrics/metrics_snapshot.h"

namespace tidepool {
class FamiliesEndpoint;
}

namespace tidepool::telemetry {

// The exposition of one snapshot, as the endpoint would send it.
std::string render_text(const MetricsSnapshot& snapshot);

// Serves GET /metrics over HTTP on one address, with two threads of its own; a client that stalls is dropped after some
// seconds.
class MetricsEndpoint {
 public:
  // `address` is "127.0.0.1:9842", "[::1]:9842" or "localhost:9842"; port 0 lets the kernel choose. A bare port is
  // refused: it would listen everywhere. `snapshot` is called on the endpoint's threads, possibly on two at once, until
  // the endpoint is destroyed; it must not throw and should answer within milliseconds. Errors: invalid_argument,
  // address_in_use and whatever bind(2) said.
  static Result<std::unique_ptr<MetricsEndpoint>> serve(const std::string& address,
                                                        std::function<MetricsSnapshot()> snapshot);

  // Waits for scrapes in progress.
  ~MetricsEndpoint();
  MetricsEndpoint(const MetricsEndpoint&) = delete;
  MetricsEndpoint& operator=(const MetricsEndpoint&) = delete;

  int port() const;

 private:
  explicit MetricsEndpoint(std::unique_ptr<FamiliesEndpoint> endpoint);
  std::unique_ptr<FamiliesEndpoint> endpoint_;
};

}  // namespace tidepool::telemetry
