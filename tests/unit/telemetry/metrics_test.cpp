// Goal: what the agent knows arrives at a scraper unchanged, in an exposition that it accepts whole.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <atomic>
#include <sstream>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "telemetry/metrics/metric_catalogue.h"
#include "telemetry/metrics/metrics_exporter.h"
#include "tests/support/http_get.h"
#include "tests/unit/telemetry/sample_snapshot.h"

namespace tidepool::telemetry {
namespace {

using namespace literals;
using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::Not;
using tests::http_get;

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> result;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) result.push_back(line);
  return result;
}

// The value of exactly this series; fails the test when it is missing or there twice.
double value_of(const std::string& text, const std::string& series) {
  double value = -1;
  int found = 0;
  for (const std::string& line : lines_of(text)) {
    if (!line.starts_with(series + " ")) continue;
    value = std::stod(line.substr(series.size() + 1));
    ++found;
  }
  EXPECT_EQ(found, 1) << series;
  return value;
}

TEST(RenderText, ShowsWhatTheSnapshotHolds) {
  const std::string text = render_text(sample_snapshot());
  EXPECT_EQ(value_of(text, R"(tidepool_build_info{version="0.1.0"})"), 1);
  EXPECT_EQ(value_of(text, "tidepool_config_last_reload_successful"), 1);
  EXPECT_EQ(value_of(text, "tidepool_host_promised_bytes"), 8589934592.0);
  EXPECT_EQ(value_of(text, R"(tidepool_host_overhead_bytes{component="metadata"})"), 16777216.0);
  EXPECT_EQ(value_of(text, "tidepool_host_pressure_level"), 2);
  EXPECT_EQ(value_of(text, R"(tidepool_vm_memory_bytes{vm="web-3",state="far"})"), 3221225472.0);
  EXPECT_EQ(value_of(text, R"(tidepool_vm_promoted_bytes_total{vm="web-3",cause="restore"})"), 12288);
  EXPECT_EQ(value_of(text, R"(tidepool_vm_faults_total{vm="web-3",kind="far"})"), 1310720);
  EXPECT_EQ(value_of(text, R"(tidepool_vm_pager_events_total{vm="web-3",kind="discarded"})"), 17);
  EXPECT_EQ(value_of(text, R"(tidepool_vm_pager_events_total{vm="web-3",kind="out_of_memory"})"), 0);
  EXPECT_EQ(value_of(text, R"(tidepool_vm_fault_stall_seconds_total{vm="web-3"})"), 2.5);
  EXPECT_EQ(value_of(text, R"(tidepool_vm_fault_threads{vm="web-3"})"), 4);
  EXPECT_EQ(value_of(text, R"(tidepool_vm_blocked{vm="web-3",reason="guarantee"})"), 1);
  EXPECT_EQ(value_of(text, R"(tidepool_decisions_total{action="demote",reason="cold"})"), 41);
  EXPECT_EQ(value_of(text, R"(tidepool_adoptions_total{result="refused",reason="vfio"})"), 2);
  EXPECT_EQ(value_of(text, R"(tidepool_integrity_failures_total{cause="checksum"})"), 3);
  EXPECT_EQ(value_of(text, R"(tidepool_policy_input_dropped_total{cause="counters"})"), 7);
  EXPECT_EQ(value_of(text, R"(tidepool_tracker_usable{tracker="damon"})"), 0);
  EXPECT_EQ(value_of(text, R"(tidepool_tracker_cpu_seconds_total{tracker="fault-sampling"})"), 1.5);
  EXPECT_EQ(value_of(text, R"(tidepool_tracker_used{tracker="fault-sampling"})"), 1);
  EXPECT_EQ(value_of(text, R"(tidepool_tracker_samples_total{tracker="fault-sampling"})"), 77);
  EXPECT_EQ(value_of(text, R"(tidepool_tracker_self_check_failures_total{tracker="damon"})"), 3);
  EXPECT_EQ(value_of(text, R"(tidepool_tracker_lost_total{tracker="damon"})"), 8);
  EXPECT_EQ(value_of(text, R"(tidepool_tracker_malformed_total{tracker="damon"})"), 9);
  EXPECT_EQ(value_of(text, R"(tidepool_samples_dropped_total{reason="unknown"})"), 2);
  EXPECT_EQ(value_of(text, R"(tidepool_store_capacity_bytes{store="mapped"})"), 17179869184.0);
  EXPECT_EQ(value_of(text, "tidepool_metrics_dropped_series"), 0);
}

