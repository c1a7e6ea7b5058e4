#include "daemon/control/config_schema.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <map>

#include "base/quantity_text.h"
#include "pool/client/endpoint.h"
#include "pool/controller/port/endpoint_kind.h"
#include "service/config_kinds.h"

namespace tidepool::daemon {
namespace {

using namespace config;

constexpr std::array<std::pair<Mode, std::string_view>, 3> kModes{
    {{Mode::kObserve, "observe"}, {Mode::kDryRun, "dry-run"}, {Mode::kActive, "active"}}};
constexpr std::array<std::pair<StoreKind, std::string_view>, 3> kStores{
    {{StoreKind::kMapped, "mapped"}, {StoreKind::kCompressed, "compressed"}, {StoreKind::kFile, "file"}}};
constexpr std::array<std::pair<Codec, std::string_view>, 2> kCodecs{{{Codec::kLz4, "lz4"}, {Codec::kZstd, "zstd"}}};
constexpr std::array<std::pair<PageCodec, std::string_view>, 3> kPageCodecs{
    {{PageCodec::kNone, "none"}, {PageCodec::kLz4, "lz4"}, {PageCodec::kZstd, "zstd"}}};
constexpr std::array<std::pair<SwapUse, std::string_view>, 3> kSwapUses{
    {{SwapUse::kAuto, "auto"}, {SwapUse::kAny, "any"}, {SwapUse::kOff, "off"}}};
constexpr std::array<std::pair<IntegrityAction, std::string_view>, 2> kActions{
    {{IntegrityAction::kStop, "stop"}, {IntegrityAction::kKill, "kill"}}};
constexpr std::array<std::pair<FdHolderKind, std::string_view>, 3> kHolders{
    {{FdHolderKind::kAuto, "auto"}, {FdHolderKind::kKeeper, "keeper"}, {FdHolderKind::kSystemd, "systemd"}}};

Kind<Amount> amount() {
  return from_text<Amount>("size or share", "a size such as \"4GiB\" or a share such as \"25%\"", parse_amount,
                           [](const Amount& value) { return text_of(value); });
}

template <class T, class Get>
ConfigField live(std::string key, Kind<T> kind, Get get) {
  return field<Config>(std::move(key), false, std::move(kind), get);
}

template <class T, class Get>
ConfigField at_start(std::string key, Kind<T> kind, Get get) {
  return field<Config>(std::move(key), true, std::move(kind), get);
}

Kind<std::string> host_name() {
  const auto parse = [](const std::string& text) -> std::optional<std::string> {
    const bool right = text.size() <= 64 && std::ranges::all_of(text, [](unsigned char c) {
                         return std::isalnum(c) != 0 || c == '.' || c == '_' || c == '-';
                       });
    return right ? std::optional(text) : std::nullopt;
  };
  return from_text<std::string>("name or \"\"", "at most 64 of A-Z a-z 0-9 . _ - , or \"\"", parse,
                                [](const std::string& text) { return text; });
}

Kind<std::string> server_address() {
  const auto parse = [](const std::string& text) -> std::optional<std::string> {
    return pool::parse_endpoint(text) ? std::optional(text) : std::nullopt;
  };
  return from_text<std::string>("address", "\"unix:/path\" or \"tcp:host:port\"", parse,
                                [](const std::string& text) { return text; });
}

template <class T, class Get>
RuleField of_rule(std::string key, Kind<T> kind, Get get) {
  RuleField result = field<Rule>(std::move(key), false, std::move(kind), get);
  return result;
}

// An empty pattern is one that was not given.
RuleField match_field(std::string key, std::string RuleMatch::*member) {
  RuleField result = of_rule(
      std::move(key), glob(), [member](auto& rule) -> auto& { return rule.match.*member; });
  result.text = [member](const Rule& rule) {
    return (rule.match.*member).empty() ? "" : toml_string(rule.match.*member);
  };
  return result;
}

// NOLINTBEGIN(bugprone-macro-parentheses): the path is a member's name
#define MEMBER(path)          \
  [](auto& target) -> auto& { \
    return target.path;       \
  }
// NOLINTEND(bugprone-macro-parentheses)

std::vector<ConfigField> service_fields() {
  return {
      at_start("schema", count<int>(1, 1), MEMBER(schema)),
      live("mode", choice<Mode>(kModes), MEMBER(mode)),
      at_start("api.socket", socket_path(false), MEMBER(api.socket)),
      at_start("api.metrics", endpoint(), MEMBER(api.metrics)),
      at_start("api.audit_log", path(true), MEMBER(api.audit_log)),
      at_start("api.group", word(), MEMBER(api.group)),
      at_start("api.workers", count<unsigned>(1, 64), MEMBER(api.workers)),
      at_start("api.max_connections", count<unsigned>(1, 10000), MEMBER(api.max_connections)),
      at_start("api.request_timeout", duration(), MEMBER(api.request_timeout)),
      live("log.level", choice<LogLevel>(kLogLevels), MEMBER(log.level)),
      at_start("keeper.holder", choice<FdHolderKind>(kHolders), MEMBER(keeper.holder)),
      at_start("keeper.socket", socket_path(false), MEMBER(keeper.socket)),
      at_start("keeper.program", path(true), MEMBER(keeper.program)),
  };
}

std::vector<ConfigField> behaviour_fields() {
  return {
      live("safety.host_reserve", amount(), MEMBER(safety.host_reserve)),
      live("safety.max_far", amount(), MEMBER(safety.max_far)),
      live("safety.require_evacuable", boolean(), MEMBER(safety.require_evacuable)),
      live("safety.on_integrity_failure", choice<IntegrityAction>(kActions), MEMBER(safety.on_integrity_failure)),
      live("safety.max_active_vms", count<unsigned>(0, 100000), MEMBER(safety.max_active_vms)),
      live("safety.canary_time", duration(), MEMBER(safety.canary_time)),
      live("adopt.auto", boolean(), MEMBER(adopt.automatic)),
      live("adopt.scan_interval", duration(), MEMBER(adopt.scan_interval)),
      live("adopt.allow_exe", path_globs(), MEMBER(adopt.allow_exe)),
      live("adopt.allow_ptrace", boolean(), MEMBER(adopt.allow_ptrace)),
      at_start("adopt.helper", path(true), MEMBER(adopt.helper)),
      at_start("adopt.handoff_socket", socket_path(true), MEMBER(adopt.handoff_socket)),
      at_start("adopt.handoff_group", word(), MEMBER(adopt.handoff_group)),
      live("defaults.class", word(), MEMBER(defaults.service_class)),
      live("defaults.guarantee", amount(), MEMBER(defaults.guarantee)),
      live("defaults.limit", amount(), MEMBER(defaults.limit)),
      live("defaults.stall_budget", share(), MEMBER(defaults.stall_budget)),
      live("defaults.min_cold_age", duration(), MEMBER(defaults.min_cold_age)),
      live("limits.tracker_cpu", share(), MEMBER(limits.tracker_cpu)),
      at_start("limits.spin_cpu", share(), MEMBER(limits.spin_cpu)),
      live("limits.demote_bandwidth", rate(), MEMBER(limits.demote_bandwidth)),
      live("limits.promote_bandwidth", rate(), MEMBER(limits.promote_bandwidth)),
      at_start("trackers.soft_dirty", boolean(), MEMBER(trackers.soft_dirty)),
      at_start("pool.embedded.store", choice<StoreKind>(kStores), MEMBER(pool.store)),
      live("pool.embedded.capacity", amount(), MEMBER(pool.capacity)),
      at_start("pool.embedded.codec", choice<Codec>(kCodecs), MEMBER(pool.codec)),
      at_start("pool.embedded.path", path(true), MEMBER(pool.path)),
      at_start("pool.servers.capacity", size(), MEMBER(servers.capacity)),
      at_start("pool.servers.replicas", count<unsigned>(1, 3), MEMBER(servers.replicas)),
      at_start("pool.servers.slice", size(), MEMBER(servers.slice)),
      at_start("pool.servers.codec", choice<PageCodec>(kPageCodecs), MEMBER(servers.codec)),
      at_start("pool.servers.copy_bandwidth", rate(), MEMBER(servers.copy_bandwidth)),
      at_start("pool.servers.lost_after", duration(), MEMBER(servers.lost_after)),
      at_start("pool.servers.lease", duration(), MEMBER(servers.lease)),
      at_start("pool.servers.spill", path(true), MEMBER(servers.spill)),
      at_start("pool.servers.spill_capacity", amount(), MEMBER(servers.spill_capacity)),
      at_start("pool.controller.endpoints", pool::controller::endpoint_list(), MEMBER(controller.endpoints)),
      at_start("pool.controller.host", host_name(), MEMBER(controller.host)),
      at_start("pool.controller.certificate", path(true), MEMBER(controller.certificate)),
      at_start("pool.controller.key", path(true), MEMBER(controller.key)),
      at_start("pool.controller.authority", path(true), MEMBER(controller.authority)),
      live("pool.kernel.swap", choice<SwapUse>(kSwapUses), MEMBER(kernel_tier.swap)),
      live("pool.kernel.beside_pool", boolean(), MEMBER(kernel_tier.beside_pool)),
      at_start("pager.fault_threads", count<unsigned>(1, 64), MEMBER(pager.fault_threads)),
      at_start("pager.grace", duration(), MEMBER(pager.grace)),
      live("policy.tick", duration(), MEMBER(policy.tick)),
      at_start("policy.need_archive", path(true), MEMBER(policy.need_archive)),
      at_start("policy.decision_history", count<std::size_t>(100, 1000000), MEMBER(policy.decision_history)),
  };
}

}  // namespace

const std::vector<ConfigField>& config_fields() {
  static const std::vector<ConfigField> fields = [] {
    std::vector<ConfigField> all = service_fields();
    for (ConfigField& each : behaviour_fields()) all.push_back(std::move(each));
    return all;
  }();
  return fields;
}

const std::vector<RuleField>& rule_fields() {
  static const std::vector<RuleField> fields{
      match_field("match.domain", &RuleMatch::domain),
      match_field("match.exe", &RuleMatch::exe),
      match_field("match.cgroup", &RuleMatch::cgroup),
      of_rule("mode", choice<Mode>(kModes), MEMBER(mode)),
      of_rule("class", word(), MEMBER(service_class)),
      of_rule("guarantee", amount(), MEMBER(guarantee)),
      of_rule("limit", amount(), MEMBER(limit)),
      of_rule("stall_budget", share(), MEMBER(stall_budget)),
      of_rule("min_cold_age", duration(), MEMBER(min_cold_age)),
      of_rule("memory_file", path(true), MEMBER(memory_file)),
  };
  return fields;
}

const std::vector<MemoryServerField>& memory_server_fields() {
  static const std::vector<MemoryServerField> fields{
      field<MemoryServer>("name", true, word(), MEMBER(name)),
      field<MemoryServer>("address", true, server_address(), MEMBER(address)),
      field<MemoryServer>("failure_domain", true, word(), MEMBER(failure_domain)),
      field<MemoryServer>("weight", true, count<unsigned>(1, 1000), MEMBER(weight)),
      field<MemoryServer>("capacity", true, size(), MEMBER(capacity)),
      field<MemoryServer>("key_file", true, path(false), MEMBER(key_file)),
  };
  return fields;
}

#undef MEMBER

std::string_view text_of(Mode mode) {
  return name_of<Mode>(kModes, mode);
}
std::string_view text_of(StoreKind kind) {
  return name_of<StoreKind>(kStores, kind);
}
std::string_view text_of(Codec codec) {
  return name_of<Codec>(kCodecs, codec);
}
std::string_view text_of(SwapUse use) {
  return name_of<SwapUse>(kSwapUses, use);
}
std::string_view text_of(IntegrityAction action) {
  return name_of<IntegrityAction>(kActions, action);
}
std::string_view text_of(FdHolderKind kind) {
  return name_of<FdHolderKind>(kHolders, kind);
}

std::string text_of(const Amount& amount) {
  return amount.share ? share_text(*amount.share) : exact_text(amount.bytes);
}

std::optional<Mode> parse_mode(std::string_view text) {
  return value_of<Mode>(kModes, text);
}

std::optional<Amount> parse_amount(std::string_view text) {
  if (text.ends_with('%')) {
    const std::optional<double> share = parse_share(text);
    return share ? std::optional(Amount::part(*share)) : std::nullopt;
  }
  const std::optional<Bytes> bytes = parse_bytes(text);
  return bytes ? std::optional(Amount::of(*bytes)) : std::nullopt;
}

std::vector<std::pair<std::string, std::string>> config_entries(const Config& config) {
  std::vector<std::pair<std::string, std::string>> entries;
  for (const ConfigField& each : config_fields()) entries.emplace_back(each.key, each.text(config));
  for (std::size_t i = 0; i < config.rules.size(); ++i) {
    for (const RuleField& each : rule_fields()) {
      std::string text = each.text(config.rules[i]);
      if (!text.empty()) entries.emplace_back("rule[" + std::to_string(i) + "]." + each.key, std::move(text));
    }
  }
  for (std::size_t i = 0; i < config.memory_servers.size(); ++i) {
    for (const MemoryServerField& each : memory_server_fields())
      entries.emplace_back("memory_server[" + std::to_string(i) + "]." + each.key, each.text(config.memory_servers[i]));
  }
  return entries;
}

std::vector<ConfigChange> config_diff(const Config& before, const Config& after) {
  std::map<std::string, std::string> old_values;
  for (auto& [key, value] : config_entries(before)) old_values.emplace(std::move(key), std::move(value));
  const auto needs_restart = [](const std::string& key) {
    for (const ConfigField& each : config_fields())
      if (each.key == key) return each.restart;
    return key.starts_with("memory_server[");  // rules are live
  };
  std::vector<ConfigChange> changes;
  for (const auto& [key, value] : config_entries(after)) {
    const auto old = old_values.find(key);
    const std::string was = old == old_values.end() ? "" : old->second;
    if (was != value) changes.push_back({key, was, value, needs_restart(key)});
    if (old != old_values.end()) old_values.erase(old);
  }
  for (const auto& [key, value] : old_values) changes.push_back({key, value, "", needs_restart(key)});
  return changes;
}

}  // namespace tidepool::daemon
