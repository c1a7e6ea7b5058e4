#include "service/latency_metric.h"

#include <prometheus/client_metric.h>

namespace tidepool {
namespace {

// Exported bounds: two per power of two where latencies matter, then one, up to 137 s. Each is a bound of
// LatencyHistogram, so the counts are exact.
constexpr unsigned kFirstExponent = 10;
constexpr unsigned kLastFineExponent = 30;
constexpr unsigned kLastExponent = 37;

}  // namespace

void set_latencies(prometheus::ClientMetric& metric, const LatencyHistogram::Snapshot& snapshot) {
  prometheus::ClientMetric::Histogram& result = metric.histogram;
  result.sample_count = snapshot.total;
  result.sample_sum = static_cast<double>(snapshot.sum_ns) * 1e-9;
  unsigned bucket = 0;
  std::uint64_t below = 0;
  const auto add_bound = [&](std::uint64_t bound_ns) {
    for (; bucket < LatencyHistogram::bucket_of(bound_ns); ++bucket) below += snapshot.counts[bucket];
    result.bucket.push_back({below, static_cast<double>(bound_ns) * 1e-9});
  };
  for (unsigned exponent = kFirstExponent; exponent <= kLastExponent; ++exponent) {
    add_bound(1ull << exponent);
    if (exponent < kLastFineExponent) add_bound(3ull << (exponent - 1));
  }
}

}  // namespace tidepool