TEST(RenderText, GivesEveryMetricItsTypeAndASeries) {
  const std::string text = render_text(sample_snapshot());
  for (const MetricDescription& metric : metric_catalogue()) {
    const std::string name(metric.name);
    EXPECT_THAT(text, HasSubstr("# HELP " + name + " " + std::string(metric.help) + "\n"));
    EXPECT_THAT(text, HasSubstr("# TYPE " + name + " " + std::string(word(metric.kind)) + "\n"));
    const std::string sample = metric.kind == MetricKind::kHistogram ? name + "_count" : name;
    const bool shown =
        text.find("\n" + sample + " ") != std::string::npos || text.find("\n" + sample + "{") != std::string::npos;
    EXPECT_TRUE(shown) << name << " has no series in a snapshot that fills everything";
  }
}

TEST(RenderText, ShowsMemoryStatesThatAddUpToWhatWasPromised) {
  const MetricsSnapshot snapshot = sample_snapshot();
  double sum = 0;
  int states = 0;
  for (const std::string& line : lines_of(render_text(snapshot))) {
    if (!line.starts_with("tidepool_vm_memory_bytes{")) continue;
    sum += std::stod(line.substr(line.rfind(' ')));
    ++states;
  }
  EXPECT_EQ(states, 8);
  EXPECT_EQ(sum, static_cast<double>(snapshot.vms[0].memory.sum().value));
}

TEST(RenderText, MergesFaultLatenciesOfATierAndClass) {
  MetricsSnapshot snapshot = sample_snapshot();
  snapshot.fault_latency.clear();
  LatencyHistogram web, db, batch;
  web.record(15us);
  db.record(15us);
  db.record(5ms);
  batch.record(1s);
  snapshot.fault_latency = {{"mapped", "standard", web.snapshot()},
                            {"mapped", "standard", db.snapshot()},
                            {"mapped", "batch", batch.snapshot()}};
  const std::string text = render_text(snapshot);
  EXPECT_EQ(value_of(text, R"(tidepool_fault_duration_seconds_count{tier="mapped",class="standard"})"), 3);
  EXPECT_EQ(value_of(text, R"(tidepool_fault_duration_seconds_count{tier="mapped",class="batch"})"), 1);
  EXPECT_NEAR(value_of(text, R"(tidepool_fault_duration_seconds_sum{tier="mapped",class="standard"})"), 0.00503, 1e-9);
}

TEST(RenderText, CountsEveryLatencyBelowItsBound) {
  MetricsSnapshot snapshot;
  LatencyHistogram ticks;
  const std::vector<std::chrono::nanoseconds> latencies{0ns, 900ns, 1us, 1025ns, 17us, 40us, 1ms, 30ms, 2s, 60s};
  for (const auto latency : latencies) ticks.record(latency);
  snapshot.host.policy_tick = ticks.snapshot();
  int bounds = 0;
  for (const std::string& line : lines_of(render_text(snapshot))) {
    const std::string prefix = "tidepool_policy_tick_seconds_bucket{le=\"";
    if (!line.starts_with(prefix)) continue;
    ++bounds;
    const std::string bound = line.substr(prefix.size(), line.find('"', prefix.size()) - prefix.size());
    const double le = bound == "+Inf" ? 1e18 : std::stod(bound);
    int expected = 0;
    for (const auto latency : latencies) expected += std::chrono::duration<double>(latency).count() <= le ? 1 : 0;
    EXPECT_EQ(std::stoi(line.substr(line.rfind(' ') + 1)), expected) << line;
  }
  EXPECT_GT(bounds, 30);
}

TEST(RenderText, KeepsHostileNamesOutOfTheExposition) {
  MetricsSnapshot snapshot = sample_snapshot();
  snapshot.vms[0].name = "a\"} 1\nevil{x=\"\x1b[2J\xff\\";
  snapshot.vms[0].service_class = std::string(5000, 'c');
  const std::string text = render_text(snapshot);
  for (const std::string& line : lines_of(text)) {
    EXPECT_FALSE(line.starts_with("evil")) << line;
    EXPECT_LT(line.size(), 700u);
    for (const char c : line) EXPECT_TRUE(c >= 0x20 && c <= 0x7e) << line;
  }
  EXPECT_THAT(text, HasSubstr(R"(tidepool_vm_guarantee_bytes{vm="a\"} 1_evil{x=\"_[2J_\\"} )"));
}

