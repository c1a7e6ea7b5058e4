// The configuration of a pool controller as a value, and how it is read. docs/pool-controller.md describes every key.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/units.h"
#include "pool/controller/core/config.h"
#include "service/config_field.h"
#include "service/config_reader.h"
#include "service/http/tls.h"
#include "service/log.h"

namespace tidepool::pool::controller {

enum class StoreKind : std::uint8_t { kSqlite, kEtcd };

struct ControllerConfig {
  int schema = 1;
  std::string name;  // of this controller, in logs and metrics

  struct Api {
    std::string socket = "/run/tidepool-controller/controller.sock";
    std::string group = "tidepool";  // of the socket
    std::string listen;              // host:port for mutual TLS; empty: none
    std::string advertise;           // what other controllers tell clients while this one leads; empty: from the above
    http::TlsFiles tls;
    std::string audit_log = "/var/log/tidepool-controller/audit.jsonl";
    unsigned workers = 16;
    unsigned max_connections = 4096;
    Bytes max_body{std::uint64_t{8} << 20};
    std::chrono::milliseconds request_timeout{10'000};
  } api;

  struct State {
    StoreKind store = StoreKind::kSqlite;
    std::string file = "/var/lib/tidepool-controller/state.db";
  } state;

  struct Etcd {
    std::vector<std::string> endpoints;
    std::string prefix = "/tidepool/";
    std::chrono::milliseconds lease{10'000};
    http::TlsFiles tls;
  } etcd;

  CoreConfig core;
  std::string metrics;  // address:port; empty: none
  LogLevel log_level = LogLevel::kInfo;
};

// What others are told about this controller: api.advertise, or what follows from the other keys.
std::string advertised_address(const ControllerConfig& config);

using ControllerField = config::ConfigFieldOf<ControllerConfig>;
const std::vector<ControllerField>& controller_config_fields();

struct ControllerConfigCheck {
  ControllerConfig config;  // complete only when there is no problem
  std::vector<config::ConfigProblem> problems;
  bool ok() const { return problems.empty(); }
};
ControllerConfigCheck parse_controller_config(std::string_view toml);
ControllerConfigCheck load_controller_config(const std::filesystem::path& file);

// Keys that differ and take effect only after a restart.
std::vector<std::string> keys_that_wait(const ControllerConfig& before, const ControllerConfig& after);

}  // namespace tidepool::pool::controller
