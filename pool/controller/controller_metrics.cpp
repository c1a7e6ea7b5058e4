#include "pool/controller/controller_metrics.h"

#include <prometheus/metric_family.h>

#include <array>
#include <map>
#include <utility>

#include "base/text.h"
#include "service/latency_metric.h"

namespace tidepool::pool::controller {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using enum ControllerMetricKind;

constexpr std::size_t kMaxSeriesPerFamily = 20'000;
constexpr std::size_t kMostPages = 100;

constexpr std::array kCatalogue{
    ControllerMetric{"tidepool_controller_info", kGauge, "name,version", "Always 1; which controller it is."},
    ControllerMetric{"tidepool_controller_leader", kGauge, "", "1 while this controller leads, else 0."},
    ControllerMetric{"tidepool_controller_failing", kGauge, "", "1 while it cannot lead because of an error, else 0."},
    ControllerMetric{"tidepool_controller_leaderships_total", kCounter, "", "How often it began to lead."},
    ControllerMetric{"tidepool_controller_servers", kGauge, "state",
                     "Memory servers: up, suspect, lost; and draining, which they are besides."},
    ControllerMetric{"tidepool_controller_hosts", kGauge, "state", "Hosts with an agent: heard or silent."},
    ControllerMetric{"tidepool_controller_vms", kGauge, "", "VMs that use the pool or have bounds in it."},
    ControllerMetric{"tidepool_controller_capacity_bytes", kGauge, "domain",
                     "Memory of servers that are not lost, each replica counted."},
    ControllerMetric{"tidepool_controller_free_bytes", kGauge, "domain", "Of that, what is not leased."},
    ControllerMetric{"tidepool_controller_stranded_bytes", kGauge, "domain",
                     "Of that, what cannot be paired with memory of another failure domain."},
    ControllerMetric{"tidepool_controller_freeing_bytes", kGauge, "",
                     "Memory given back that servers have not yet confirmed as freed, each replica counted."},
    ControllerMetric{"tidepool_controller_grantable_bytes", kGauge, "",
                     "Memory that could be leased now, each slice once."},
    ControllerMetric{"tidepool_controller_buffer_bytes", kGauge, "", "Of that, what is kept ahead of grants."},
    ControllerMetric{"tidepool_controller_leased_bytes", kGauge, "tenant", "Memory leased, each slice once."},
    ControllerMetric{"tidepool_controller_share_bytes", kGauge, "tenant", "Memory that the VMs may have now."},
    ControllerMetric{"tidepool_controller_share_deficit_bytes", kGauge, "tenant",
                     "Of that, what is not leased to them yet."},
    ControllerMetric{"tidepool_controller_wanted_bytes", kGauge, "", "Memory that VMs would use if they had it."},
    ControllerMetric{"tidepool_controller_used_bytes", kGauge, "", "Live pages of VMs, each page once."},
    ControllerMetric{"tidepool_controller_slices", kGauge, "state", "Slices: held, offered or releasing."},
    ControllerMetric{"tidepool_controller_underreplicated_slices", kGauge, "",
                     "Slices that have fewer replicas than wanted."},
    ControllerMetric{"tidepool_controller_lost_slices", kGauge, "", "Slices that no server has any more."},
    ControllerMetric{"tidepool_controller_rebuild_running", kGauge, "", "Replicas that are being copied."},
    ControllerMetric{"tidepool_controller_rebuild_remaining_bytes", kGauge, "",
                     "Memory of replicas that are yet to be copied."},
    ControllerMetric{"tidepool_controller_reclaims_overdue", kGauge, "", "VMs that did not give back in time."},
    ControllerMetric{"tidepool_controller_server_up", kGauge, "server,domain",
                     "1 while the memory server sends heartbeats, else 0."},
    ControllerMetric{"tidepool_controller_server_capacity_bytes", kGauge, "server,domain", "Memory that it lends."},
    ControllerMetric{"tidepool_controller_server_leased_bytes", kGauge, "server,domain", "Of that, what is leased."},
    ControllerMetric{"tidepool_controller_server_slices_to_move", kGauge, "server,domain",
                     "Replicas that a drain has before it."},
    ControllerMetric{"tidepool_controller_vm_leased_bytes", kGauge, "tenant,host,vm",
                     "Memory leased to the VM, each slice once."},
    ControllerMetric{"tidepool_controller_vm_used_bytes", kGauge, "tenant,host,vm", "Its live pages there."},
    ControllerMetric{"tidepool_controller_vm_share_bytes", kGauge, "tenant,host,vm", "Memory that it may have now."},
    ControllerMetric{"tidepool_controller_requests_total", kCounter, "type", "Requests that were answered."},
    ControllerMetric{"tidepool_controller_refused_total", kCounter, "type", "Of these, those that were refused."},
    ControllerMetric{"tidepool_controller_unanswered_total", kCounter, "reason",
                     "Requests that were not: not_leading, or overloaded (too many waited)."},
    ControllerMetric{"tidepool_controller_waiting_requests", kGauge, "", "Requests that wait for their turn."},
    ControllerMetric{"tidepool_controller_request_duration_seconds", kHistogram, "",
                     "From the question to the answer, its commit included."},
    ControllerMetric{"tidepool_controller_commits_total", kCounter, "", "Commits to the state store."},
    ControllerMetric{"tidepool_controller_commit_failures_total", kCounter, "",
                     "Commits that failed; each is the end of a leadership."},
    ControllerMetric{"tidepool_controller_records_changed_total", kCounter, "", "Records changed by commits."},
    ControllerMetric{"tidepool_controller_commit_duration_seconds", kHistogram, "", "Of a commit."},
    ControllerMetric{"tidepool_controller_load_duration_seconds", kHistogram, "",
                     "Of reading all records, when it began to lead."},
    ControllerMetric{"tidepool_controller_api_connections_total", kCounter, "", "Connections accepted."},
    ControllerMetric{"tidepool_controller_api_refused_total", kCounter, "reason",
                     "Connections refused or cut: full, unproven (TLS), slow (or malformed), busy."},
};

using Labels = std::vector<ClientMetric::Label>;

// Series by the name of their metric.
class Series {
 public:
  void add(std::string_view name, double value, Labels labels = {}) {
    if (ClientMetric* metric = make(name, std::move(labels))) metric->counter.value = metric->gauge.value = value;
  }
  void add(std::string_view name, std::uint64_t value, Labels labels = {}) {
    add(name, static_cast<double>(value), std::move(labels));
  }
  void add(std::string_view name, Bytes value, Labels labels = {}) { add(name, value.value, std::move(labels)); }
  void add(std::string_view name, const LatencyHistogram::Snapshot& value) {
    if (ClientMetric* metric = make(name, {})) set_latencies(*metric, value);
  }
  std::vector<ClientMetric> take(std::string_view name) { return std::move(series_[name]); }