TEST(RenderText, DropsASecondSeriesWithTheSameLabelsAndSaysSo) {
  MetricsSnapshot snapshot = sample_snapshot();
  snapshot.stores.push_back(snapshot.stores[0]);
  const std::string text = render_text(snapshot);
  EXPECT_EQ(value_of(text, R"(tidepool_store_used_bytes{store="mapped"})"), 3221225472.0);
  EXPECT_EQ(value_of(text, "tidepool_metrics_dropped_series"), 2);
}

TEST(RenderText, BoundsTheSeriesOfAMetric) {
  MetricsSnapshot snapshot;
  for (int i = 0; i < 13'000; ++i) snapshot.host.decisions.push_back({"none", "reason-" + std::to_string(i), 1});
  const std::string text = render_text(snapshot);
  EXPECT_EQ(value_of(text, "tidepool_metrics_dropped_series"), 1'000);
}

// ---- the endpoint

TEST(MetricsEndpoint, AnswersAScrapeWithTheStateOfThatMoment) {
  std::atomic<std::uint64_t> far_faults{7};
  auto endpoint = MetricsEndpoint::serve("127.0.0.1:0", [&] {
    MetricsSnapshot snapshot = sample_snapshot();
    snapshot.vms[0].faults_far = far_faults;
    return snapshot;
  });
  ASSERT_TRUE(endpoint) << endpoint.error().message();
  ASSERT_GT((*endpoint)->port(), 0);
  const std::string first = http_get((*endpoint)->port(), "/metrics");
  EXPECT_THAT(first, HasSubstr("200 OK"));
  EXPECT_THAT(first, HasSubstr("tidepool_vm_faults_total{vm=\"web-3\",kind=\"far\"} 7\n"));
  far_faults = 8;
  EXPECT_THAT(http_get((*endpoint)->port(), "/metrics"),
              HasSubstr("tidepool_vm_faults_total{vm=\"web-3\",kind=\"far\"} 8\n"));
}

TEST(MetricsEndpoint, ForgetsAReleasedVm) {
  std::atomic<bool> released{false};
  auto endpoint = MetricsEndpoint::serve("localhost:0", [&] {
    MetricsSnapshot snapshot = sample_snapshot();
    if (released) snapshot.vms.clear();
    return snapshot;
  });
  ASSERT_TRUE(endpoint) << endpoint.error().message();
  EXPECT_THAT(http_get((*endpoint)->port(), "/metrics"), HasSubstr("vm=\"web-3\""));
  released = true;
  EXPECT_THAT(http_get((*endpoint)->port(), "/metrics"), Not(HasSubstr("vm=\"web-3\"")));
}

TEST(MetricsEndpoint, RefusesAPortInUseAndNamesIt) {
  auto first = MetricsEndpoint::serve("127.0.0.1:0", sample_snapshot);
  ASSERT_TRUE(first) << first.error().message();
  const std::string address = "127.0.0.1:" + std::to_string((*first)->port());
  auto second = MetricsEndpoint::serve(address, sample_snapshot);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, std::errc::address_in_use) << second.error().message();
  EXPECT_THAT(second.error().message(), HasSubstr(address));
}

TEST(MetricsEndpoint, RefusesAnAddressThatThisHostDoesNotHave) {
  auto endpoint = MetricsEndpoint::serve("192.0.2.1:9842", sample_snapshot);
  ASSERT_FALSE(endpoint);
  EXPECT_EQ(endpoint.error().code, std::errc::address_not_available) << endpoint.error().message();
}

TEST(MetricsEndpoint, RefusesWhatIsNotOneAddressAndPort) {
  for (const std::string address :
       {"", "9842", ":9842", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000", "127.0.0.1:-1",
        "127.0.0.1:9842s", "127.0.0.1:1,0.0.0.0:2", "example.org:80", "::1:80", "[::1:80", "+9842"}) {
    auto endpoint = MetricsEndpoint::serve(address, sample_snapshot);
    ASSERT_FALSE(endpoint) << "'" << address << "'";
    EXPECT_EQ(endpoint.error().code, std::errc::invalid_argument) << "'" << address << "'";
  }
}

TEST(MetricsEndpoint, ListensOnItsAddressOnly) {
  auto endpoint = MetricsEndpoint::serve("127.0.0.2:0", sample_snapshot);
  ASSERT_TRUE(endpoint) << endpoint.error().message();
  EXPECT_EQ(http_get((*endpoint)->port(), "/metrics"), "");  // asks 127.0.0.1
}

}  // namespace
}  // namespace tidepool::telemetry
