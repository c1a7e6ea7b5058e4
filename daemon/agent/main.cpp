// tidepoold: the agent of one host.
#include <signal.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <iostream>

#include "daemon/agent/agent.h"
#include "daemon/control/api_json.h"
#include "daemon/control/api_server.h"
#include "daemon/control/config_loader.h"
#include "daemon/vm/doctor.h"
#include "kmod-interfaces/kernel_features.h"
#include "kmod-interfaces/own_process.h"
#include "service/log.h"
#include "service/notify.h"
#include "service/unix_listener.h"

namespace tidepool::daemon {
namespace {

constexpr const char* kDefaultConfig = "/etc/tidepool/tidepool.toml";

// The agent must survive the pressure that it manages: never swapped out, last to be killed, with descriptors for many
// VMs.
void prepare_process() {
  const auto warn = [](const Result<>& done) {
    if (!done)
      spdlog::warn("msg=\"the agent is not protected from memory pressure\" error={}",
                   in_quotes(done.error().message()));
  };
  warn(kernel::lock_memory(kernel::LockMemory::kTouched));
  warn(kernel::set_oom_score_adjust({}, -1000));
  if (const auto limit = kernel::raise_descriptor_limit(); !limit)
    spdlog::warn("msg=\"few descriptors\" error={}", in_quotes(limit.error().message()));
}

int print_doctor() {
  const DoctorReport report = diagnose(kernel::probe_kernel_features({}));
  std::cout << doctor_document(report) << std::flush;
  return std::any_of(report.rows.begin(), report.rows.end(),
                     [](const DoctorRow& row) { return row.verdict == Verdict::kFail; })
             ? 1
             : 0;
}

// True when the agent may end. It may not while anything is far and cannot come home.
bool try_to_end(Agent& agent) {
  ServiceManager::stopping("bringing everything home");
  ServiceManager::extend_timeout(std::chrono::minutes(15));
  spdlog::info("msg=\"stopping: bringing everything home\" state={}", in_quotes(agent.summary()));
  const Result<> home = agent.come_home();
  if (home) return true;
  spdlog::error("msg=\"refusing to stop\" error={}", in_quotes(home.error().message()));
  ServiceManager::status("refuses to stop: " + home.error().message());
  return false;
}

int serve(const std::string& path, Config config) {
  sigset_t signals;
  ::sigemptyset(&signals);
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) ::sigaddset(&signals, number);
  // Before any thread starts, so that all of them leave these to us.
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGCHLD, SIG_DFL);  // ignored by whoever started us, it would lose the helper's exit status

  start_log("tidepoold", config.log.level);
  prepare_process();
  const ApiServerOptions api = api_server_options(config);
  // First of all: where another agent is at work, nothing of it may be touched.
  auto listener = UnixListener::bind(api.socket, api.group);
  if (!listener) {
    spdlog::error("msg=\"cannot start\" error={}", in_quotes(listener.error().message()));
    return 1;
  }
  auto agent = Agent::start({path, std::move(config)});
  if (!agent) {
    spdlog::error("msg=\"cannot start\" error={}", in_quotes(agent.error().message()));
    return 1;
  }
  auto server = ApiServer::start(api, **agent, std::move(*listener));
  if (!server) {
    spdlog::error("msg=\"cannot start\" error={}", in_quotes(server.error().message()));
    return 1;
  }
  spdlog::info("msg=ready version={} socket={}", TIDEPOOL_VERSION, api.socket);
  ServiceManager::ready((*agent)->summary());
  for (;;) {
    int number = 0;
    if (::sigwait(&signals, &number) != 0) continue;
    if (number == SIGHUP) {
      ServiceManager::reloading();
      (void)(*agent)->reload();  // says itself what is wrong, and goes on with the old configuration
      (void)(*server)->reopen_audit_log();
      ServiceManager::ready((*agent)->summary());
    } else if (try_to_end(**agent)) {
      break;
    } else {
      ServiceManager::ready((*agent)->summary());
    }
  }
  server->reset();
  agent->reset();
  spdlog::info("msg=stopped");
  return 0;
}

int run(int argc, char** argv) {
  CLI::App app{
      "tidepoold: keeps cold memory of this host's VMs in a pool and brings it back when it is touched.\n"
      "Observes until told otherwise.",
      "tidepoold"};
  std::string path;
  bool check = false;
  bool doctor = false;
  bool json = false;
  app.add_option("--config", path,
                 std::string("Configuration file (") + kDefaultConfig + " when it exists, else the defaults)");
  CLI::Option* check_flag =
      app.add_flag("--check-config", check, "Check the configuration, say what is wrong, and exit");
  app.add_flag("--json", json, "With --check-config: answer as JSON")->needs(check_flag);
  app.add_flag("--doctor", doctor, "Print as JSON what this host offers and what that means, and exit")
      ->excludes(check_flag);
  app.add_flag(
      "--version",
      [](std::int64_t) -> void {
        std::cout << "tidepoold " << TIDEPOOL_VERSION << "\n";
        throw CLI::Success();
      },
      "Print the version and exit");
  std::string positional;
  app.add_option("file", positional, "Configuration file (with --check-config)")->needs(check_flag);
  app.footer(
      "Examples:\n  tidepoold --config /etc/tidepool/tidepool.toml\n  tidepoold --check-config "
      "/etc/tidepool/tidepool.toml\n  tidepoold --doctor");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? 0 : 2;
  }
  if (doctor) return print_doctor();
  if (!positional.empty() && !path.empty()) {
    std::cerr << "tidepoold: name one configuration file, not two\n";
    return 2;
  }
  if (path.empty()) path = positional;
  if (path.empty() && ::access(kDefaultConfig, R_OK) == 0) path = kDefaultConfig;
  // What is read again at a reload, and named to people, does not depend on a folder.
  if (!path.empty()) path = std::filesystem::absolute(path).lexically_normal().string();
  if (check) {
    if (path.empty()) {
      std::cerr << "tidepoold: --check-config needs a file\n";
      return 2;
    }
    return run_config_check(path, json);
  }
  Config config;
  if (!path.empty()) {
    ConfigCheck loaded = load_config(path);
    if (!loaded.ok()) {
      for (const ConfigProblem& problem : loaded.problems) std::cerr << problem.text(path) << "\n";
      return 1;
    }
    config = std::move(loaded.config);
  }
  return serve(path, std::move(config));
}

}  // namespace
}  // namespace tidepool::daemon

int main(int argc, char** argv) {
  try {
    return tidepool::daemon::run(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "tidepoold: " << error.what() << "\n";
    return 1;
  }
}