 private:
  ClientMetric* make(std::string_view name, Labels labels) {
    std::vector<ClientMetric>& all = series_[name];
    if (all.size() >= kMaxSeriesPerFamily) return nullptr;
    for (ClientMetric::Label& each : labels) each.value = printable(each.value);
    all.emplace_back().label = std::move(labels);
    return &all.back();
  }

  std::map<std::string_view, std::vector<ClientMetric>> series_;
};

void add_status(Series& series, const StatusAnswer& status) {
  for (const auto& [state, number] : {std::pair{"up", status.servers_up},
                                      {"suspect", status.servers_suspect},
                                      {"lost", status.servers_lost},
                                      {"draining", status.servers_draining}})
    series.add("tidepool_controller_servers", std::uint64_t{number}, {{"state", state}});
  series.add("tidepool_controller_hosts", std::uint64_t{status.hosts - status.hosts_silent}, {{"state", "heard"}});
  series.add("tidepool_controller_hosts", std::uint64_t{status.hosts_silent}, {{"state", "silent"}});
  series.add("tidepool_controller_vms", std::uint64_t{status.vms});
  for (const DomainView& each : status.domains) {
    series.add("tidepool_controller_capacity_bytes", each.capacity, {{"domain", each.name}});
    series.add("tidepool_controller_free_bytes", each.free, {{"domain", each.name}});
    series.add("tidepool_controller_stranded_bytes", each.stranded, {{"domain", each.name}});
  }
  series.add("tidepool_controller_freeing_bytes", status.freeing);
  series.add("tidepool_controller_grantable_bytes", status.grantable);
  series.add("tidepool_controller_buffer_bytes", status.buffer);
  for (const TenantView& each : status.tenants) {
    series.add("tidepool_controller_leased_bytes", each.held, {{"tenant", each.name}});
    series.add("tidepool_controller_share_bytes", each.share, {{"tenant", each.name}});
    series.add("tidepool_controller_share_deficit_bytes", saturating_sub(each.share, each.held),
               {{"tenant", each.name}});
  }
  series.add("tidepool_controller_wanted_bytes", status.wanted);
  series.add("tidepool_controller_used_bytes", status.used);
  series.add("tidepool_controller_slices", status.slices - status.offered - status.releasing, {{"state", "held"}});
  series.add("tidepool_controller_slices", status.offered, {{"state", "offered"}});
  series.add("tidepool_controller_slices", status.releasing, {{"state", "releasing"}});
  series.add("tidepool_controller_underreplicated_slices", status.under_replicated);
  series.add("tidepool_controller_lost_slices", status.lost_slices);
  series.add("tidepool_controller_rebuild_running", status.rebuild_running);
  series.add("tidepool_controller_rebuild_remaining_bytes", status.rebuild_remaining);
  series.add("tidepool_controller_reclaims_overdue", status.reclaims_overdue);
}

void add_pool(Series& series, const PoolView& pool) {
  add_status(series, pool.status);
  for (const ServerView& each : pool.servers) {
    const Labels labels{{"server", each.name}, {"domain", each.domain}};
    series.add("tidepool_controller_server_up", each.state == ServerState::kUp ? 1.0 : 0.0, labels);
    series.add("tidepool_controller_server_capacity_bytes", each.capacity, labels);
    series.add("tidepool_controller_server_leased_bytes", each.leased, labels);
    series.add("tidepool_controller_server_slices_to_move", each.slices_to_move, labels);
  }
  for (const VmView& each : pool.vms) {
    const Labels labels{{"tenant", each.tenant}, {"host", each.host}, {"vm", each.name}};
    series.add("tidepool_controller_vm_leased_bytes", each.held, labels);
    series.add("tidepool_controller_vm_used_bytes", each.used, labels);
    series.add("tidepool_controller_vm_share_bytes", each.share, labels);
  }
}

void add_figures(Series& series, const ControllerFigures& figures) {
  series.add("tidepool_controller_leaderships_total", figures.leaderships);
  for (std::size_t i = 0; i < figures.requests.size(); ++i) {
    const Labels type{{"type", std::string(request_name(i))}};
    series.add("tidepool_controller_requests_total", figures.requests.at(i), type);
    series.add("tidepool_controller_refused_total", figures.refused.at(i), type);
  }
  series.add("tidepool_controller_unanswered_total", figures.not_leading, {{"reason", "not_leading"}});
  series.add("tidepool_controller_unanswered_total", figures.overloaded, {{"reason", "overloaded"}});
  series.add("tidepool_controller_waiting_requests", figures.waiting);
  series.add("tidepool_controller_request_duration_seconds", figures.request_seconds);
  series.add("tidepool_controller_commits_total", figures.commits);
  series.add("tidepool_controller_commit_failures_total", figures.commit_failures);
  series.add("tidepool_controller_records_changed_total", figures.records_changed);
  series.add("tidepool_controller_commit_duration_seconds", figures.commit_seconds);
  series.add("tidepool_controller_load_duration_seconds", figures.load_seconds);
}

void add_api(Series& series, const http::ServerCounters& api) {
  series.add("tidepool_controller_api_connections_total", api.connections);
  series.add("tidepool_controller_api_refused_total", api.turned_away, {{"reason", "full"}});
  series.add("tidepool_controller_api_refused_total", api.unproven, {{"reason", "unproven"}});
  series.add("tidepool_controller_api_refused_total", api.cut_off, {{"reason", "slow"}});
  series.add("tidepool_controller_api_refused_total", api.overloaded, {{"reason", "busy"}});
}

prometheus::MetricType type_of(ControllerMetricKind kind) {
  return kind == kGauge     ? prometheus::MetricType::Gauge
         : kind == kCounter ? prometheus::MetricType::Counter
                            : prometheus::MetricType::Histogram;
}

// All pages of a list into `all`; false: it cannot be asked any more.
template <class Question, class AnswerType, class Entry>
bool collect(Controller& controller, std::vector<Entry> AnswerType::*entries, std::vector<Entry>& all) {
  Question question;
  for (std::size_t page = 0; page < kMostPages; ++page) {
    Result<Answer> reply = controller.call(question, "metrics");
    AnswerType* const answer = reply ? std::get_if<AnswerType>(&*reply) : nullptr;
    if (!answer) return false;
    all.insert(all.end(), std::make_move_iterator((answer->*entries).begin()),
               std::make_move_iterator((answer->*entries).end()));
    if (answer->next.empty()) break;
    question.page.after = answer->next;
  }
  return true;
}

}  // namespace

