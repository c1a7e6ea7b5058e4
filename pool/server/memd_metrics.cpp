#include "pool/server/memd_metrics.h"

#include <prometheus/metric_family.h>

#include <array>
#include <map>
#include <utility>

namespace tidepool::pool::server {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;

constexpr std::array kCatalogue{
    MemdMetric{"tidepool_memd_info", false, "name,failure_domain,version", "Always 1; which server it is."},
    MemdMetric{"tidepool_memd_memory_bytes", false, "state",
               "Donated memory: free, lent, or released and not yet zeroed (scrubbing)."},
    MemdMetric{"tidepool_memd_marks_bytes", false, "", "Memory set aside for versions and tags of slots."},
    MemdMetric{"tidepool_memd_stored_pages", false, "", "Slots with content."},
    MemdMetric{"tidepool_memd_slices", false, "", "Slices that exist."},
    MemdMetric{"tidepool_memd_holders", false, "", "Holders that have a slice."},
    MemdMetric{"tidepool_memd_draining", false, "", "1 while the server makes no new slices because it wants to end."},
    MemdMetric{"tidepool_memd_slices_created_total", true, "", "Slices made."},
    MemdMetric{"tidepool_memd_slices_released_total", true, "", "Slices given back."},
    MemdMetric{"tidepool_memd_connections", false, "", "Connections now."},
    MemdMetric{"tidepool_memd_connections_total", true, "", "Connections accepted."},
    MemdMetric{"tidepool_memd_connections_refused_total", true, "", "Connections beyond a limit, closed at once."},
    MemdMetric{"tidepool_memd_connections_cut_total", true, "reason",
               "Connections ended by the server: bad_frame, slow (answers not read), silent (no token in time)."},
    MemdMetric{"tidepool_memd_bad_tokens_total", true, "", "Attempts to attach whose proof was wrong."},
    MemdMetric{"tidepool_memd_requests_total", true, "type", "Requests, by their type."},
    MemdMetric{"tidepool_memd_refused_total", true, "code",
               "Requests and pages of requests that were answered with something else than success."},
    MemdMetric{"tidepool_memd_pages_total", true, "op", "Pages read, written and discarded."},
    MemdMetric{"tidepool_memd_received_bytes_total", true, "", "Bytes received from clients."},
    MemdMetric{"tidepool_memd_sent_bytes_total", true, "", "Bytes sent to clients."},
    MemdMetric{"tidepool_memd_registered", false, "", "With a controller: 1 while it knows this server, else 0."},
    MemdMetric{"tidepool_memd_controller_drains", false, "",
               "With a controller: 1 while it moves what this server has to others, else 0."},
    MemdMetric{"tidepool_memd_controller_silent_seconds", false, "",
               "With a controller: time since its last answer, or since the start."},
    MemdMetric{"tidepool_memd_controller_failures_total", true, "",
               "With a controller: calls that it did not answer, or refused."},
    MemdMetric{"tidepool_memd_freed_slices_total", true, "", "With a controller: slices that it had freed."},
};

constexpr std::array<std::pair<protocol::MessageType, const char*>, 6> kTypes{
    {{protocol::MessageType::kHello, "hello"},
     {protocol::MessageType::kAttach, "attach"},
     {protocol::MessageType::kRead, "read"},
     {protocol::MessageType::kWrite, "write"},
     {protocol::MessageType::kDiscard, "discard"},
     {protocol::MessageType::kRelease, "release"}}};

constexpr std::array<std::pair<protocol::ErrorCode, const char*>, 14> kCodes{
    {{protocol::ErrorCode::kMalformed, "malformed"},
     {protocol::ErrorCode::kNoVersion, "version"},
     {protocol::ErrorCode::kDenied, "denied"},
     {protocol::ErrorCode::kNoSuchSlice, "no_such_slice"},
     {protocol::ErrorCode::kStaleEpoch, "stale_epoch"},
     {protocol::ErrorCode::kWrongBoot, "wrong_boot"},
     {protocol::ErrorCode::kExpired, "expired"},
     {protocol::ErrorCode::kOverloaded, "overloaded"},
     {protocol::ErrorCode::kFull, "full"},
     {protocol::ErrorCode::kDrainingNow, "draining"},
     {protocol::ErrorCode::kOutOfRange, "out_of_range"},
     {protocol::ErrorCode::kStaleVersion, "stale_version"},
     {protocol::ErrorCode::kEmpty, "empty"},
     {protocol::ErrorCode::kUnsupported, "unsupported"}}};

using Labels = std::vector<ClientMetric::Label>;

// Series by the name of their metric.
class Series {
 public:
  void add(std::string_view name, std::uint64_t value, Labels labels = {}) {
    ClientMetric metric;
    metric.label = std::move(labels);
    metric.counter.value = metric.gauge.value = static_cast<double>(value);
    series_[name].push_back(std::move(metric));
  }
  std::vector<ClientMetric> take(std::string_view name) { return std::move(series_[name]); }

