#include "telemetry/metrics/metric_families.h"

#include <prometheus/metric_family.h>

#include <array>
#include <cassert>
#include <initializer_list>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "base/units.h"
#include "service/latency_metric.h"
#include "telemetry/metrics/metric_catalogue.h"

namespace tidepool::telemetry {
namespace {

using prometheus::ClientMetric;
using Labels = std::vector<ClientMetric::Label>;

constexpr std::size_t kMaxLabelBytes = 128;
// 1,000 VMs with eight states each, and half as much again: what goes beyond is dropped and counted.
constexpr std::size_t kMaxSeriesPerFamily = 12'000;

// Printable ASCII passes: a name chosen by a tenant must neither break the exposition nor a terminal that shows it.
std::string bounded(std::string_view value) {
  std::string result(value.substr(0, kMaxLabelBytes));
  for (char& c : result) {
    if (c < 0x20 || c > 0x7e) c = '_';
  }
  return result;
}

Labels labels(std::initializer_list<std::pair<const char*, std::string_view>> pairs) {
  Labels result;
  result.reserve(pairs.size());
  for (const auto& [name, value] : pairs) result.push_back({name, bounded(value)});
  return result;
}

double as_double(Bytes bytes) {
  return static_cast<double>(bytes.value);
}
double in_seconds(std::chrono::nanoseconds time) {
  return std::chrono::duration<double>(time).count();
}

class Families {
 public:
  Families() {
    for (const MetricDescription& metric : metric_catalogue()) {
      prometheus::MetricFamily family;
      family.name = metric.name;
      family.help = metric.help;
      family.type = metric.kind == MetricKind::kGauge     ? prometheus::MetricType::Gauge
                    : metric.kind == MetricKind::kCounter ? prometheus::MetricType::Counter
                                                          : prometheus::MetricType::Histogram;
      index_.emplace(metric.name, families_.size());
      families_.push_back(std::move(family));
      seen_.emplace_back();
    }
  }

  void gauge(std::string_view name, double value, Labels of = {}) {
    if (ClientMetric* series = add(name, std::move(of))) series->gauge.value = value;
  }
  void counter(std::string_view name, double value, Labels of = {}) {
    if (ClientMetric* series = add(name, std::move(of))) series->counter.value = value;
  }
  void histogram(std::string_view name, const LatencyHistogram::Snapshot& value, Labels of = {}) {
    if (ClientMetric* series = add(name, std::move(of))) set_latencies(*series, value);
  }

  std::vector<prometheus::MetricFamily> finish() && {
    gauge("tidepool_metrics_dropped_series", static_cast<double>(dropped_));
    return std::move(families_);
  }

 private:
  // Two series with the same labels make a scraper refuse the whole exposition, so the first one wins. Null when
  // dropped.
  ClientMetric* add(std::string_view name, Labels of) {
    const auto found = index_.find(name);
    assert(found != index_.end() && "a metric that is exported stands in the catalogue");
    if (found == index_.end()) return nullptr;
    prometheus::MetricFamily& family = families_[found->second];
    if (family.metric.size() >= kMaxSeriesPerFamily || !seen_[found->second].insert(of).second) {
      ++dropped_;
      return nullptr;
    }
    ClientMetric series;
    series.label = std::move(of);
    return &family.metric.emplace_back(std::move(series));
  }