std::span<const ControllerMetric> controller_metric_catalogue() {
  return kCatalogue;
}

std::optional<PoolView> view_of_pool(Controller& controller) {
  if (controller.state().phase != ControllerPhase::kLeading) return std::nullopt;
  PoolView view;
  Result<Answer> reply = controller.call(GetStatus{}, "metrics");
  StatusAnswer* const status = reply ? std::get_if<StatusAnswer>(&*reply) : nullptr;
  if (!status) return std::nullopt;
  view.status = std::move(*status);
  if (!collect<ListServers>(controller, &ServersAnswer::servers, view.servers)) return std::nullopt;
  if (!collect<ListVms>(controller, &VmsAnswer::vms, view.vms)) return std::nullopt;
  return view;
}

std::vector<MetricFamily> controller_metric_families(const ControllerView& view) {
  Series series;
  series.add("tidepool_controller_info", 1.0, {{"name", view.name}, {"version", TIDEPOOL_VERSION}});
  series.add("tidepool_controller_leader", view.pool ? 1.0 : 0.0);
  series.add("tidepool_controller_failing", view.state.phase == ControllerPhase::kFailing ? 1.0 : 0.0);
  add_figures(series, view.figures);
  add_api(series, view.api);
  if (view.pool) add_pool(series, *view.pool);
  std::vector<MetricFamily> families;
  families.reserve(kCatalogue.size());
  for (const ControllerMetric& each : kCatalogue)
    families.push_back({std::string(each.name), std::string(each.help), type_of(each.kind), series.take(each.name)});
  return families;
}

}  // namespace tidepool::pool::controller
