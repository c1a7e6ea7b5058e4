// Goal: a controller's configuration says what it means or is refused with the place, and its page, example, dashboard
// and alerts say what is true.
#include "pool/controller/controller_config.h"

#include <gtest/gtest.h>

#include <array>
#include <boost/json.hpp>
#include <cctype>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>

#include "pool/controller/controller_metrics.h"

namespace tidepool::pool::controller {
namespace {

std::string problem_of(const std::string& more) {
  const ControllerConfigCheck check = parse_controller_config("schema = 1\nname = \"c\"\n" + more);
  std::string text;
  for (const auto& each : check.problems) text += each.text("controller.toml") + "\n";
  return text;
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(ControllerConfig, TakesEveryKey) {
  for (const ControllerField& each : controller_config_fields()) {
    const std::string value = each.text(ControllerConfig{});
    if (each.key == "schema" || each.key == "name") continue;
    EXPECT_EQ(problem_of(each.key + " = " + value), "") << each.key;
  }
  const ControllerConfigCheck check = parse_controller_config(
      "schema = 1\nname = \"c\"\n[servers]\nheartbeat = \"1s\"\n[slices]\nsize = \"2MiB\"\n[state]\nstore = \"etcd\"\n"
      "[etcd]\nendpoints = [\"http://127.0.0.1:2379\"]\nlease = \"3s\"");
  ASSERT_TRUE(check.ok()) << check.problems.front().message;
  EXPECT_EQ(check.config.core.heartbeat, std::chrono::seconds(1));
  EXPECT_EQ(check.config.core.slice_bytes, Bytes{2 << 20});
  EXPECT_EQ(check.config.state.store, StoreKind::kEtcd);
}

TEST(ControllerConfig, RefusesWhatMakesNoSense) {
  for (const auto& [more, expected] : std::map<std::string, std::string>{
           {"slices.size = \"3MiB\"", "slices.size must be a power of two"},
           {"slices.size = \"2GiB\"", "slices.size must be a power of two"},
           {"slices.replicas = 4", "slices.replicas"},
           {"servers.suspect_after = \"2s\"", "servers.heartbeat < servers.suspect_after"},
           {"servers.lost_after = \"7s\"", "servers.suspect_after < servers.lost_after"},
           {"hosts.silent_after = \"5s\"", "hosts.sync < hosts.silent_after"},
           {"leases.time = \"14s\"", "leases.time must be 3 times hosts.sync"},
           {"shares.buffer = \"51%\"", "shares.buffer must be 50% at most"},
           {"api.socket = \"\"", "nobody could ask"},
           {"api.listen = \"127.0.0.1:1\"", "without certificates"},
           {"api.key = \"/k\"", "give all three or none"},
           {"api.max_body = \"1KiB\"", "api.max_body"},
           {"api.request_timeout = \"1ms\"", "api.request_timeout"},
           {"api.advertise = \"nonsense\"", "api.advertise"},
           {"state.store = \"etcd\"", "etcd.endpoints is missing"},
           {"etcd.endpoints = [\"http://a:1\"]", "etcd.endpoints has no meaning"},
           {"etcd.endpoints = [\"unix:/a\"]", "etcd.endpoints"},
           {"etcd.lease = \"1s\"", "etcd.lease must be from 2s to 5m"},
           {"etcd.lease = \"2500ms\"", "in whole seconds"},
           {"etcd.prefix = \"no\"", "etcd.prefix"},
           {"state.store = \"etcd\"\netcd.endpoints = [\"https://a:1\"]", "https needs etcd.certificate"},
           {"state.stroe = \"etcd\"", "did you mean 'state.store'?"}}) {
    const std::string problem = problem_of(more);
    EXPECT_TRUE(has(problem, expected)) << more << ": " << problem;
    EXPECT_TRUE(has(problem, "controller.toml:")) << problem;
  }
  EXPECT_TRUE(has(parse_controller_config("schema = 1").problems.front().message, "name is missing"));
  EXPECT_FALSE(load_controller_config("/nonexistent").ok());
}

TEST(ControllerConfig, KnowsWhereItIsFound) {
  ControllerConfig config;
  EXPECT_EQ(advertised_address(config), "unix:/run/tidepool-controller/controller.sock");
  config.api.listen = "10.0.0.1:9843";
  EXPECT_EQ(advertised_address(config), "https://10.0.0.1:9843");
  config.api.advertise = "https://controller-1:9843";
  EXPECT_EQ(advertised_address(config), "https://controller-1:9843");
  ControllerConfig other = config;
  other.core.heartbeat = std::chrono::seconds(1);
  other.api.workers = 1;
  EXPECT_EQ(keys_that_wait(config, other), std::vector<std::string>{"api.workers"});
}

// ---- documents ----

std::string read_source_file(const std::string& path) {
  std::ifstream file(std::string(TIDEPOOL_SOURCE_DIR) + "/" + path);
  EXPECT_TRUE(file.good()) << path;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

struct Row {
  std::array<std::string, 5> cell;
};

std::string trim(const std::string& text) {
  const std::size_t first = text.find_first_not_of(" `");
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(" `") - first + 1);
}

std::map<std::string, Row> documented() {
  std::istringstream page(read_source_file("docs/pool-controller.md"));
  std::map<std::string, Row> rows;
  for (std::string line; std::getline(page, line);) {
    if (!line.starts_with("| `")) continue;
    std::istringstream cells(line.substr(1));
    Row row;
    for (std::string& each : row.cell) {
      std::getline(cells, each, '|');
      each = trim(each);
    }
    EXPECT_TRUE(rows.emplace(row.cell[0], row).second) << row.cell[0] << " is described twice";
  }
  return rows;
}

std::string word_of(ControllerMetricKind kind) {
  return kind == ControllerMetricKind::kGauge     ? "gauge"
         : kind == ControllerMetricKind::kCounter ? "counter"
                                                  : "histogram";
}

TEST(ControllerDocument, DescribesEveryKeyAndEveryMetricAndNoOther) {
  std::map<std::string, Row> rows = documented();
  for (const ControllerField& each : controller_config_fields()) {
    const auto row = rows.find(each.key);
    ASSERT_NE(row, rows.end()) << each.key << " is not described";
    EXPECT_EQ(row->second.cell[1], each.type) << each.key;
    EXPECT_EQ(row->second.cell[2], each.text(ControllerConfig{})) << each.key;
    EXPECT_EQ(row->second.cell[3], each.restart ? "restart" : "live") << each.key;
    rows.erase(row);
  }
  for (const ControllerMetric& each : controller_metric_catalogue()) {
    const auto row = rows.find(std::string(each.name));
    ASSERT_NE(row, rows.end()) << each.name << " is exported and not described";
    EXPECT_EQ(row->second.cell[1], word_of(each.kind)) << each.name;
    EXPECT_EQ(row->second.cell[2], each.labels) << each.name;
    EXPECT_EQ(row->second.cell[3], each.help) << each.name;
    rows.erase(row);
  }
  for (const auto& [name, row] : rows) ADD_FAILURE() << name << " is described and does not exist";
}

TEST(ControllerDocument, ExampleFileDescribesTheDefaults) {
  ControllerConfigCheck check = load_controller_config(TIDEPOOL_SOURCE_DIR "/systemd/controller.toml");
  for (const auto& each : check.problems) ADD_FAILURE() << each.text("controller.toml");
  const std::string text = read_source_file("systemd/controller.toml");
  check.config.name = {};
  for (const ControllerField& each : controller_config_fields()) {
    EXPECT_EQ(each.text(check.config), each.text(ControllerConfig{})) << each.key;
    EXPECT_TRUE(has(text, "\n" + each.key.substr(each.key.find('.') + 1) + " = ")) << each.key << " is not in it";
  }
}

bool is_exported(const std::string& name) {
  for (const ControllerMetric& metric : controller_metric_catalogue()) {
    if (metric.kind != ControllerMetricKind::kHistogram && name == metric.name) return true;
    if (metric.kind == ControllerMetricKind::kHistogram && name == std::string(metric.name) + "_bucket") return true;
  }
  return false;
}

// How many of our names there are in it, all of which must be metrics.
std::size_t check_names(const std::string& text) {
  std::size_t names = 0;
  const std::string prefix = "tidepool_";
  for (std::size_t at = 0; (at = text.find(prefix, at)) != std::string::npos; ++names) {
    std::size_t end = at;
    while (end < text.size() && (std::isalnum(static_cast<unsigned char>(text[end])) != 0 || text[end] == '_')) ++end;
    EXPECT_TRUE(is_exported(text.substr(at, end - at))) << text.substr(at, end - at);
    at = end;
  }
  return names;
}

TEST(ControllerDocument, DashboardAndAlertsAskOnlyForMetricsThatExist) {
  const std::string text = read_source_file("telemetry/dashboards/tidepool-pool.json");
  boost::system::error_code error;
  const boost::json::value dashboard = boost::json::parse(text, error);
  ASSERT_FALSE(error) << error.message();
  std::set<std::int64_t> ids;
  for (const boost::json::value& panel : dashboard.at("panels").as_array()) {
    EXPECT_TRUE(ids.insert(panel.at("id").as_int64()).second);
    EXPECT_FALSE(panel.at("targets").as_array().empty());
  }
  EXPECT_GE(check_names(text), ids.size());
  EXPECT_GE(check_names(read_source_file("telemetry/alerts/tidepool-pool.rules.yml")), 8u);
}

}  // namespace
}  // namespace tidepool::pool::controller
