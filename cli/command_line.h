// The command line: what may be typed, its help, and what is done then.
#pragma once

namespace tidepool::cli {

// The whole program: parses, runs, returns the exit status (exit_code.h).
int run_command_line(int argc, char** argv);

}  // namespace tidepool::cli
