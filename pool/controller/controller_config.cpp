#include "pool/controller/controller_config.h"

#include <algorithm>
#include <array>
#include <bit>
#include <optional>
#include <utility>

#include "service/config_kinds.h"
#include "service/http/client.h"

namespace tidepool::pool::controller {
namespace {

using namespace config;

constexpr std::size_t kMostEndpoints = 16;
constexpr std::size_t kLongestPrefix = 200;
constexpr Bytes kSmallestSlice{std::uint64_t{2} << 20};
constexpr Bytes kLargestSlice{std::uint64_t{1} << 30};
constexpr Bytes kSmallestBody{std::uint64_t{64} << 10};
constexpr Bytes kLargestBody{std::uint64_t{256} << 20};
constexpr double kLargestBuffer = 0.5;

constexpr std::array<std::pair<StoreKind, std::string_view>, 2> kStoreKinds{
    {{StoreKind::kSqlite, "sqlite"}, {StoreKind::kEtcd, "etcd"}}};

bool is_web_endpoint(const std::string& text) {
  const Result<http::Endpoint> endpoint = http::Endpoint::parse(text);
  return endpoint && endpoint->kind != http::Endpoint::Kind::kUnix;
}

Kind<std::vector<std::string>> etcd_endpoints() {
  return {"list of URLs", "a list of \"http://HOST:PORT\" and \"https://HOST:PORT\", at most 16",
          [](const ConfigValue& value) -> std::optional<std::vector<std::string>> {
            const auto* list = std::get_if<std::vector<std::string>>(&value);
            if (!list || list->size() > kMostEndpoints || !std::ranges::all_of(*list, is_web_endpoint))
              return std::nullopt;
            return *list;
          },
          [](const std::vector<std::string>& list) {
            std::string text = "[";
            for (const std::string& item : list) text += (text.size() > 1 ? ", " : "") + toml_string(item);
            return text + "]";
          }};
}

Kind<std::string> etcd_prefix() {
  return from_text<std::string>(
      "text", "a prefix that begins and ends with '/', of at most 200 printable characters without blanks",
      [](const std::string& text) -> std::optional<std::string> {
        const bool fits = !text.empty() && text.front() == '/' && text.back() == '/' && text.size() <= kLongestPrefix &&
                          std::ranges::all_of(text, [](char c) { return c > ' ' && c < 0x7f; });
        return fits ? std::optional(text) : std::nullopt;
      },
      [](const std::string& text) { return text; });
}

Kind<std::string> api_endpoint() {
  return from_text<std::string>(
      "URL or \"\"", "\"https://HOST:PORT\", \"unix:PATH\" or \"\"",
      [](const std::string& text) -> std::optional<std::string> {
        return text.empty() || http::Endpoint::parse(text) ? std::optional(text) : std::nullopt;
      },
      [](const std::string& text) { return text; });
}

template <class T, class Get>
ControllerField live(std::string key, Kind<T> kind, Get get) {
  return field<ControllerConfig>(std::move(key), false, std::move(kind), get);
}

template <class T, class Get>
ControllerField at_start(std::string key, Kind<T> kind, Get get) {
  return field<ControllerConfig>(std::move(key), true, std::move(kind), get);
}

// `auto&` is a type.
// NOLINTBEGIN(bugprone-macro-parentheses)
#define MEMBER(path)          \
  [](auto& target) -> auto& { \
    return target.path;       \
  }
// NOLINTEND(bugprone-macro-parentheses)

std::vector<ControllerField> make_fields() {
  return {
      at_start("schema", config::count<int>(1, 1), MEMBER(schema)),
      at_start("name", word(), MEMBER(name)),
      at_start("metrics", endpoint(), MEMBER(metrics)),
      at_start("api.socket", socket_path(true), MEMBER(api.socket)),
      at_start("api.group", word(), MEMBER(api.group)),
      at_start("api.listen", endpoint(), MEMBER(api.listen)),
      at_start("api.advertise", api_endpoint(), MEMBER(api.advertise)),
      at_start("api.certificate", path(true), MEMBER(api.tls.certificate)),
      at_start("api.key", path(true), MEMBER(api.tls.key)),
      at_start("api.authority", path(true), MEMBER(api.tls.authority)),
      at_start("api.audit_log", path(true), MEMBER(api.audit_log)),
      at_start("api.workers", config::count<unsigned>(1, 64), MEMBER(api.workers)),
      at_start("api.max_connections", config::count<unsigned>(1, 65536), MEMBER(api.max_connections)),
      at_start("api.max_body", size(), MEMBER(api.max_body)),
      at_start("api.request_timeout", duration(), MEMBER(api.request_timeout)),
      at_start("state.store", choice<StoreKind>(kStoreKinds), MEMBER(state.store)),
      at_start("state.file", path(false), MEMBER(state.file)),
      at_start("etcd.endpoints", etcd_endpoints(), MEMBER(etcd.endpoints)),
      at_start("etcd.prefix", etcd_prefix(), MEMBER(etcd.prefix)),
      at_start("etcd.lease", duration(), MEMBER(etcd.lease)),
      at_start("etcd.certificate", path(true), MEMBER(etcd.tls.certificate)),
      at_start("etcd.key", path(true), MEMBER(etcd.tls.key)),
      at_start("etcd.authority", path(true), MEMBER(etcd.tls.authority)),
      live("slices.size", size(), MEMBER(core.slice_bytes)),
      live("slices.replicas", config::count<unsigned>(1, 3), MEMBER(core.replicas)),
      live("servers.heartbeat", duration(), MEMBER(core.heartbeat)),
      live("servers.suspect_after", duration(), MEMBER(core.suspect_after)),
      live("servers.lost_after", duration(), MEMBER(core.lost_after)),
      live("hosts.sync", duration(), MEMBER(core.sync)),
      live("hosts.silent_after", duration(), MEMBER(core.host_silent_after)),
      live("leases.time", duration(), MEMBER(core.lease)),
      live("leases.confirm_time", duration(), MEMBER(core.offer)),
      live("leases.reclaim_time", duration(), MEMBER(core.reclaim)),
      live("shares.interval", duration(), MEMBER(core.round)),
      live("shares.buffer", share(), MEMBER(core.buffer)),
      live("copies.per_host", config::count<unsigned>(1, 64), MEMBER(core.copies_per_host)),
      live("copies.per_server", config::count<unsigned>(1, 64), MEMBER(core.copies_per_server)),
      live("copies.balance", config::count<unsigned>(0, 64), MEMBER(core.balance_moves)),
      live("history.entries", config::count<std::uint32_t>(0, 1'000'000), MEMBER(core.history)),
      live("log.level", choice<LogLevel>(kLogLevels), MEMBER(log_level)),
  };
}

#undef MEMBER

bool is_whole(const http::TlsFiles& files) {
  return files.empty() || (!files.certificate.empty() && !files.key.empty() && !files.authority.empty());
}

void check_api(const ControllerConfig& config, ConfigReader& reader) {
  const ControllerConfig::Api& api = config.api;
  if (config.name.empty()) reader.contradiction("name", "name is missing: what this controller is called");
  if (api.socket.empty() && api.listen.empty())
    reader.contradiction("api", "api.socket and api.listen are both empty: nobody could ask this controller");
  if (!is_whole(api.tls))
    reader.contradiction("api", "api.certificate, api.key and api.authority belong together: give all three or none");
  if (!api.listen.empty() && api.tls.empty())
    reader.contradiction("api.listen",
                         "api.listen needs api.certificate, api.key and api.authority: nobody is served "
                         "over a network without certificates");
  if (api.max_body < kSmallestBody || api.max_body > kLargestBody)
    reader.contradiction("api.max_body", "api.max_body must be from 64KiB to 256MiB");
  if (api.request_timeout < std::chrono::milliseconds(100) || api.request_timeout > std::chrono::minutes(10))
    reader.contradiction("api.request_timeout", "api.request_timeout must be from 100ms to 10m");
}

// An address that means every one of this host's.
bool is_wildcard(const std::string& listen) {
  return listen.starts_with("0.0.0.0:") || listen.starts_with("[::]:");
}

void check_etcd(const ControllerConfig& config, ConfigReader& reader) {
  const ControllerConfig::Etcd& etcd = config.etcd;
  const bool wanted = config.state.store == StoreKind::kEtcd;
  if (wanted && etcd.endpoints.empty())
    reader.contradiction("etcd.endpoints", "etcd.endpoints is missing: state.store = \"etcd\" needs one at least");
  if (!wanted && !etcd.endpoints.empty())
    reader.contradiction("etcd.endpoints",
                         "etcd.endpoints has no meaning with state.store = \"sqlite\": leave one of "
                         "them out");
  if (wanted && is_wildcard(config.api.listen) && config.api.advertise.empty())
    reader.contradiction("api.advertise",
                         "api.advertise is missing: nobody can ask for the leader at " + config.api.listen);
  if (!is_whole(etcd.tls))
    reader.contradiction("etcd",
                         "etcd.certificate, etcd.key and etcd.authority belong together: give all three or none");
  if (std::ranges::any_of(etcd.endpoints, [](const std::string& url) { return url.starts_with("https:"); }) &&
      etcd.tls.empty())
    reader.contradiction("etcd.endpoints", "https needs etcd.certificate, etcd.key and etcd.authority");
  if (etcd.lease < std::chrono::seconds(2) || etcd.lease > std::chrono::minutes(5) ||
      etcd.lease % std::chrono::seconds(1) != std::chrono::milliseconds(0))
    reader.contradiction("etcd.lease", "etcd.lease must be from 2s to 5m, in whole seconds");
}

void check_core(const CoreConfig& core, ConfigReader& reader) {
  if (core.slice_bytes < kSmallestSlice || core.slice_bytes > kLargestSlice ||
      !std::has_single_bit(core.slice_bytes.value))
    reader.contradiction("slices.size", "slices.size must be a power of two from 2MiB to 1GiB");
  if (core.heartbeat.count() <= 0 || core.suspect_after <= core.heartbeat || core.lost_after <= core.suspect_after)
    reader.contradiction("servers", "servers.heartbeat < servers.suspect_after < servers.lost_after must hold");
  if (core.sync.count() <= 0 || core.host_silent_after <= core.sync)
    reader.contradiction("hosts", "hosts.sync < hosts.silent_after must hold");
  if (core.lease < core.sync * 3)
    reader.contradiction("leases.time",
                         "leases.time must be 3 times hosts.sync at least: leases are renewed at a third "
                         "of it");
  if (core.offer <= core.sync)
    reader.contradiction("leases.confirm_time", "leases.confirm_time must be above hosts.sync");
  if (core.reclaim <= core.sync)
    reader.contradiction("leases.reclaim_time", "leases.reclaim_time must be above hosts.sync");
  if (core.round.count() <= 0) reader.contradiction("shares.interval", "shares.interval must be more than 0");
  if (core.buffer > kLargestBuffer) reader.contradiction("shares.buffer", "shares.buffer must be 50% at most");
}

}  // namespace

std::string advertised_address(const ControllerConfig& config) {
  if (!config.api.advertise.empty()) return config.api.advertise;
  if (!config.api.listen.empty()) return "https://" + config.api.listen;
  return "unix:" + config.api.socket;
}

const std::vector<ControllerField>& controller_config_fields() {
  static const std::vector<ControllerField> fields = make_fields();
  return fields;
}

ControllerConfigCheck parse_controller_config(std::string_view toml) {
  ControllerConfigCheck check;
  ConfigReader reader;
  reader.read(toml, bind(controller_config_fields(), check.config));
  if (reader.ok()) {
    check_api(check.config, reader);
    check_etcd(check.config, reader);
    check_core(check.config.core, reader);
  }
  check.problems = reader.take_problems();
  return check;
}

ControllerConfigCheck load_controller_config(const std::filesystem::path& file) {
  const Result<std::string> text = read_small_file(file);
  if (text) return parse_controller_config(*text);
  ControllerConfigCheck check;
  check.problems.push_back({0, 0, text.error().message()});
  return check;
}

std::vector<std::string> keys_that_wait(const ControllerConfig& before, const ControllerConfig& after) {
  std::vector<std::string> keys;
  for (const ControllerField& each : controller_config_fields())
    if (each.restart && each.text(before) != each.text(after)) keys.push_back(each.key);
  return keys;
}

}  // namespace tidepool::pool::controller
