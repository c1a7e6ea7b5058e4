// tidepool-controller: leases the memory of memory servers to VMs.
#include <prometheus/metric_family.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <thread>

#include "base/quantity_text.h"
#include "base/text.h"
#include "pool/controller/api/routes.h"
#include "pool/controller/controller_config.h"
#include "pool/controller/controller_metrics.h"
#include "pool/controller/driver.h"
#include "pool/controller/restore.h"
#include "pool/controller/state/etcd_store.h"
#include "pool/controller/state/sqlite_store.h"
#include "service/http/server.h"
#include "service/log.h"
#include "service/metrics_endpoint.h"
#include "service/notify.h"
#include "service/program.h"

namespace tidepool::pool::controller {
namespace {

constexpr const char* kDefaultConfig = "/etc/tidepool/controller.toml";
constexpr auto kTick = std::chrono::seconds(1);
// Until it is known whether this controller leads, follows or cannot do either; service managers are told then.
constexpr auto kDecision = std::chrono::seconds(10);
constexpr auto kDecisionPoll = std::chrono::milliseconds(10);
// Requests that wait for a worker of the API, which waits for a commit.
constexpr std::size_t kMostWaiting = 256;

// The file, and whatever else of it can be checked. Problems go to `problems`.
std::optional<ControllerConfig> load(const std::string& path, std::vector<config::ConfigProblem>& problems) {
  ControllerConfigCheck check = load_controller_config(path);
  problems = std::move(check.problems);
  if (!problems.empty()) return std::nullopt;
  for (const auto& [key, files] : {std::pair{"api", &check.config.api.tls}, {"etcd", &check.config.etcd.tls}}) {
    if (files->empty()) continue;
    if (const auto readable = http::server_context(*files); !readable)
      problems.push_back({0, 0, std::string(key) + ": " + readable.error().message()});
  }
  if (!problems.empty()) return std::nullopt;
  return check.config;
}

EtcdStoreOptions etcd_options(const ControllerConfig& config) {
  EtcdStoreOptions options;
  options.endpoints = {config.etcd.endpoints, config.etcd.tls};
  options.prefix = config.etcd.prefix;
  options.name = advertised_address(config);
  options.lease = std::chrono::duration_cast<std::chrono::seconds>(config.etcd.lease);
  return options;
}

Result<std::unique_ptr<StateStore>> make_store(const ControllerConfig& config) {
  if (config.state.store == StoreKind::kEtcd) return make_etcd_store(etcd_options(config));
  return make_sqlite_store(config.state.file, advertised_address(config));
}

http::ServerOptions api_options(const ControllerConfig& config) {
  http::ServerOptions options;
  options.who = "controller";
  options.socket = config.api.socket;
  options.group = config.api.group;
  options.address = config.api.listen;
  options.tls = config.api.tls;
  options.audit_log = config.api.audit_log;
  options.workers = config.api.workers;
  options.max_connections = config.api.max_connections;
  options.max_unproven = std::max(32u, config.api.max_connections / 8);
  options.max_waiting = kMostWaiting;
  options.max_body = config.api.max_body.value;
  options.request_timeout = config.api.request_timeout;
  return options;
}

std::string summary_of(const ControllerState& state) {
  switch (state.phase) {
    case ControllerPhase::kWaiting:
      return state.leader.empty() ? "waiting to lead" : "following " + state.leader;
    case ControllerPhase::kLoading:
      return "loading";
    case ControllerPhase::kLeading:
      return "leading";
    case ControllerPhase::kFailing:
      return "cannot lead: " + state.trouble;
    case ControllerPhase::kEnded:
      return "ended";
  }
  return "";
}

class Service {
 public:
  Service(std::string path, ControllerConfig config)
      : path_(std::move(path)), config_(std::move(config)), core_(config_.core) {}

  int run(const sigset_t& signals) {
    if (!start()) return 1;
    watchdog_ = ServiceManager::watchdog_interval();
    ServiceManager::ready(summary_of(controller_->state()));
    while (true) {
      const timespec patience{std::chrono::seconds(kTick).count(), 0};
      const int number = ::sigtimedwait(&signals, nullptr, &patience);
      if (number == SIGHUP) reload();
      if (number == SIGTERM || number == SIGINT) break;
      const ControllerState state = controller_->state();
      if (state.hopeless) {
        cannot_start(state.trouble);
        return 1;
      }
      tell_status(summary_of(state));
      feed_watchdog(state);
    }
    ServiceManager::stopping("resigning");
    // First, so that the next one leads soon; whoever still asks here is sent there.
    controller_->end();
    server_.reset();
    metrics_.reset();
    spdlog::info("msg=stopped");
    return 0;
  }

 private:
  bool start() {
    auto store = make_store(config_);
    if (!store) return cannot_start(store.error().message());
    ControllerOptions options;
    options.core = core_;
    controller_ = std::make_unique<Controller>(std::move(*store), options, clock_);
    handler_ = std::make_unique<ApiHandler>(*controller_);
    auto server = http::Server::start(api_options(config_), *handler_);
    if (!server) return cannot_start(server.error().message());
    server_ = std::move(*server);
    if (!config_.metrics.empty()) {
      auto metrics = FamiliesEndpoint::serve(config_.metrics, "metrics", [this] { return families(); });
      if (!metrics) return cannot_start(metrics.error().message());
      metrics_ = std::move(*metrics);
    }
    const ControllerState state = await_decision();
    if (state.hopeless) return cannot_start(state.trouble);
    spdlog::info("msg=ready version={} name={} advertised={} state={}", TIDEPOOL_VERSION, config_.name,
                 in_quotes(advertised_address(config_)), in_quotes(summary_of(state)));
    return true;
  }

