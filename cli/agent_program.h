// The agent's program, for what works without a running agent: --doctor and --check-config.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace tidepool::cli {

// tidepoold beside this program, else in PATH. Absent when there is none.
std::optional<std::string> find_agent_program();

struct ProgramEnd {
  int exit_code = 0;   // 128 + signal when it was killed
  std::string output;  // standard output; empty when it was not captured
};

// Runs it to its end. Captured output is bounded at 16 MiB; standard error goes where ours goes.
Result<ProgramEnd> run_program(const std::string& program, const std::vector<std::string>& arguments, bool capture);

}  // namespace tidepool::cli
