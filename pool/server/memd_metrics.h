// What a memory server exports in Prometheus' text format.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pool/server/registration.h"
#include "pool/server/server.h"

namespace prometheus {
struct MetricFamily;
}

namespace tidepool::pool::server {

struct MemdMetric {
  std::string_view name;
  bool counter;
  std::string_view labels;  // "state"; empty when none
  std::string_view help;
};

// In the order of exposition: docs/memory-servers.md is held against it.
std::span<const MemdMetric> memd_metric_catalogue();
// `registration`: where there is a controller.
std::vector<prometheus::MetricFamily> memd_metric_families(const ServerFigures& figures, const MemdConfig& config,
                                                           const std::optional<RegistrationFigures>& registration);

}  // namespace tidepool::pool::server
