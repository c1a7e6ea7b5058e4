// Every metric that the agent exports, by name: the exporter, docs/metrics.md, the dashboard and the alert rules are
// held against this list.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace tidepool::telemetry {

enum class MetricKind : std::uint8_t { kGauge, kCounter, kHistogram };

struct MetricDescription {
  std::string_view name;  // with the prefix
  MetricKind kind;
  std::string_view labels;  // "vm,state"; empty when none
  std::string_view help;
};

// In the order of exposition. Static storage.
std::span<const MetricDescription> metric_catalogue();
std::string_view word(MetricKind kind);  // "gauge", "counter", "histogram", as the exposition format says it

}  // namespace tidepool::telemetry
