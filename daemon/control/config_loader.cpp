#include "daemon/control/config_loader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <toml++/toml.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <set>

#include "base/nearest.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "daemon/control/config_rules.h"
#include "daemon/control/config_schema.h"

namespace tidepool::daemon {
namespace {

constexpr std::size_t kLargestFile = 1 << 20;
constexpr std::size_t kMostRules = 1000;
constexpr std::size_t kMostProblems = 100;

std::string type_name(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::table:
      return "a table";
    case toml::node_type::array:
      return "a list";
    case toml::node_type::string:
      return "text";
    case toml::node_type::integer:
      return "an integer";
    case toml::node_type::floating_point:
      return "a number";
    case toml::node_type::boolean:
      return "a boolean";
    default:
      return "a date or time";
  }
}

std::optional<ConfigValue> to_value(const toml::node& node) {
  if (const auto* flag = node.as_boolean()) return ConfigValue{flag->get()};
  if (const auto* number = node.as_integer()) return ConfigValue{number->get()};
  if (const auto* number = node.as_floating_point()) return ConfigValue{number->get()};
  if (const auto* text = node.as_string()) return ConfigValue{text->get()};
  if (const auto* list = node.as_array()) {
    std::vector<std::string> items;
    for (const toml::node& item : *list) {
      const auto* text = item.as_string();
      if (!text) return std::nullopt;
      items.push_back(text->get());
    }
    return ConfigValue{std::move(items)};
  }
  return std::nullopt;
}

std::string shown(const toml::node& node) {
  if (const auto* text = node.as_string()) return "\"" + text->get() + "\"";
  if (const auto* number = node.as_integer()) return std::to_string(number->get());
  return type_name(node);
}

class Loader {
 public:
  ConfigCheck load(std::string_view text) {
    try {
      const toml::table root = toml::parse(text);
      read_root(root);
    } catch (const toml::parse_error& error) {
      problem(error.source().begin, std::string(error.description()));
    }
    if (check_.ok()) {
      for (const Contradiction& each : find_contradictions(check_.config)) problem(place_of(each.key), each.message);
    }
    std::stable_sort(check_.problems.begin(), check_.problems.end(),
                     [](const ConfigProblem& a, const ConfigProblem& b) { return a.line < b.line; });
    return std::move(check_);
  }

 private:
  void problem(toml::source_position at, std::string message) {
    if (check_.problems.size() < kMostProblems)
      check_.problems.push_back({static_cast<unsigned>(at.line), static_cast<unsigned>(at.column), std::move(message)});
  }

  // Where a key stands; a key that the file leaves at its default is shown at the section, or at the file as a whole.
  toml::source_position place_of(std::string key) const {
    while (true) {
      if (const auto at = places_.find(key); at != places_.end()) return at->second;
      const std::size_t dot = key.rfind('.');
      if (dot == std::string::npos) return {0, 0};
      key.resize(dot);
    }
  }

  template <class Target>
  void read_table(const toml::table& table, const std::string& path, const std::string& shown_prefix,
                  const std::vector<ConfigFieldOf<Target>>& fields, Target& target) {
    for (const auto& [name, node] : table) {
      const std::string key = path.empty() ? std::string(name.str()) : path + "." + std::string(name.str());
      const std::string full = shown_prefix + key;
      const toml::source_position at = name.source().begin;
      if (std::is_same_v<Target, Config> && key == "rule") continue;
      places_.emplace(full, at);
      const auto field = std::ranges::find_if(fields, [&](const auto& each) { return each.key == key; });
      if (field != fields.end()) {
        const std::optional<ConfigValue> value = to_value(node);
        const SetResult wrong = value ? field->set(*value, target) : SetResult{field->type};
        if (wrong) problem(node.source().begin, full + " must be " + *wrong + ", not " + shown(node));
        continue;
      }
      const bool is_section =
          std::ranges::any_of(fields, [&](const auto& each) { return each.key.starts_with(key + "."); });
      if (!is_section) {
        unknown(at, full, key, fields);
      } else if (const toml::table* section = node.as_table()) {
        read_table(*section, key, shown_prefix, fields, target);
      } else {
        problem(node.source().begin, full + " must be a table, not " + type_name(node));
      }
    }
  }

  template <class Target>
  void unknown(toml::source_position at, const std::string& full, const std::string& key,
               const std::vector<ConfigFieldOf<Target>>& fields) {
    std::set<std::string> names;
    for (const auto& each : fields) {
      names.insert(each.key);
      for (std::size_t dot = each.key.find('.'); dot != std::string::npos; dot = each.key.find('.', dot + 1))
        names.insert(each.key.substr(0, dot));
    }
    if (std::is_same_v<Target, Config>) names.insert("rule");
    const std::vector<std::string> known(names.begin(), names.end());
    std::optional<std::string> guess = nearest(key, known);
    // The right name in the wrong section is a common mistake.
    const std::string last = key.substr(key.rfind('.') + 1);
    for (const std::string& each : known)
      if (!guess && each.substr(each.rfind('.') + 1) == last) guess = each;
    problem(at, "unknown key '" + full + "'" + (guess ? "; did you mean '" + *guess + "'?" : ""));
  }

  void read_root(const toml::table& root) {
    read_table<Config>(root, "", "", config_fields(), check_.config);
    if (!root.contains("schema")) problem({0, 0}, "schema is missing: the file must begin with schema = 1");
    const toml::node* rules = root.get("rule");
    if (!rules) return;
    const toml::array* list = rules->as_array();
    if (!list || (!list->empty() && !list->is_homogeneous<toml::table>()))
      return problem(rules->source().begin, "rule must be written as [[rule]] sections");
    if (list->size() > kMostRules)
      return problem(rules->source().begin, "more than " + std::to_string(kMostRules) + " rules");
    for (std::size_t i = 0; i < list->size(); ++i) {
      const toml::table& table = *list->get(i)->as_table();
      const std::string prefix = "rule[" + std::to_string(i) + "].";
      places_.emplace(prefix.substr(0, prefix.size() - 1), table.source().begin);
      Rule rule;
      read_table<Rule>(table, "", prefix, rule_fields(), rule);
      check_.config.rules.push_back(std::move(rule));
    }
  }

  ConfigCheck check_;
  std::map<std::string, toml::source_position> places_;
};

Result<std::string> read_small_file(const std::filesystem::path& file) {
  // O_NONBLOCK: a FIFO given by mistake must not hang the start.
  const UniqueFd fd{::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (!fd.valid()) return errno_failure("open", file.string());
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return errno_failure("stat", file.string());
  if (!S_ISREG(info.st_mode))
    return failure(std::errc::invalid_argument, "read", file.string(), "a regular file is wanted");
  std::string text;
  std::array<char, 16384> chunk{};
  while (true) {
    const ssize_t got = ::read(fd.get(), chunk.data(), chunk.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno_failure("read", file.string());
    if (got == 0) return text;
    text.append(chunk.data(), static_cast<std::size_t>(got));
    if (text.size() > kLargestFile) return failure(std::errc::file_too_large, "read", file.string(), "at most 1 MiB");
  }
}

}  // namespace

std::string ConfigProblem::text(std::string_view file) const {
  std::string result(file);
  if (line != 0) result += ":" + std::to_string(line) + ":" + std::to_string(column);
  return result + ": " + message;
}

ConfigCheck parse_config(std::string_view toml) {
  return Loader{}.load(toml);
}

ConfigCheck load_config(const std::filesystem::path& file) {
  const Result<std::string> text = read_small_file(file);
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
