// Goal: what the documentation names is what the agent exports, in both directions.
#include <gtest/gtest.h>

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

TEST(MetricCatalogue, NamesUnitsAndCounters) {
  const std::set<std::string_view> unitless{"tidepool_build_info",
                                            "tidepool_config_last_reload_successful",
                                            "tidepool_host_pressure_level",
                                            "tidepool_vm_info",
                                            "tidepool_vm_blocked",
                                            "tidepool_tracker_usable",
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
      EXPECT_TRUE(name.ends_with("_bytes") || name.ends_with("_ratio")) << name;
    }
    for (const std::string_view forbidden : {"pid", "address", "path", "pfn"})
      EXPECT_EQ(metric.labels.find(forbidden), std::string_view::npos) << name;
  }
}

}  // namespace
}  // namespace tidepool::telemetry
