// docs/configuration.md and the example file against the loader, both ways.
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <sstream>
#include <string>

#include "daemon/control/config_loader.h"
#include "daemon/control/config_schema.h"

namespace tidepool::daemon {
namespace {

struct Row {
  std::string type;
  std::string fallback;
  std::string applies;
  std::string meaning;
  bool operator==(const Row&) const = default;
};

std::string trim(std::string text) {
  const std::size_t first = text.find_first_not_of(" `");
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(" `") - first + 1);
}

std::map<std::string, Row> documented() {
  std::ifstream file(TIDEPOOL_SOURCE_DIR "/docs/configuration.md");
  std::map<std::string, Row> rows;
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("| `")) continue;
    std::istringstream cells(line.substr(1));
    std::array<std::string, 5> cell;
    for (std::string& each : cell) std::getline(cells, each, '|');
    EXPECT_TRUE(rows.emplace(trim(cell[0]), Row{trim(cell[1]), trim(cell[2]), trim(cell[3]), trim(cell[4])}).second)
        << cell[0] << " is described twice";
  }
  return rows;
}

TEST(ConfigDocument, DescribesEveryKeyWithItsTypeAndDefaultAndNoOther) {
  std::map<std::string, Row> rows = documented();
  const auto expect = [&](const std::string& key, const std::string& type, const std::string& fallback, bool restart) {
    const auto at = rows.find(key);
    ASSERT_NE(at, rows.end()) << key << " is not described";
    EXPECT_EQ(at->second.type, type) << key;
    EXPECT_EQ(at->second.fallback, fallback) << key;
    EXPECT_EQ(at->second.applies, restart ? "restart" : "live") << key;
    EXPECT_FALSE(at->second.meaning.empty()) << key;
    rows.erase(at);
  };
  for (const ConfigField& each : config_fields()) expect(each.key, each.type, each.text(Config{}), each.restart);
  for (const RuleField& each : rule_fields()) expect("rule." + each.key, each.type, each.text(Rule{}), each.restart);
  for (const MemoryServerField& each : memory_server_fields())
    expect("memory_server." + each.key, each.type, each.text(MemoryServer{}), each.restart);
  for (const auto& [key, row] : rows) ADD_FAILURE() << key << " is described but not known to the loader";
}

TEST(ConfigDocument, ExampleFileLoadsAndDescribesTheDefaults) {
  const ConfigCheck check = load_config(TIDEPOOL_SOURCE_DIR "/systemd/tidepool.toml");
  for (const ConfigProblem& each : check.problems) ADD_FAILURE() << each.text("tidepool.toml");
  EXPECT_EQ(check.config, Config{}) << "the example differs from the defaults that it is meant to show";
}

// What `config show` prints can be put back into a file.
TEST(ConfigDocument, EveryDefaultIsReadBackAsItIsWritten) {
  std::string text;
  for (const ConfigField& each : config_fields()) {
    const std::string value = each.text(Config{});
    if (!value.empty()) text += each.key + " = " + value + "\n";
  }
  const ConfigCheck check = parse_config(text);
  for (const ConfigProblem& each : check.problems) ADD_FAILURE() << each.text("defaults");
  EXPECT_EQ(check.config, Config{});
}

}  // namespace
}  // namespace tidepool::daemon
