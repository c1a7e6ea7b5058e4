// A snapshot as metric families of prometheus-cpp. Internal to telemetry/metrics/.
#pragma once

#include <vector>

#include "telemetry/metrics/metrics_snapshot.h"

namespace prometheus {
struct MetricFamily;
}

namespace tidepool::telemetry {

// All families of metric_catalogue(), in its order; a family without series is present and empty.
std::vector<prometheus::MetricFamily> metric_families(const MetricsSnapshot& snapshot);

}  // namespace tidepool::telemetry
