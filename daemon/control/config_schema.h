// The one list of configuration keys: loader, `config show`, reload, and the test of docs/configuration.md all read it.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "daemon/control/config.h"

namespace tidepool::daemon {

// A value as TOML has it, without the TOML library.
using ConfigValue = std::variant<bool, std::int64_t, double, std::string, std::vector<std::string>>;

// Absent: stored. Otherwise what was expected: "a size such as \"4GiB\"".
using SetResult = std::optional<std::string>;

template <class Target>
struct ConfigFieldOf {
  std::string key;   // "safety.host_reserve"; of a rule: "match.domain"
  std::string type;  // as documented: "size or share"
  bool restart;      // a changed value takes effect only after a restart
  std::function<SetResult(const ConfigValue&, Target&)> set;
  std::function<std::string(const Target&)> text;  // "5%"; "" for an optional value that is absent
  std::function<void(const Target& from, Target& to)> copy;
};

using ConfigField = ConfigFieldOf<Config>;
using RuleField = ConfigFieldOf<Rule>;

const std::vector<ConfigField>& config_fields();
const std::vector<RuleField>& rule_fields();

std::string_view text_of(Mode mode);
std::string_view text_of(LogLevel level);
std::string_view text_of(StoreKind kind);
std::string_view text_of(Codec codec);
std::string_view text_of(SwapUse use);
std::string_view text_of(IntegrityAction action);
std::string_view text_of(FdHolderKind kind);
std::string text_of(const Amount& amount);
std::optional<Mode> parse_mode(std::string_view text);
// A service class's name: it becomes a metric's label. At most 64 letters, digits, '-' and '_'.
bool is_word(std::string_view text);
// "4GiB" or "25%".
std::optional<Amount> parse_amount(std::string_view text);

// Every key with its value as it would stand in the file; rules as "rule[0].match.domain".
std::vector<std::pair<std::string, std::string>> config_entries(const Config& config);

struct ConfigChange {
  std::string key;
  std::string before;
  std::string after;
  bool restart = false;  // waits for a restart
};

// What a reload from `before` to `after` changes.
std::vector<ConfigChange> config_diff(const Config& before, const Config& after);

}  // namespace tidepool::daemon
