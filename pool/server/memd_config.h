// The configuration of a memory server as a value, and how it is read. docs/memory-servers.md describes every key.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/units.h"
#include "pool/store/medium.h"
#include "service/config_field.h"
#include "service/config_reader.h"
#include "service/log.h"

namespace tidepool::pool::server {

struct MemdConfig {
  int schema = 1;
  std::string name;            // of the server, in answers and logs
  std::string failure_domain;  // servers of one fail together; for whoever places replicas
  std::vector<std::string> listen{"unix:/run/tidepool-memd/memd.sock"};
  std::string group = "tidepool";  // of unix sockets
  bool authenticate_unix = true;   // frames on unix sockets must have tags
  std::string key_file = "/etc/tidepool/memd.key";
  std::string metrics;  // address:port; empty: none

  struct Memory {
    MediumKind kind = MediumKind::kMemfd;
    std::string path;
    Bytes capacity{std::uint64_t{1} << 30};  // with the marks
    bool share = true;                       // memfd: holders on this host may read their slices themselves
  } memory;

  struct Slices {
    std::uint32_t most = 4096;
    Bytes size{std::uint64_t{1} << 30};
    std::uint32_t per_holder = 4096;
    Bytes holder_size{std::uint64_t{1} << 40};
  } slices;

  struct Limits {
    unsigned threads = 0;  // 0: one per core, at most 8
    std::uint32_t connections = 256;
    std::uint32_t pending = 64;  // connections that have shown no token
    std::uint32_t credit_pages = 128;
    std::chrono::milliseconds handshake_time{10'000};
    std::chrono::milliseconds stall_time{30'000};
    std::chrono::milliseconds drain_time{900'000};
  } limits;

  // With it the server's key is made anew at every start, and known to the controller only.
  struct Controller {
    std::vector<std::string> endpoints;  // none: tokens are made by whoever has the key file
    std::string certificate;             // PEM, for https endpoints; all three
    std::string key;
    std::string authority;
    std::string address;  // that agents reach this server at; empty: the first of `listen`
    bool operator==(const Controller&) const = default;
  } controller;

  LogLevel log_level = LogLevel::kInfo;
};

using MemdField = config::ConfigFieldOf<MemdConfig>;
const std::vector<MemdField>& memd_config_fields();

struct MemdConfigCheck {
  MemdConfig config;  // complete only when there is no problem
  std::vector<config::ConfigProblem> problems;
  bool ok() const { return problems.empty(); }
};
MemdConfigCheck parse_memd_config(std::string_view toml);
MemdConfigCheck load_memd_config(const std::filesystem::path& file);

// Keys that differ and take effect only after a restart.
std::vector<std::string> keys_that_wait(const MemdConfig& before, const MemdConfig& after);

// What agents are told to connect to.
std::string public_address(const MemdConfig& config);

// An entry of `listen`, which the loader has checked.
struct ListenAddress {
  bool tcp = false;
  std::string where;  // a path, or address:port
};
ListenAddress parse_listen(const std::string& text);

}  // namespace tidepool::pool::server
