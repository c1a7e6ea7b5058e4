// The one list of configuration keys: loader, `config show`, reload, and the test of docs/configuration.md all read it.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "daemon/control/config.h"
#include "service/config_field.h"
#include "service/config_kinds.h"

namespace tidepool::daemon {

template <class Target>
using ConfigFieldOf = config::ConfigFieldOf<Target>;
using config::ConfigValue;
using config::is_word;  // a service class's name
using config::SetResult;

using ConfigField = ConfigFieldOf<Config>;
using RuleField = ConfigFieldOf<Rule>;
using MemoryServerField = ConfigFieldOf<MemoryServer>;

const std::vector<ConfigField>& config_fields();
const std::vector<RuleField>& rule_fields();
const std::vector<MemoryServerField>& memory_server_fields();

std::string_view text_of(Mode mode);
std::string_view text_of(StoreKind kind);
std::string_view text_of(Codec codec);
std::string_view text_of(SwapUse use);
std::string_view text_of(IntegrityAction action);
std::string_view text_of(FdHolderKind kind);
std::string text_of(const Amount& amount);
std::optional<Mode> parse_mode(std::string_view text);
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
