// tidepool-memd: lends this host's memory to agents.
#include <prometheus/metric_family.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <iostream>
#include <mutex>
#include <optional>

#include "base/quantity_text.h"
#include "kmod-interfaces/own_process.h"
#include "pool/protocol/key_file.h"
#include "pool/server/memd_config.h"
#include "pool/server/memd_metrics.h"
#include "pool/server/registration.h"
#include "pool/server/server.h"
#include "service/log.h"
#include "service/metrics_endpoint.h"
#include "service/notify.h"
#include "service/program.h"

namespace tidepool::pool::server {
namespace {

constexpr const char* kDefaultConfig = "/etc/tidepool/memd.toml";
constexpr auto kTick = std::chrono::seconds(1);

struct Loaded {
  MemdConfig config;
  protocol::ServerKey key{};
};

// The file, and the key that it names. Problems go to `problems`.
std::optional<Loaded> load(const std::string& path, std::vector<config::ConfigProblem>& problems) {
  MemdConfigCheck check = load_memd_config(path);
  problems = std::move(check.problems);
  if (!problems.empty()) return std::nullopt;
  Loaded loaded;
  // A controller makes the tokens; the key lives as long as the pages.
  const bool own = check.config.controller.endpoints.empty();
  const auto key = own ? protocol::read_key_file(check.config.key_file) : protocol::fresh_random();
  if (!key) {
    problems.push_back({0, 0, (own ? "key_file: " : "") + key.error().message()});
    return std::nullopt;
  }
  loaded.config = std::move(check.config);
  loaded.key = *key;
  return loaded;
}

class Service {
 public:
  Service(std::string path, Loaded loaded)
      : path_(std::move(path)), config_(std::move(loaded.config)), key_(loaded.key) {}

  int run(const sigset_t& signals) {
    if (!start()) return 1;
    watchdog_ = ServiceManager::watchdog_interval();
    beats_ = server_->beats();
    ServiceManager::ready(server_->summary());
    while (true) {
      const timespec patience{std::chrono::seconds(kTick).count(), 0};
      const int number = ::sigtimedwait(&signals, nullptr, &patience);
      if (number == SIGHUP) reload();
      if ((number == SIGTERM || number == SIGINT) && !begin_to_end()) break;
      if (const std::string trouble = server_->trouble(); !trouble.empty()) {
        spdlog::error("msg=\"cannot go on\" error={}", in_quotes(trouble));
        return 1;
      }
      feed_watchdog();
      if (draining_since_ && !goes_on_draining()) break;
    }
    metrics_.reset();
    registration_.reset();
    server_.reset();
    spdlog::info("msg=stopped");
    return 0;
  }

 private:
  bool start() {
    auto server = Server::start(config_, key_, clock_);
    if (!server) return cannot_start(server.error());
    server_ = std::move(*server);
    if (!config_.controller.endpoints.empty()) {
      auto port = controller::make_http_port(
          config_.controller.endpoints,
          {config_.controller.certificate, config_.controller.key, config_.controller.authority}, "tidepool-memd");
      if (!port) return cannot_start(port.error());
      registration_ = std::make_unique<Registration>(
          std::move(*port), RegistrationOptions{config_.name, public_address(config_), config_.failure_domain, key_},
          *server_, clock_);
    }
    if (!config_.metrics.empty()) {
      auto metrics = FamiliesEndpoint::serve(config_.metrics, "metrics", [this] { return metric_families(); });
      if (!metrics) return cannot_start(metrics.error());
      metrics_ = std::move(*metrics);
    }
    std::string listening;
    for (const std::string& each : config_.listen) listening += (listening.empty() ? "" : " ") + each;
    spdlog::info("msg=ready version={} name={} listen={} memory={}", TIDEPOOL_VERSION, config_.name,
                 in_quotes(listening), in_quotes(server_->summary()));
    return true;
  }

  std::vector<prometheus::MetricFamily> metric_families() const {
    std::optional<RegistrationFigures> registration;
    if (registration_ != nullptr) registration = registration_->figures();
    return memd_metric_families(server_->figures(), config_, registration);
  }

  static bool cannot_start(const Error& error) {
    spdlog::error("msg=\"cannot start\" error={}", in_quotes(error.message()));
    return false;
  }