 private:
  std::map<std::string_view, std::vector<ClientMetric>> series_;
};

void add_memory(Series& series, const SliceFigures& slices) {
  series.add("tidepool_memd_memory_bytes", saturating_sub(slices.capacity, slices.lent + slices.scrubbing).value,
             {{"state", "free"}});
  series.add("tidepool_memd_memory_bytes", slices.lent.value, {{"state", "lent"}});
  series.add("tidepool_memd_memory_bytes", slices.scrubbing.value, {{"state", "scrubbing"}});
  series.add("tidepool_memd_marks_bytes", slices.marks.value);
  series.add("tidepool_memd_stored_pages", slices.stored_pages);
  series.add("tidepool_memd_slices", slices.slices);
  series.add("tidepool_memd_holders", slices.holders);
  series.add("tidepool_memd_slices_created_total", slices.created);
  series.add("tidepool_memd_slices_released_total", slices.released);
}

void add_connections(Series& series, const ServerFigures& figures) {
  series.add("tidepool_memd_draining", figures.draining ? 1 : 0);
  series.add("tidepool_memd_connections", figures.connections);
  series.add("tidepool_memd_connections_total", figures.accepted);
  series.add("tidepool_memd_connections_refused_total", figures.turned_away);
  series.add("tidepool_memd_connections_cut_total", figures.bad_frames, {{"reason", "bad_frame"}});
  series.add("tidepool_memd_connections_cut_total", figures.cut_slow, {{"reason", "slow"}});
  series.add("tidepool_memd_connections_cut_total", figures.cut_silent, {{"reason", "silent"}});
  series.add("tidepool_memd_bad_tokens_total", figures.bad_tokens);
}

void add_requests(Series& series, const ServerFigures& figures) {
  for (const auto& [type, name] : kTypes)
    series.add("tidepool_memd_requests_total", figures.requests.at(static_cast<std::size_t>(type)), {{"type", name}});
  for (const auto& [code, name] : kCodes)
    series.add("tidepool_memd_refused_total", figures.answers.at(static_cast<std::size_t>(code)), {{"code", name}});
  series.add("tidepool_memd_pages_total", figures.pages_read, {{"op", "read"}});
  series.add("tidepool_memd_pages_total", figures.pages_written, {{"op", "write"}});
  series.add("tidepool_memd_pages_total", figures.pages_discarded, {{"op", "discard"}});
  series.add("tidepool_memd_received_bytes_total", figures.bytes_received);
  series.add("tidepool_memd_sent_bytes_total", figures.bytes_sent);
}

}  // namespace

std::span<const MemdMetric> memd_metric_catalogue() {
  return kCatalogue;
}

std::vector<MetricFamily> memd_metric_families(const ServerFigures& figures, const MemdConfig& config,
                                               const std::optional<RegistrationFigures>& registration) {
  Series series;
  series.add("tidepool_memd_info", 1,
             {{"name", config.name}, {"failure_domain", config.failure_domain}, {"version", TIDEPOOL_VERSION}});
  add_memory(series, figures.slices);
  add_connections(series, figures);
  add_requests(series, figures);
  if (registration) {
    series.add("tidepool_memd_registered", registration->registered ? 1 : 0);
    series.add("tidepool_memd_controller_drains", registration->draining ? 1 : 0);
    series.add(
        "tidepool_memd_controller_silent_seconds",
        static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::seconds>(registration->silent).count()));
    series.add("tidepool_memd_controller_failures_total", registration->failures);
    series.add("tidepool_memd_freed_slices_total", registration->freed);
  }
  std::vector<MetricFamily> families;
  families.reserve(kCatalogue.size());
  for (const MemdMetric& each : kCatalogue) {
    auto metrics = series.take(each.name);
    if (metrics.empty()) continue;
    families.push_back({std::string(each.name), std::string(each.help),
                        each.counter ? prometheus::MetricType::Counter : prometheus::MetricType::Gauge,
                        std::move(metrics)});
  }
  return families;
}

}  // namespace tidepool::pool::server
