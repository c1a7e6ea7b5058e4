// Reads and checks the agent's configuration. Nothing is guessed: an unknown key, a wrong type or a contradiction is a
// problem, named with its place, and a file with a problem is not used at all.
#pragma once

#include <filesystem>
#include <string_view>
#include <vector>

#include "daemon/control/config.h"
#include "service/config_reader.h"

namespace tidepool::daemon {

using config::ConfigProblem;

struct ConfigCheck {
  Config config;  // complete only when there is no problem
  std::vector<ConfigProblem> problems;
  bool ok() const { return problems.empty(); }
};

ConfigCheck parse_config(std::string_view toml);
// A file that cannot be read is a problem as well. At most 1 MiB.
ConfigCheck load_config(const std::filesystem::path& file);

// `tidepoold --check-config FILE`: writes to standard output, problems to standard error; returns the exit code (0 ok,
// 1 problems). With `json`: one document {"file", "ok", "problems": [{"line","column","message"}], "values": {key:
// value}} on standard output instead.
int run_config_check(const std::filesystem::path& file, bool json);

}  // namespace tidepool::daemon
