// The command line of tidepool-load.
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "base/result.h"
#include "bench/load/report.h"
#include "bench/load/run.h"
#include "bench/load/workload_memory.h"

namespace tidepool::load {

struct LoadOptions {
  MemoryRequest memory;
  RunSettings run;
  std::chrono::nanoseconds duration{0};         // 0: until SIGINT or SIGTERM
  std::chrono::nanoseconds hold_after_fill{0};  // idle time between fill and work
  bool discard = false;
  bool final_check = true;
  std::string handoff_socket;  // hand the memory off there; empty: do not
  OutputFormat output = OutputFormat::kTable;
};

// What to do: run with options, or exit with a status after text was printed (help, version, usage error).
struct ParsedCommandLine {
  LoadOptions options;
  std::optional<int> exit_status;
};

inline constexpr int kExitMismatch = 1;
inline constexpr int kExitUsage = 2;

ParsedCommandLine parse_command_line(int argc, char** argv);

}  // namespace tidepool::load
