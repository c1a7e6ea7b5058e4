// What a pool controller exports in Prometheus' text format.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pool/controller/driver.h"
#include "service/http/server.h"

namespace prometheus {
struct MetricFamily;
}

namespace tidepool::pool::controller {

enum class ControllerMetricKind : std::uint8_t { kGauge, kCounter, kHistogram };

struct ControllerMetric {
  std::string_view name;
  ControllerMetricKind kind;
  std::string_view labels;  // "state"; empty when none
  std::string_view help;
};
// In the order of exposition: docs/pool-controller.md is held against it.
std::span<const ControllerMetric> controller_metric_catalogue();

// Of the pool, as one that leads sees it.
struct PoolView {
  StatusAnswer status;
  std::vector<ServerView> servers;
  std::vector<VmView> vms;
};

struct ControllerView {
  std::string name;
  ControllerState state;
  ControllerFigures figures;
  http::ServerCounters api;
  std::optional<PoolView> pool;  // absent: it does not lead
};

// Asks the controller for what it knows, a page at a time.
std::optional<PoolView> view_of_pool(Controller& controller);
std::vector<prometheus::MetricFamily> controller_metric_families(const ControllerView& view);

}  // namespace tidepool::pool::controller