  void reload() {
    ServiceManager::reloading();
    std::vector<config::ConfigProblem> problems;
    std::optional<Loaded> loaded = load(path_, problems);
    for (const auto& each : problems)
      spdlog::error("msg=\"configuration not taken over\" error={}", in_quotes(each.text(path_)));
    if (loaded) {
      for (const std::string& key : keys_that_wait(config_, loaded->config))
        spdlog::warn("msg=\"takes effect after a restart\" key={}", key);
      // The rest of config_ stays as it was read at the start, and is what the metrics tell.
      // The controller knows the key that this boot has.
      server_->apply(loaded->config, registration_ == nullptr ? loaded->key : key_);
      drain_time_ = loaded->config.limits.drain_time;
      set_log_level(loaded->config.log_level);
      spdlog::info("msg=\"configuration taken over\"");
    }
    ServiceManager::ready(server_->summary());
  }

  // False: at once.
  bool begin_to_end() {
    if (draining_since_) {
      spdlog::warn("msg=\"stopping at once\" state={}", in_quotes(server_->summary()));
      return false;
    }
    draining_since_ = clock_.now();
    server_->drain();
    // Whoever holds its slices is told by the controller where else to have them.
    if (registration_ != nullptr) registration_->drain();
    ServiceManager::stopping("draining: " + server_->summary());
    ServiceManager::extend_timeout(drain_time_.value_or(config_.limits.drain_time) + std::chrono::seconds(30));
    spdlog::info("msg=draining state={}", in_quotes(server_->summary()));
    return true;
  }

  bool goes_on_draining() {
    if (server_->drained()) return false;
    if (clock_.now() - *draining_since_ < drain_time_.value_or(config_.limits.drain_time)) {
      ServiceManager::status("draining: " + server_->summary());
      return true;
    }
    spdlog::warn("msg=\"stopping with slices lent: limits.drain_time is over\" state={}",
                 in_quotes(server_->summary()));
    return false;
  }

  // Only when every loop has gone round since the last time.
  void feed_watchdog() {
    if (!watchdog_) return;
    const std::vector<std::uint64_t> now = server_->beats();
    for (std::size_t i = 0; i < now.size(); ++i) {
      if (now[i] == beats_[i]) return;
    }
    beats_ = now;
    ServiceManager::watchdog();
  }

  const std::string path_;
  const MemdConfig config_;
  const protocol::ServerKey key_;
  SystemClock clock_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<Registration> registration_;
  std::unique_ptr<FamiliesEndpoint> metrics_;
  std::optional<std::chrono::microseconds> watchdog_;
  std::optional<std::chrono::milliseconds> drain_time_;  // by a reload
  std::optional<MonoTime> draining_since_;
  std::vector<std::uint64_t> beats_;
};

int serve(const std::string& path, Loaded loaded) {
  const sigset_t signals = begin_service("tidepool-memd", "a memory server", loaded.config.log_level);
  // One for each connection and each slice.
  if (const auto limit = kernel::raise_descriptor_limit(); !limit)
    spdlog::warn("msg=\"few slices can be lent\" error={}", in_quotes(limit.error().message()));
  return Service(path, std::move(loaded)).run(signals);
}

int run(int argc, char** argv) {
  const ProgramDescription program{
      "tidepool-memd",
      "lends memory of this host to Tidepool's agents on other hosts, or on this one.",
      "the configuration and the key file",
      "",
      kDefaultConfig,
      TIDEPOOL_VERSION,
  };
  int status = 0;
  const auto line = parse_program_line(argc, argv, program, status);
  if (!line) return status;
  const std::string& path = line->config;
  std::vector<config::ConfigProblem> problems;
  std::optional<Loaded> loaded = load(path, problems);
  for (const auto& problem : problems) std::cerr << problem.text(path) << "\n";
  if (!loaded) return 1;
  if (line->check) {
    std::cout << path << ": ok\n";
    return 0;
  }
  return serve(path, std::move(*loaded));
}

}  // namespace
}  // namespace tidepool::pool::server

int main(int argc, char** argv) {
  try {
    return tidepool::pool::server::run(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "tidepool-memd: " << error.what() << "\n";
    return 1;
  }
}