  std::vector<prometheus::MetricFamily> families_;
  std::vector<std::set<Labels>> seen_;
  std::map<std::string_view, std::size_t> index_;
  std::uint64_t dropped_ = 0;
};

void add_host(Families& out, const HostSample& host) {
  out.gauge("tidepool_build_info", 1, labels({{"version", host.version}}));
  out.gauge("tidepool_config_last_reload_successful", host.config_last_reload_successful ? 1 : 0);
  out.gauge("tidepool_host_promised_bytes", as_double(host.promised));
  const auto overhead = [&](const char* component, Bytes bytes) {
    out.gauge("tidepool_host_overhead_bytes", as_double(bytes), labels({{"component", component}}));
  };
  overhead("pool", host.overhead.pool);
  overhead("kernel", host.overhead.kernel);
  overhead("metadata", host.overhead.metadata);
  overhead("frames", host.overhead.frames);
  overhead("agent", host.overhead.agent);
  overhead("keeper", host.overhead.keeper);
  if (host.kernel_tier_fault.count() != 0) {
    out.gauge("tidepool_kernel_tier_fault_seconds", in_seconds(host.kernel_tier_fault));
    out.gauge("tidepool_kernel_tier_store_seconds", in_seconds(host.kernel_tier_store));
  }
  out.counter("tidepool_kernel_tier_cpu_seconds_total", in_seconds(host.kernel_tier_cpu));
  out.gauge("tidepool_host_evacuation_shortfall_bytes", as_double(host.evacuation_shortfall));
  out.gauge("tidepool_host_pressure_level", host.pressure_level);
  for (const DecisionCount& of : host.decisions)
    out.counter("tidepool_decisions_total", static_cast<double>(of.count),
                labels({{"action", of.action}, {"reason", of.reason}}));
  for (const IntegrityFailureCount& of : host.integrity_failures)
    out.counter("tidepool_integrity_failures_total", static_cast<double>(of.count), labels({{"cause", of.cause}}));
  out.gauge("tidepool_holder_usable", host.holder_usable ? 1 : 0, labels({{"holder", host.holder}}));
  out.counter("tidepool_holder_losses_total", static_cast<double>(host.holder_losses),
              labels({{"holder", host.holder}}));
  for (const DroppedInputCount& of : host.policy_input_dropped)
    out.counter("tidepool_policy_input_dropped_total", static_cast<double>(of.count), labels({{"cause", of.cause}}));
  for (const AdoptionCount& of : host.adoptions)
    out.counter("tidepool_adoptions_total", static_cast<double>(of.count),
                labels({{"result", of.result}, {"reason", of.reason}}));
  out.histogram("tidepool_adoption_stop_seconds", host.adoption_stop);
  out.histogram("tidepool_policy_tick_seconds", host.policy_tick);
  for (const TrackerSample& of : host.trackers) {
    out.gauge("tidepool_tracker_usable", of.usable ? 1 : 0, labels({{"tracker", of.name}}));
    out.gauge("tidepool_tracker_used", of.used ? 1 : 0, labels({{"tracker", of.name}}));
    out.counter("tidepool_tracker_cpu_seconds_total", in_seconds(of.cpu), labels({{"tracker", of.name}}));
    out.counter("tidepool_tracker_samples_total", static_cast<double>(of.samples), labels({{"tracker", of.name}}));
    out.counter("tidepool_tracker_self_check_failures_total", static_cast<double>(of.self_checks_failed),
                labels({{"tracker", of.name}}));
    out.counter("tidepool_tracker_lost_total", static_cast<double>(of.lost), labels({{"tracker", of.name}}));
    out.counter("tidepool_tracker_malformed_total", static_cast<double>(of.malformed), labels({{"tracker", of.name}}));
  }
  out.counter("tidepool_samples_dropped_total", static_cast<double>(host.dropped_samples.malformed),
              labels({{"reason", "malformed"}}));
  out.counter("tidepool_samples_dropped_total", static_cast<double>(host.dropped_samples.unknown),
              labels({{"reason", "unknown"}}));
}

void add_vm_memory(Families& out, const VmSample& vm) {
  const VmMemoryStates& memory = vm.memory;
  const std::array<std::pair<const char*, Bytes>, 8> states{{{"untouched", memory.untouched},
                                                             {"resident", memory.resident},
                                                             {"clean_copy", memory.clean_copy},
                                                             {"moving_out", memory.moving_out},
                                                             {"far", memory.far},
                                                             {"fetching", memory.fetching},
                                                             {"released", memory.released},
                                                             {"excluded", memory.excluded}}};
  for (const auto& [state, bytes] : states)
    out.gauge("tidepool_vm_memory_bytes", as_double(bytes), labels({{"vm", vm.name}, {"state", state}}));
}

void add_vm(Families& out, const VmSample& vm) {
  out.gauge("tidepool_vm_info", 1,
            labels({{"vm", vm.name},
                    {"uuid", vm.uuid},
                    {"class", vm.service_class},
                    {"mode", vm.mode},
                    {"mechanism", vm.mechanism}}));
  add_vm_memory(out, vm);
  out.gauge("tidepool_vm_guarantee_bytes", as_double(vm.guarantee), labels({{"vm", vm.name}}));
  out.gauge("tidepool_vm_guarantee_shortfall_bytes", as_double(vm.guarantee_shortfall), labels({{"vm", vm.name}}));
  out.counter("tidepool_vm_demoted_bytes_total", as_double(vm.demoted), labels({{"vm", vm.name}}));
  const auto promoted = [&](const char* cause, Bytes bytes) {
    out.counter("tidepool_vm_promoted_bytes_total", as_double(bytes), labels({{"vm", vm.name}, {"cause", cause}}));
  };
  promoted("demand", vm.promoted_demand);
  promoted("prefetch", vm.promoted_prefetch);
  promoted("restore", vm.promoted_restore);
  const auto prefetched = [&](const char* result, std::uint64_t pages) {
    out.counter("tidepool_prefetch_pages_total", static_cast<double>(pages),
                labels({{"vm", vm.name}, {"result", result}}));
  };
  prefetched("issued", vm.prefetch_issued);
  prefetched("used", vm.prefetch_used);
  prefetched("wasted", vm.prefetch_wasted);
  out.gauge("tidepool_prefetch_window_bytes", static_cast<double>(vm.prefetch_window * kPageSize),
            labels({{"vm", vm.name}}));
  const auto faults = [&](const char* kind, std::uint64_t count) {
    out.counter("tidepool_vm_faults_total", static_cast<double>(count), labels({{"vm", vm.name}, {"kind", kind}}));
  };
  faults("far", vm.faults_far);
  faults("first", vm.faults_first);
  faults("write", vm.faults_write);
  faults("minor", vm.faults_minor);
  for (const VmEventCount& event : vm.pager_events)
    out.counter("tidepool_vm_pager_events_total", static_cast<double>(event.count),
                labels({{"vm", vm.name}, {"kind", event.kind}}));
  out.counter("tidepool_vm_fault_stall_seconds_total", in_seconds(vm.fault_stall), labels({{"vm", vm.name}}));
  out.gauge("tidepool_vm_fault_threads", vm.fault_threads, labels({{"vm", vm.name}}));
  out.gauge("tidepool_vm_stall_budget_ratio", vm.stall_budget, labels({{"vm", vm.name}}));
  if (vm.dry_run) {
    out.gauge("tidepool_vm_dry_run_far_bytes", as_double(vm.dry_run->far), labels({{"vm", vm.name}}));
    out.gauge("tidepool_vm_dry_run_stall_ratio", vm.dry_run->stall, labels({{"vm", vm.name}}));
  }
  for (const std::string& reason : vm.blocked)
    out.gauge("tidepool_vm_blocked", 1, labels({{"vm", vm.name}, {"reason", reason}}));
}

void add_server_pool(Families& out, const ServerPoolSample& pool) {
  for (const MemoryServerSample& server : pool.servers) {
    const auto of = labels({{"server", server.name}});
    out.gauge("tidepool_memory_server_up", server.up ? 1 : 0, of);
    out.gauge("tidepool_memory_server_slices", static_cast<double>(server.slices), of);
    if (server.typical_read.count() != 0)
      out.gauge("tidepool_memory_server_read_seconds", in_seconds(server.typical_read), of);
    out.counter("tidepool_memory_server_reads_in_place_total", static_cast<double>(server.reads_in_place), of);
    out.counter("tidepool_memory_server_wrong_answers_total", static_cast<double>(server.wrong_answers), of);
    out.counter("tidepool_memory_server_restarts_total", static_cast<double>(server.restarts), of);
  }
  for (const auto& [state, count] :
       {std::pair{"whole", pool.whole_slices}, {"degraded", pool.degraded_slices}, {"lost", pool.lost_slices}})
    out.gauge("tidepool_remote_slices", static_cast<double>(count), labels({{"state", state}}));
  out.gauge("tidepool_remote_expired_slices", static_cast<double>(pool.expired_slices), {});
  out.gauge("tidepool_remote_rebuild_remaining_bytes", as_double(pool.rebuild_remaining), {});
  out.counter("tidepool_remote_rebuilt_pages_total", static_cast<double>(pool.rebuilt_pages), {});
  out.counter("tidepool_remote_failed_rebuilds_total", static_cast<double>(pool.failed_rebuilds), {});
  out.counter("tidepool_remote_lost_pages_total", static_cast<double>(pool.lost_pages), {});
  out.counter("tidepool_remote_hedged_reads_total", static_cast<double>(pool.hedges_won),
              labels({{"result", "second"}}));
  out.counter("tidepool_remote_hedged_reads_total", static_cast<double>(pool.hedges - pool.hedges_won),
              labels({{"result", "first"}}));
}

void add_fault_latency(Families& out, const std::vector<FaultLatencySample>& samples) {
  std::map<std::pair<std::string_view, std::string_view>, LatencyHistogram::Snapshot> merged;
  for (const FaultLatencySample& sample : samples) merged[{sample.tier, sample.service_class}].merge(sample.latency);
  for (const auto& [key, latency] : merged)
    out.histogram("tidepool_fault_duration_seconds", latency, labels({{"tier", key.first}, {"class", key.second}}));
}

}  // namespace

std::vector<prometheus::MetricFamily> metric_families(const MetricsSnapshot& snapshot) {
  Families out;
  add_host(out, snapshot.host);
  for (const VmSample& vm : snapshot.vms) add_vm(out, vm);
  for (const StoreSample& store : snapshot.stores) {
    out.gauge("tidepool_store_used_bytes", as_double(store.used), labels({{"store", store.name}}));
    out.gauge("tidepool_store_capacity_bytes", as_double(store.capacity), labels({{"store", store.name}}));
  }
  if (snapshot.server_pool) add_server_pool(out, *snapshot.server_pool);
  add_fault_latency(out, snapshot.fault_latency);
  return std::move(out).finish();
}

}  // namespace tidepool::telemetry
