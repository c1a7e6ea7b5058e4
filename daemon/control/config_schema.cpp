#include "daemon/control/config_schema.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <map>
#include <span>

#include "base/quantity_text.h"

namespace tidepool::daemon {
namespace {

template <class E>
using Names = std::span<const std::pair<E, std::string_view>>;

constexpr std::array<std::pair<Mode, std::string_view>, 3> kModes{
    {{Mode::kObserve, "observe"}, {Mode::kDryRun, "dry-run"}, {Mode::kActive, "active"}}};
constexpr std::array<std::pair<LogLevel, std::string_view>, 4> kLevels{
    {{LogLevel::kError, "error"}, {LogLevel::kWarn, "warn"}, {LogLevel::kInfo, "info"}, {LogLevel::kDebug, "debug"}}};
constexpr std::array<std::pair<StoreKind, std::string_view>, 2> kStores{
    {{StoreKind::kMapped, "mapped"}, {StoreKind::kCompressed, "compressed"}}};
constexpr std::array<std::pair<Codec, std::string_view>, 2> kCodecs{{{Codec::kLz4, "lz4"}, {Codec::kZstd, "zstd"}}};
constexpr std::array<std::pair<SwapUse, std::string_view>, 3> kSwapUses{
    {{SwapUse::kAuto, "auto"}, {SwapUse::kAny, "any"}, {SwapUse::kOff, "off"}}};
constexpr std::array<std::pair<IntegrityAction, std::string_view>, 2> kActions{
    {{IntegrityAction::kStop, "stop"}, {IntegrityAction::kKill, "kill"}}};
constexpr std::array<std::pair<FdHolderKind, std::string_view>, 3> kHolders{
    {{FdHolderKind::kAuto, "auto"}, {FdHolderKind::kKeeper, "keeper"}, {FdHolderKind::kSystemd, "systemd"}}};

template <class E>
std::string_view name_of(Names<E> names, E value) {
  for (const auto& [candidate, name] : names)
    if (candidate == value) return name;
  return "?";
}

template <class E>
std::optional<E> value_of(Names<E> names, std::string_view text) {
  for (const auto& [value, name] : names)
    if (name == text) return value;
  return std::nullopt;
}

// A kind of value: its documented name, how it is read (absent: not of this kind) and written.
template <class T>
struct Kind {
  std::string type;
  std::string expected;
  std::function<std::optional<T>(const ConfigValue&)> read;
  std::function<std::string(const T&)> write;
};

std::string toml_string(std::string_view text) {
  return "\"" + std::string(text) + "\"";
}

template <class E>
Kind<E> choice(Names<E> names) {
  std::string all;
  for (const auto& [value, name] : names) all += (all.empty() ? "" : " or ") + toml_string(name);
  return {all, all,
          [names](const ConfigValue& value) -> std::optional<E> {
            const auto* text = std::get_if<std::string>(&value);
            return text ? value_of(names, *text) : std::nullopt;
          },
          [names](const E& value) { return toml_string(name_of(names, value)); }};
}

template <class T, class Parse, class Write>
Kind<T> from_text(std::string type, std::string expected, Parse parse, Write write) {
  return {std::move(type), std::move(expected),
          [parse](const ConfigValue& value) -> std::optional<T> {
            const auto* text = std::get_if<std::string>(&value);
            if (!text) return std::nullopt;
            return parse(*text);
          },
          [write](const T& value) { return toml_string(write(value)); }};
}

Kind<bool> boolean() {
  return {"boolean", "true or false",
          [](const ConfigValue& value) -> std::optional<bool> {
            const auto* flag = std::get_if<bool>(&value);
            return flag ? std::optional(*flag) : std::nullopt;
          },
          [](const bool& value) { return value ? "true" : "false"; }};
}

template <class T>
Kind<T> count(std::int64_t least, std::int64_t most) {
  const std::string range = std::to_string(least) + " to " + std::to_string(most);
  return {"integer, " + range, "an integer from " + range,
          [=](const ConfigValue& value) -> std::optional<T> {
            const auto* number = std::get_if<std::int64_t>(&value);
            if (!number || *number < least || *number > most) return std::nullopt;
            return static_cast<T>(*number);
          },
          [](const T& value) { return std::to_string(value); }};
}

Kind<std::string> word() {
  return from_text<std::string>(
      "text", "a word of letters, digits, '-' and '_'",
      [](const std::string& text) { return is_word(text) ? std::optional(text) : std::nullopt; },
      [](const std::string& text) { return text; });
}

bool absolute(const std::string& path) {
  return path.starts_with('/') && path.find('\0') == std::string::npos;
}

Kind<std::string> path(bool may_be_empty) {
  return from_text<std::string>(
      may_be_empty ? "path or \"\"" : "path", may_be_empty ? "an absolute path, or \"\"" : "an absolute path",
      [may_be_empty](const std::string& text) -> std::optional<std::string> {
        if (text.empty() ? may_be_empty : absolute(text)) return text;
        return std::nullopt;
      },
      [](const std::string& text) { return text; });
}

// sun_path holds 108 bytes with the terminating zero.
Kind<std::string> socket_path(bool may_be_empty) {
  Kind<std::string> kind = path(may_be_empty);
  kind.expected += " of at most 107 bytes";
  kind.read = [inner = kind.read](const ConfigValue& value) {
    std::optional<std::string> text = inner(value);
    if (text && text->size() > 107) text.reset();
    return text;
  };
  return kind;
}

Kind<std::string> endpoint() {
  return from_text<std::string>(
      "host:port or \"\"", "\"host:port\" with a port from 1 to 65535, or \"\"",
      [](const std::string& text) -> std::optional<std::string> {
        if (text.empty()) return text;
        const std::size_t colon = text.rfind(':');
        if (colon == std::string::npos || colon == 0 || colon + 1 == text.size() || text.size() - colon > 6)
          return std::nullopt;
        unsigned port = 0;
        for (const char c : text.substr(colon + 1)) {
          if (c < '0' || c > '9') return std::nullopt;
          port = port * 10 + static_cast<unsigned>(c - '0');
        }
        if (port == 0 || port > 65535) return std::nullopt;
        return text;
      },
      [](const std::string& text) { return text; });
}

Kind<std::string> glob() {
  return from_text<std::string>(
      "pattern", "a pattern that is not empty",
      [](const std::string& text) { return text.empty() ? std::nullopt : std::optional(text); },
      [](const std::string& text) { return text; });
}

Kind<std::vector<std::string>> path_globs() {
  return {"list of path patterns", "a list of absolute path patterns",
          [](const ConfigValue& value) -> std::optional<std::vector<std::string>> {
            const auto* list = std::get_if<std::vector<std::string>>(&value);
            if (!list) return std::nullopt;
            for (const std::string& pattern : *list)
              if (!absolute(pattern)) return std::nullopt;
            return *list;
          },
          [](const std::vector<std::string>& list) {
            std::string text = "[";
            for (const std::string& item : list) text += (text.size() > 1 ? ", " : "") + toml_string(item);
            return text + "]";
          }};
}

Kind<double> share() {
  return from_text<double>("share", "a share such as \"25%\", at most \"100%\"", parse_share, share_text);
}

// A rate per second: "256MiB/s". The "/s" is wanted, so that nobody reads it as an amount.
Kind<Bytes> rate() {
  return from_text<Bytes>(
      "rate", "a rate such as \"256MiB/s\", more than 0",
      [](const std::string& text) -> std::optional<Bytes> {
        if (!text.ends_with("/s")) return std::nullopt;
        const std::optional<Bytes> bytes = parse_bytes(std::string_view(text).substr(0, text.size() - 2));
        return bytes && bytes->value > 0 ? bytes : std::nullopt;
      },
      [](Bytes bytes) { return exact_text(bytes) + "/s"; });
}

Kind<Amount> amount() {
  return from_text<Amount>("size or share", "a size such as \"4GiB\" or a share such as \"25%\"", parse_amount,
                           [](const Amount& value) { return text_of(value); });
}

Kind<std::chrono::milliseconds> duration() {
  return from_text<std::chrono::milliseconds>("duration", "a duration such as \"500ms\", \"2s\" or \"2m\"",
                                              parse_duration,
                                              [](std::chrono::milliseconds value) { return exact_text(value); });
}

// `get` returns a reference to the member, of a const and of a mutable target.
template <class Target, class T, class Get>
ConfigFieldOf<Target> field(std::string key, bool restart, Kind<T> kind, Get get) {
  return {std::move(key),
          kind.type,
          restart,
          [kind, get](const ConfigValue& value, Target& target) -> SetResult {
            std::optional<T> parsed = kind.read(value);
            if (!parsed) return kind.expected;
            get(target) = std::move(*parsed);
            return std::nullopt;
          },
          [kind, get](const Target& target) -> std::string {
            const auto& member = get(target);
            if constexpr (requires { member.has_value(); }) {
              return member ? kind.write(*member) : std::string{};
            } else {
              return kind.write(member);
            }
          },
          [get](const Target& from, Target& to) { get(to) = get(from); }};
}

template <class T, class Get>
ConfigField live(std::string key, Kind<T> kind, Get get) {
  return field<Config>(std::move(key), false, std::move(kind), get);
}

template <class T, class Get>
ConfigField at_start(std::string key, Kind<T> kind, Get get) {
  return field<Config>(std::move(key), true, std::move(kind), get);
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

// NOLINTNEXTLINE(bugprone-macro-parentheses): `auto&` is a type
#define MEMBER(path)          \
  [](auto& target) -> auto& { \
    return target.path;       \
  }

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
      live("log.level", choice<LogLevel>(kLevels), MEMBER(log.level)),
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
      live("pool.kernel.swap", choice<SwapUse>(kSwapUses), MEMBER(kernel_tier.swap)),
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

#undef MEMBER

std::string_view text_of(Mode mode) {
  return name_of<Mode>(kModes, mode);
}
std::string_view text_of(LogLevel level) {
  return name_of<LogLevel>(kLevels, level);
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

bool is_word(std::string_view text) {
  return !text.empty() && text.size() <= 64 && std::ranges::all_of(text, [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_';
  });
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
  return entries;
}

std::vector<ConfigChange> config_diff(const Config& before, const Config& after) {
  std::map<std::string, std::string> old_values;
  for (auto& [key, value] : config_entries(before)) old_values.emplace(std::move(key), std::move(value));
  const auto needs_restart = [](const std::string& key) {
    for (const ConfigField& each : config_fields())
      if (each.key == key) return each.restart;
    return false;  // rules
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
