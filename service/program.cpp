#include "service/program.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <iostream>

#include "kmod-interfaces/own_process.h"

namespace tidepool {

std::optional<ProgramLine> parse_program_line(int argc, char** argv, const ProgramDescription& program, int& status,
                                              const std::function<void(CLI::App&, CLI::Option*)>& more) {
  CLI::App app{program.name + ": " + program.about, program.name};
  ProgramLine line;
  app.add_option("--config", line.config, "Configuration file (default " + program.default_config + ")");
  CLI::Option* const check_flag =
      app.add_flag("--check-config", line.check, "Check " + program.checked + ", say what is wrong, and exit");
  app.add_flag(
      "--version",
      [&program](std::int64_t) -> void {
        std::cout << program.name << " " << program.version << "\n";
        throw CLI::Success();
      },
      "Print the version and exit");
  std::string positional;
  app.add_option("file", positional, "Configuration file (with --check-config)")->needs(check_flag);
  if (more) more(app, check_flag);
  app.footer("Examples:\n  " + program.name + " --config " + program.default_config + "\n  " + program.name +
             " --check-config " + program.default_config + program.examples);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    status = app.exit(error) == 0 ? 0 : 2;
    return std::nullopt;
  }
  if (!positional.empty() && !line.config.empty()) {
    std::cerr << program.name << ": name one configuration file, not two\n";
    status = 2;
    return std::nullopt;
  }
  if (line.config.empty()) line.config = positional.empty() ? program.default_config : positional;
  line.config = std::filesystem::absolute(line.config).lexically_normal().string();
  return line;
}

sigset_t begin_service(const std::string& name, const std::string& what, LogLevel level) {
  sigset_t signals;
  ::sigemptyset(&signals);
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) ::sigaddset(&signals, number);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  start_log(name, level);
  if (::geteuid() == 0)
    spdlog::warn("msg=\"running as root, which {} does not need: give it a user of its own\"", what);
  if (const auto limit = kernel::raise_descriptor_limit(); !limit)
    spdlog::warn("msg=\"few descriptors\" error={}", in_quotes(limit.error().message()));
  return signals;
}

}  // namespace tidepool