  ControllerState await_decision() {
    const MonoTime until = clock_.now() + kDecision;
    while (true) {
      ControllerState state = controller_->state();
      const bool follows = state.phase == ControllerPhase::kWaiting && !state.leader.empty();
      const bool decided =
          follows || state.phase == ControllerPhase::kLeading || state.phase == ControllerPhase::kFailing;
      if (decided || clock_.now() > until) return state;
      std::this_thread::sleep_for(kDecisionPoll);
    }
  }

  static bool cannot_start(const std::string& why) {
    spdlog::error("msg=\"cannot start\" error={}", in_quotes(why));
    return false;
  }

  std::vector<prometheus::MetricFamily> families() {
    ControllerView view{config_.name, controller_->state(), controller_->figures(), server_->counters(),
                        view_of_pool(*controller_)};
    return controller_metric_families(view);
  }

  void reload() {
    ServiceManager::reloading();
    std::vector<config::ConfigProblem> problems;
    const std::optional<ControllerConfig> loaded = load(path_, problems);
    for (const auto& each : problems)
      spdlog::error("msg=\"configuration not taken over\" error={}", in_quotes(each.text(path_)));
    if (loaded) take_over(*loaded);
    // Whatever the file says: log rotation and new certificates come with the same signal.
    if (const Result<> reopened = server_->reopen_audit_log(); !reopened)
      spdlog::error("msg=\"cannot reopen the audit log\" error={}", in_quotes(reopened.error().message()));
    if (!config_.api.tls.empty()) {
      if (const Result<> tls = server_->reload_tls(); !tls)
        spdlog::error("msg=\"certificates not taken over\" error={}", in_quotes(tls.error().message()));
    }
    ServiceManager::ready(summary_of(controller_->state()));
  }

  void take_over(const ControllerConfig& loaded) {
    for (const std::string& key : keys_that_wait(config_, loaded))
      spdlog::warn("msg=\"takes effect after a restart\" key={}", key);
    // The rest of config_ stays as it was read at the start.
    controller_->reconfigure(loaded.core);
    set_log_level(loaded.log_level);
    spdlog::info("msg=\"configuration taken over\"");
  }

  void tell_status(const std::string& status) {
    if (status == told_) return;
    told_ = status;
    ServiceManager::status(status);
  }

  // Only when its thread has gone round since the last time, or waits for another one to lead no more.
  void feed_watchdog(const ControllerState& state) {
    if (!watchdog_) return;
    const std::uint64_t now = controller_->beats();
    if (now == beats_ && state.phase != ControllerPhase::kWaiting) return;
    beats_ = now;
    ServiceManager::watchdog();
  }

  const std::string path_;
  const ControllerConfig config_;
  const CoreConfig core_;
  SystemClock clock_;
  std::unique_ptr<Controller> controller_;
  std::unique_ptr<ApiHandler> handler_;
  std::unique_ptr<http::Server> server_;
  std::unique_ptr<FamiliesEndpoint> metrics_;  // last: it asks the others
  std::optional<std::chrono::microseconds> watchdog_;
  std::uint64_t beats_ = 0;
  std::string told_;
};

int serve(const std::string& path, ControllerConfig config) {
  const sigset_t signals = begin_service("tidepool-controller", "a controller", config.log_level);
  return Service(path, std::move(config)).run(signals);
}

int restore(const ControllerConfig& config, const std::string& backup) {
  const Result<std::uint64_t> records = config.state.store == StoreKind::kEtcd
                                            ? restore_into_etcd(etcd_options(config), backup)
                                            : restore_into_sqlite(config.state.file, backup);
  if (!records) {
    std::cerr << "tidepool-controller: " << records.error().message() << "\n";
    return 1;
  }
  std::cout << "restored " << *records << " records from " << printable(backup) << "\n";
  return 0;
}

int run(int argc, char** argv) {
  const ProgramDescription program{
      "tidepool-controller",
      "leases the memory of memory servers to VMs, and moves it between them.",
      "the configuration and the certificates",
      "\n  tidepool-controller --restore /var/backups/tidepool.db",
      kDefaultConfig,
      TIDEPOOL_VERSION,
  };
  std::string backup;
  int status = 0;
  const auto line = parse_program_line(argc, argv, program, status, [&](CLI::App& app, CLI::Option* check) {
    app.add_option("--restore", backup,
                   "Replace all records by those of this backup, and exit; no controller may be running with them")
        ->excludes(check);
  });
  if (!line) return status;
  const std::string& path = line->config;
  std::vector<config::ConfigProblem> problems;
  std::optional<ControllerConfig> loaded = load(path, problems);
  for (const auto& problem : problems) std::cerr << problem.text(path) << "\n";
  if (!loaded) return 1;
  if (line->check) {
    std::cout << path << ": ok\n";
    return 0;
  }
  if (!backup.empty()) return restore(*loaded, std::filesystem::absolute(backup).lexically_normal().string());
  return serve(path, std::move(*loaded));
}

}  // namespace
}  // namespace tidepool::pool::controller

int main(int argc, char** argv) {
  try {
    return tidepool::pool::controller::run(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "tidepool-controller: " << error.what() << "\n";
    return 1;
  }
}
