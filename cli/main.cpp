#include <csignal>
#include <cstdio>
#include <exception>

#include "cli/command_line.h"
#include "cli/exit_code.h"

int main(int argc, char** argv) {
  // `tidectl vm list | head` ends quietly; the agent that hangs up shows as an error of the call.
  std::signal(SIGPIPE, SIG_DFL);
  try {
    return tidepool::cli::run_command_line(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "tidectl: %s\n", error.what());
    return static_cast<int>(tidepool::cli::ExitCode::kFailed);
  }
}
