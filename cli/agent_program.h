// Programs of Tidepool, for what works without a running one: the agent's --doctor and --check-config, the controller's
// --restore.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace tidepool::cli {

// Beside this program, else in PATH. Absent when there is none.
std::optional<std::string> find_program(std::string_view name);
inline std::optional<std::string> find_agent_program() {
  return find_program("tidepoold");
}

struct ProgramEnd {
  int exit_code = 0;   // 128 + signal when it was killed
  std::string output;  // standard output; empty when it was not captured
};

// Runs it to its end. Captured output is bounded at 16 MiB; standard error goes where ours goes.
Result<ProgramEnd> run_program(const std::string& program, const std::vector<std::string>& arguments, bool capture);

}  // namespace tidepool::cli
