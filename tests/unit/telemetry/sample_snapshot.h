// A snapshot in which every metric has at least one series.
#pragma once

#include "telemetry/metrics/metrics_snapshot.h"

namespace tidepool::telemetry {

MetricsSnapshot sample_snapshot();

}  // namespace tidepool::telemetry
