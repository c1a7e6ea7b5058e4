#include "telemetry/metrics/metrics_exporter.h"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <utility>
#include <vector>

#include "service/metrics_endpoint.h"
#include "telemetry/metrics/metric_families.h"

namespace tidepool::telemetry {

std::string render_text(const MetricsSnapshot& snapshot) {
  const prometheus::TextSerializer serializer;
  return serializer.Serialize(metric_families(snapshot));
}

MetricsEndpoint::MetricsEndpoint(std::unique_ptr<FamiliesEndpoint> endpoint) : endpoint_(std::move(endpoint)) {}
MetricsEndpoint::~MetricsEndpoint() = default;

Result<std::unique_ptr<MetricsEndpoint>> MetricsEndpoint::serve(const std::string& address,
                                                                std::function<MetricsSnapshot()> snapshot) {
  auto endpoint = FamiliesEndpoint::serve(address, "api.metrics",
                                          [snapshot = std::move(snapshot)] { return metric_families(snapshot()); });
  if (!endpoint) return Failure{endpoint.error()};
  return std::unique_ptr<MetricsEndpoint>(new MetricsEndpoint(std::move(*endpoint)));
}

int MetricsEndpoint::port() const {
  return endpoint_->port();
}

}  // namespace tidepool::telemetry
