#include "daemon/control/config_loader.h"

#include <array>
#include <boost/json.hpp>
#include <cstdio>
#include <list>

#include "daemon/control/config_rules.h"
#include "daemon/control/config_schema.h"

namespace tidepool::daemon {
namespace {

constexpr std::size_t kMostRules = 1000;
constexpr std::size_t kMostMemoryServers = 64;

}  // namespace

ConfigCheck parse_config(std::string_view toml) {
  ConfigCheck check;
  std::list<Rule> rules;  // each stays where it is while more come
  std::list<MemoryServer> servers;
  const std::array<config::ConfigList, 2> lists{
      {{"rule", kMostRules, [&rules] { return config::bind(rule_fields(), rules.emplace_back()); }},
       {"memory_server", kMostMemoryServers,
        [&servers] { return config::bind(memory_server_fields(), servers.emplace_back()); }}}};
  config::ConfigReader reader;
  reader.read(toml, config::bind(config_fields(), check.config), lists);
  check.config.rules.assign(rules.begin(), rules.end());
  check.config.memory_servers.assign(servers.begin(), servers.end());
  if (reader.ok()) {
    for (const Contradiction& each : find_contradictions(check.config)) reader.contradiction(each.key, each.message);
  }
  check.problems = reader.take_problems();
  return check;
}

ConfigCheck load_config(const std::filesystem::path& file) {
  const Result<std::string> text = config::read_small_file(file);
  if (text) return parse_config(*text);
  ConfigCheck check;
  check.problems.push_back({0, 0, text.error().message()});
  return check;
}

int run_config_check(const std::filesystem::path& file, bool json) {
  const ConfigCheck check = load_config(file);
  if (json) {
    boost::json::array problems;
    for (const ConfigProblem& each : check.problems)
      problems.push_back({{"line", each.line}, {"column", each.column}, {"message", each.message}});
    boost::json::object values;
    if (check.ok())
      for (const auto& [key, value] : config_entries(check.config)) values[key] = value;
    boost::json::array restart;
    for (const ConfigField& each : config_fields())
      if (each.restart) restart.emplace_back(each.key);
    const boost::json::object document{{"file", file.string()},
                                       {"ok", check.ok()},
                                       {"problems", std::move(problems)},
                                       {"values", std::move(values)},
                                       {"restart_keys", std::move(restart)}};
    std::printf("%s\n", boost::json::serialize(document).c_str());
  } else if (check.ok()) {
    std::printf("%s: ok\n", file.c_str());
  } else {
    for (const ConfigProblem& each : check.problems) std::fprintf(stderr, "%s\n", each.text(file.string()).c_str());
  }
  return check.ok() ? 0 : 1;
}

}  // namespace tidepool::daemon
