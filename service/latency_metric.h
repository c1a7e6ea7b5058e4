// A latency histogram as Prometheus has them, in seconds.
#pragma once

#include "base/latency_histogram.h"

namespace prometheus {
struct ClientMetric;
}

namespace tidepool {

void set_latencies(prometheus::ClientMetric& metric, const LatencyHistogram::Snapshot& snapshot);

}  // namespace tidepool
