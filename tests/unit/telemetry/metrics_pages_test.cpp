// Goal: what the documentation names is what the agent exports, in both directions.
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cctype>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "telemetry/metrics/metric_catalogue.h"

namespace tidepool::telemetry {
namespace {

std::string read_source_file(const std::string& path) {
  std::ifstream in(std::string(TIDEPOOL_SOURCE_DIR) + "/" + path);
  EXPECT_TRUE(in.good()) << path;
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

std::vector<std::string> cells_of(const std::string& row) {
  std::vector<std::string> cells;
  std::istringstream in(row.substr(1));
  for (std::string cell; std::getline(in, cell, '|');) {
    const std::size_t first = cell.find_first_not_of(' ');
    cells.push_back(first == std::string::npos ? "" : cell.substr(first, cell.find_last_not_of(' ') - first + 1));
  }
  return cells;
}

TEST(MetricsPage, ListsExactlyWhatIsExported) {
  std::map<std::string, std::vector<std::string>> rows;
  std::istringstream page(read_source_file("docs/metrics.md"));
  for (std::string line; std::getline(page, line);) {
    if (!line.starts_with("| `tidepool_")) continue;
    std::vector<std::string> cells = cells_of(line);
    ASSERT_EQ(cells.size(), 4u) << line;
    const std::string name = cells[0].substr(1, cells[0].size() - 2);
    EXPECT_TRUE(rows.emplace(name, cells).second) << name << " is listed twice";
  }
  for (const MetricDescription& metric : metric_catalogue()) {
    const auto row = rows.find(std::string(metric.name));
    if (row == rows.end()) {
      ADD_FAILURE() << metric.name << " is exported and not documented";
      continue;
    }
    EXPECT_EQ(row->second[1], word(metric.kind)) << metric.name;
    EXPECT_EQ(row->second[2], metric.labels) << metric.name;
    EXPECT_EQ(row->second[3], metric.help) << metric.name;
    rows.erase(row);
  }
  for (const auto& [name, cells] : rows) ADD_FAILURE() << name << " is documented and not exported";
}

// The names that a dashboard or a rule uses, without the suffixes that a histogram's series carry.
std::set<std::string> names_used_in(const std::string& text) {
  std::set<std::string> names;
  const std::string prefix = "tidepool_";
  for (std::size_t at = 0; (at = text.find(prefix, at)) != std::string::npos;) {
    std::size_t end = at;
    while (end < text.size() && (std::isalnum(static_cast<unsigned char>(text[end])) || text[end] == '_')) ++end;
    names.insert(text.substr(at, end - at));
    at = end;
  }
  return names;
}

bool is_exported(const std::string& name) {
  for (const MetricDescription& metric : metric_catalogue()) {
    if (metric.kind != MetricKind::kHistogram && name == metric.name) return true;
    if (metric.kind != MetricKind::kHistogram || !name.starts_with(metric.name)) continue;
    const std::string suffix = name.substr(metric.name.size());
    if (suffix == "_bucket" || suffix == "_sum" || suffix == "_count") return true;
  }
  return false;
}

TEST(Dashboard, IsJsonAndAsksOnlyForMetricsThatExist) {
  const std::string text = read_source_file("telemetry/dashboards/tidepool-host.json");
  boost::system::error_code error;
  const boost::json::value dashboard = boost::json::parse(text, error);
  ASSERT_FALSE(error) << error.message();
  std::set<std::int64_t> ids;
  for (const boost::json::value& panel : dashboard.at("panels").as_array()) {
    const std::string title(panel.at("title").as_string());
    EXPECT_TRUE(ids.insert(panel.at("id").as_int64()).second) << title;
    ASSERT_FALSE(panel.at("targets").as_array().empty()) << title;
    for (const boost::json::value& target : panel.at("targets").as_array()) {
      const std::string expression(target.at("expr").as_string());
      const std::set<std::string> names = names_used_in(expression);
      EXPECT_FALSE(names.empty()) << title;
      for (const std::string& name : names) EXPECT_TRUE(is_exported(name)) << title << " asks for " << name;
    }
  }
  EXPECT_EQ(ids.size(), 9u);
}

TEST(AlertRules, AskOnlyForMetricsThatExist) {
  const std::set<std::string> names = names_used_in(read_source_file("telemetry/alerts/tidepool.rules.yml"));
  EXPECT_GE(names.size(), 8u);
  for (const std::string& name : names) EXPECT_TRUE(is_exported(name)) << name;
}

// Waits are summed over threads, and the budget is a share of each one's time.
void expect_waits_are_per_thread(const std::string& expression) {
  const std::set<std::string> names = names_used_in(expression);
  if (!names.contains("tidepool_vm_fault_stall_seconds_total") || !names.contains("tidepool_vm_stall_budget_ratio"))
    return;
  EXPECT_TRUE(names.contains("tidepool_vm_fault_threads")) << expression;
}

TEST(StallBudget, IsComparedWithWaitsPerThread) {
  std::istringstream rules(read_source_file("telemetry/alerts/tidepool.rules.yml"));
  for (std::string line; std::getline(rules, line);) expect_waits_are_per_thread(line);
  const auto dashboard = boost::json::parse(read_source_file("telemetry/dashboards/tidepool-host.json"));
  for (const boost::json::value& panel : dashboard.at("panels").as_array()) {
    for (const boost::json::value& target : panel.at("targets").as_array())
      expect_waits_are_per_thread(std::string(target.at("expr").as_string()));
  }
  // What the page shows as code.
  std::istringstream page(read_source_file("docs/metrics.md"));
  bool code = false;
  for (std::string text; std::getline(page, text, '`'); code = !code) {
    if (code) expect_waits_are_per_thread(text);
  }
}

TEST(MetricCatalogue, NamesUnitsAndCounters) {
  const std::set<std::string_view> unitless{"tidepool_build_info",
                                            "tidepool_config_last_reload_successful",
                                            "tidepool_host_pressure_level",
                                            "tidepool_holder_usable",
                                            "tidepool_vm_info",
                                            "tidepool_vm_blocked",
                                            "tidepool_vm_fault_threads",
                                            "tidepool_tracker_usable",
                                            "tidepool_tracker_used",
                                            "tidepool_memory_server_up",
                                            "tidepool_memory_server_slices",
                                            "tidepool_remote_slices",
                                            "tidepool_remote_expired_slices",
                                            "tidepool_metrics_dropped_series"};
  std::set<std::string_view> names;
  for (const MetricDescription& metric : metric_catalogue()) {
    const std::string_view name = metric.name;
    EXPECT_TRUE(names.insert(name).second) << name << " twice";
    EXPECT_TRUE(name.starts_with("tidepool_")) << name;
    EXPECT_TRUE(metric.help.ends_with(".")) << name;
    EXPECT_EQ(name.ends_with("_total"), metric.kind == MetricKind::kCounter) << name;
    if (metric.kind == MetricKind::kHistogram) {
      EXPECT_TRUE(name.ends_with("_seconds")) << name;
    }
    if (metric.kind == MetricKind::kGauge && !unitless.contains(name)) {
      EXPECT_TRUE(name.ends_with("_bytes") || name.ends_with("_ratio") || name.ends_with("_seconds")) << name;
    }
    for (const std::string_view forbidden : {"pid", "address", "path", "pfn"})
      EXPECT_EQ(metric.labels.find(forbidden), std::string_view::npos) << name;
  }
}

}  // namespace
}  // namespace tidepool::telemetry
