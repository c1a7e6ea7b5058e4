#include "pool/server/memd_config.h"

#include <algorithm>
#include <array>
#include <optional>

#include "pool/controller/port/endpoint_kind.h"
#include "pool/protocol/messages.h"
#include "pool/server/slices.h"
#include "pool/server/tcp_listener.h"
#include "service/config_kinds.h"
#include "service/http/endpoint.h"

namespace tidepool::pool::server {
namespace {

using namespace config;

constexpr std::size_t kMostListeners = 16;
constexpr std::size_t kLongestSocketPath = 107;

constexpr std::array<std::pair<MediumKind, std::string_view>, 4> kMediumKinds{{{MediumKind::kMemfd, "memfd"},
                                                                               {MediumKind::kFile, "file"},
                                                                               {MediumKind::kHugetlb, "hugetlb"},
                                                                               {MediumKind::kDax, "dax"}}};

bool is_listen(const std::string& text) {
  if (text.starts_with("tcp:")) return is_tcp_address(text.substr(4));
  return text.starts_with("unix:") && is_absolute(text.substr(5)) && text.size() - 5 <= kLongestSocketPath;
}

std::string text_of_list(const std::vector<std::string>& list) {
  std::string text = "[";
  for (const std::string& item : list) text += (text.size() > 1 ? ", " : "") + toml_string(item);
  return text + "]";
}

Kind<std::vector<std::string>> listen_list() {
  return {"list of addresses", "a list of \"unix:PATH\" and \"tcp:ADDRESS:PORT\", 1 to 16",
          [](const ConfigValue& value) -> std::optional<std::vector<std::string>> {
            const auto* list = std::get_if<std::vector<std::string>>(&value);
            if (!list || list->empty() || list->size() > kMostListeners) return std::nullopt;
            if (!std::ranges::all_of(*list, is_listen)) return std::nullopt;
            return *list;
          },
          text_of_list};
}

Kind<std::string> address_or_nothing() {
  return from_text<std::string>(
      "address or \"\"", "\"unix:PATH\", \"tcp:HOST:PORT\" or \"\"",
      [](const std::string& text) {
        const bool right = text.empty() || is_listen(text) ||
                           (text.starts_with("tcp:") && http::split_host_port(text.substr(4)).has_value());
        return right ? std::optional(text) : std::nullopt;
      },
      [](const std::string& text) { return text; });
}

Kind<std::string> word_or_nothing() {
  return from_text<std::string>(
      "text", "a word of letters, digits, '-' and '_', or \"\"",
      [](const std::string& text) { return text.empty() || is_word(text) ? std::optional(text) : std::nullopt; },
      [](const std::string& text) { return text; });
}

template <class T, class Get>
MemdField live(std::string key, Kind<T> kind, Get get) {
  return field<MemdConfig>(std::move(key), false, std::move(kind), get);
}

template <class T, class Get>
MemdField at_start(std::string key, Kind<T> kind, Get get) {
  return field<MemdConfig>(std::move(key), true, std::move(kind), get);
}

// `auto&` is a type.
// NOLINTBEGIN(bugprone-macro-parentheses)
#define MEMBER(path)          \
  [](auto& target) -> auto& { \
    return target.path;       \
  }
// NOLINTEND(bugprone-macro-parentheses)

std::vector<MemdField> make_fields() {
  return {
      at_start("schema", config::count<int>(1, 1), MEMBER(schema)),
      at_start("name", word(), MEMBER(name)),
      at_start("failure_domain", word_or_nothing(), MEMBER(failure_domain)),
      at_start("listen", listen_list(), MEMBER(listen)),
      at_start("group", word(), MEMBER(group)),
      at_start("authenticate_unix", boolean(), MEMBER(authenticate_unix)),
      live("key_file", path(false), MEMBER(key_file)),
      at_start("metrics", endpoint(), MEMBER(metrics)),
      at_start("memory.kind", choice<MediumKind>(kMediumKinds), MEMBER(memory.kind)),
      at_start("memory.path", path(true), MEMBER(memory.path)),
      at_start("memory.capacity", size(), MEMBER(memory.capacity)),
      at_start("memory.share", boolean(), MEMBER(memory.share)),
      live("slices.most", config::count<std::uint32_t>(1, 1'000'000), MEMBER(slices.most)),
      live("slices.size", size(), MEMBER(slices.size)),
      live("slices.per_holder", config::count<std::uint32_t>(1, 1'000'000), MEMBER(slices.per_holder)),
      live("slices.holder_size", size(), MEMBER(slices.holder_size)),
      at_start("limits.threads", config::count<unsigned>(0, 64), MEMBER(limits.threads)),
      live("limits.connections", config::count<std::uint32_t>(1, 65536), MEMBER(limits.connections)),
      live("limits.pending", config::count<std::uint32_t>(1, 65536), MEMBER(limits.pending)),
      live("limits.credit_pages", config::count<std::uint32_t>(protocol::kMaxPagesPerFrame, 4096),
           MEMBER(limits.credit_pages)),
      live("limits.handshake_time", duration(), MEMBER(limits.handshake_time)),
      live("limits.stall_time", duration(), MEMBER(limits.stall_time)),
      live("limits.drain_time", duration(), MEMBER(limits.drain_time)),
      at_start("controller.endpoints", controller::endpoint_list(), MEMBER(controller.endpoints)),
      at_start("controller.certificate", path(true), MEMBER(controller.certificate)),
      at_start("controller.key", path(true), MEMBER(controller.key)),
      at_start("controller.authority", path(true), MEMBER(controller.authority)),
      at_start("controller.address", address_or_nothing(), MEMBER(controller.address)),
      live("log.level", choice<LogLevel>(kLogLevels), MEMBER(log_level)),
  };
}

#undef MEMBER

// What listens on every address is reached at none of that name.
bool is_wildcard(const std::string& address) {
  return address.starts_with("tcp:0.0.0.0:") || address.starts_with("tcp:[::]:");
}

void find_controller_contradictions(const MemdConfig& config, ConfigReader& reader) {
  const MemdConfig::Controller& settings = config.controller;
  const std::string trouble = controller::endpoint_trouble(
      settings.endpoints, {settings.certificate, settings.key, settings.authority}, "controller");
  if (!trouble.empty()) reader.contradiction("controller", trouble);
  if (settings.endpoints.empty()) {
    if (!settings.address.empty())
      reader.contradiction("controller.endpoints", "controller.endpoints is missing: the controller to register with");
    return;
  }
  if (is_wildcard(public_address(config)))
    reader.contradiction("controller.address",
                         "controller.address is missing: agents cannot connect to " + public_address(config));
}

void find_contradictions(const MemdConfig& config, ConfigReader& reader) {
  if (config.name.empty()) reader.contradiction("name", "name is missing: the name that clients know this server by");
  const bool memfd = config.memory.kind == MediumKind::kMemfd;
  if (memfd && !config.memory.path.empty())
    reader.contradiction("memory.path",
                         "memory.path has no meaning with memory.kind = \"memfd\": leave one of them out");
  if (!memfd && config.memory.path.empty())
    reader.contradiction("memory.kind", "memory.path is missing: the file or device to lend");
  if (config.memory.capacity < Bytes{2 * kChunkBytes})
    reader.contradiction("memory.capacity", "memory.capacity must be at least 512KiB");
  if (config.slices.size < Bytes{protocol::kSlotBytes})
    reader.contradiction("slices.size", "slices.size must be at least 4KiB");
  if (config.slices.holder_size < Bytes{kChunkBytes})
    reader.contradiction("slices.holder_size", "slices.holder_size must be at least 256KiB, the unit that is lent");
  if (config.limits.pending > config.limits.connections)
    reader.contradiction("limits.pending", "limits.pending is more than limits.connections allows at all");
  if (config.limits.handshake_time.count() == 0 || config.limits.stall_time.count() == 0)
    reader.contradiction("limits", "limits.handshake_time and limits.stall_time must be more than 0");
  find_controller_contradictions(config, reader);
  std::vector<std::string> sorted = config.listen;
  std::ranges::sort(sorted);
  if (const auto twice = std::ranges::adjacent_find(sorted); twice != sorted.end())
    reader.contradiction("listen", "listen has " + *twice + " twice");
}

}  // namespace

const std::vector<MemdField>& memd_config_fields() {
  static const std::vector<MemdField> fields = make_fields();
  return fields;
}

MemdConfigCheck parse_memd_config(std::string_view toml) {
  MemdConfigCheck check;
  ConfigReader reader;
  reader.read(toml, bind(memd_config_fields(), check.config));
  if (reader.ok()) find_contradictions(check.config, reader);
  check.problems = reader.take_problems();
  return check;
}

MemdConfigCheck load_memd_config(const std::filesystem::path& file) {
  const Result<std::string> text = read_small_file(file);
  if (text) return parse_memd_config(*text);
  MemdConfigCheck check;
  check.problems.push_back({0, 0, text.error().message()});
  return check;
}

std::vector<std::string> keys_that_wait(const MemdConfig& before, const MemdConfig& after) {
  std::vector<std::string> keys;
  for (const MemdField& each : memd_config_fields())
    if (each.restart && each.text(before) != each.text(after)) keys.push_back(each.key);
  return keys;
}

std::string public_address(const MemdConfig& config) {
  if (!config.controller.address.empty() || config.listen.empty()) return config.controller.address;
  return config.listen.front();
}

ListenAddress parse_listen(const std::string& text) {
  if (text.starts_with("tcp:")) return {true, text.substr(4)};
  return {false, text.substr(5)};
}

}  // namespace tidepool::pool::server
