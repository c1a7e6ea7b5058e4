// How every program that serves begins: its command line, signals, log.
#pragma once

#include <signal.h>

#include <functional>
#include <optional>
#include <string>

#include "service/log.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace tidepool {

struct ProgramDescription {
  std::string name;            // "tidepool-memd"
  std::string about;           // one line
  std::string checked;         // by --check-config: "the configuration and the key file"
  std::string examples;        // further ones, a line each
  std::string default_config;  // path
  std::string version;
};

struct ProgramLine {
  std::string config;  // absolute
  bool check = false;  // only say what is wrong with it
};

// --config FILE, --check-config [FILE], --version, --help, and what `more` adds, which is given the flag of the check.
// Absent: `status` is the exit code, and what there is to say was said.
std::optional<ProgramLine> parse_program_line(int argc, char** argv, const ProgramDescription& program, int& status,
                                              const std::function<void(CLI::App&, CLI::Option*)>& more = {});

// Before any thread starts: SIGTERM, SIGINT and SIGHUP are left to whoever waits for what this returns, SIGPIPE is
// ignored, the log is open, as many descriptors as there can be. `what`: "a memory server", for the warning about root.
sigset_t begin_service(const std::string& name, const std::string& what, LogLevel level);

}  // namespace tidepool
