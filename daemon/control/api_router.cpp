#include "daemon/control/api_router.h"

#include <algorithm>
#include <boost/json.hpp>
#include <charconv>
#include <exception>

#include "base/text.h"
#include "daemon/control/api_error.h"
#include "daemon/control/api_handlers.h"
#include "daemon/control/api_json.h"

namespace tidepool::daemon {
namespace {

const std::vector<ApiEntry>& entries() {
  static const std::vector<ApiEntry> all = [] {
    std::vector<ApiEntry> joined = host_entries();
    for (ApiEntry& each : vm_entries()) joined.push_back(std::move(each));
    return joined;
  }();
  return all;
}

std::optional<int> hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return std::nullopt;
}

// Percent-decoding. Absent: malformed, or a zero byte, which no name has.
std::optional<std::string> decoded(std::string_view text) {
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (c == '%') {
      if (i + 2 >= text.size()) return std::nullopt;
      const auto high = hex_digit(text[i + 1]);
      const auto low = hex_digit(text[i + 2]);
      if (!high || !low) return std::nullopt;
      c = static_cast<char>(*high * 16 + *low);
      i += 2;
    }
    if (c == '\0') return std::nullopt;
    result += c;
  }
  return result;
}

std::vector<std::string_view> segments(std::string_view path) {
  std::vector<std::string_view> parts;
  while (!path.empty()) {
    if (path.front() == '/') path.remove_prefix(1);
    const std::size_t slash = std::min(path.find('/'), path.size());
    parts.push_back(path.substr(0, slash));
    path.remove_prefix(slash);
  }
  return parts;
}

std::string_view path_of(std::string_view target) {
  return target.substr(0, target.find('?'));
}

bool matches(std::string_view pattern, std::string_view path) {
  const auto wanted = segments(pattern);
  const auto given = segments(path);
  return std::ranges::equal(wanted, given, [](std::string_view want, std::string_view have) {
    return want.starts_with('{') ? !have.empty() : want == have;
  });
}

const ApiEntry* find_entry(std::string_view method, std::string_view path) {
  for (const ApiEntry& entry : entries())
    if (entry.route.method == method && matches(entry.route.pattern, path)) return &entry;
  return nullptr;
}

ApiResponse nothing_there(std::string_view path) {
  std::string allow;
  for (const ApiEntry& entry : entries())
    if (matches(entry.route.pattern, path)) allow += (allow.empty() ? "" : ", ") + std::string(entry.route.method);
  if (allow.empty())
    return refused(404, "not_found", "no route " + std::string(path.substr(0, 200)), "docs/api.md lists the routes");
  ApiResponse response = refused(405, "invalid", "this route answers to " + allow);
  response.allow = allow;
  return response;
}

Result<> fill_path(ApiCall& call, std::string_view pattern, std::string_view path) {
  const auto wanted = segments(pattern);
  const auto given = segments(path);
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (!wanted[i].starts_with('{')) continue;
    const std::optional<std::string> value = decoded(given[i]);
    if (!value)
      return failure(std::errc::invalid_argument, "decode path segment", std::string(given[i].substr(0, 200)));
    (wanted[i] == "{vm}" ? call.vm : call.id) = *value;
  }
  return {};
}

Result<> fill_query(ApiCall& call, const ApiEntry& entry, std::string_view target) {
  const std::size_t mark = target.find('?');
  std::string_view rest = mark == std::string_view::npos ? "" : target.substr(mark + 1);
  while (!rest.empty()) {
    const std::string_view pair = rest.substr(0, rest.find('&'));
    rest.remove_prefix(std::min(pair.size() + 1, rest.size()));
    const std::string_view name = pair.substr(0, pair.find('='));
    const std::string_view raw = name.size() < pair.size() ? pair.substr(name.size() + 1) : std::string_view{};
    const std::optional<std::string> value = decoded(raw);
    if (!value || std::ranges::find(entry.query, name) == entry.query.end())
      return failure(std::errc::invalid_argument, "read query parameter", "'" + std::string(name.substr(0, 100)) + "'",
                     "docs/api.md lists the parameters");
    call.query[std::string(name)] = *value;
  }
  return {};
}

}  // namespace

ApiResponse refused(unsigned status, std::string_view code, std::string_view message, std::string_view remedy) {
  return {.status = status, .body = error_body(code, message, remedy), .etag = {}, .location = {}, .allow = {}};
}

ApiResponse document(unsigned status, const boost::json::object& object) {
  return {.status = status, .body = boost::json::serialize(object) + "\n", .etag = {}, .location = {}, .allow = {}};
}

ApiResponse log_page(boost::json::array items, std::uint64_t last_sequence, bool lost, WallTime began) {
  return document(
      200,
      {{"items", std::move(items)}, {"last_sequence", last_sequence}, {"lost", lost}, {"log_began", rfc3339(began)}});
}

ApiResponse failed(const Error& error) {
  Error bare = error;
  bare.remedy.clear();
  const ApiErrorKind kind = kind_of(error.code);
  return refused(kind.status, kind.code, bare.message(), error.remedy);
}

Result<std::uint64_t> number_parameter(const ApiCall& call, const std::string& name, std::uint64_t fallback,
                                       std::uint64_t least, std::uint64_t most) {
  const auto given = call.query.find(name);
  if (given == call.query.end()) return fallback;
  const std::string& text = given->second;
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < least || value > most)
    return failure(std::errc::invalid_argument, "read query parameter", "'" + name + "'",
                   "a number from " + std::to_string(least) + " to " + std::to_string(most));
  return value;
}

Result<bool> flag_parameter(const ApiCall& call, const std::string& name) {
  const auto given = call.query.find(name);
  if (given == call.query.end() || given->second == "false") return false;
  if (given->second == "true" || given->second.empty()) return true;
  return failure(std::errc::invalid_argument, "read query parameter", "'" + name + "'", "true or false");
}

std::span<const ApiRoute> api_routes() {
  static const std::vector<ApiRoute> routes = [] {
    std::vector<ApiRoute> all;
    for (const ApiEntry& entry : entries()) all.push_back(entry.route);
    return all;
  }();
  return routes;
}

const ApiRoute* find_route(std::string_view method, std::string_view target) {
  const ApiEntry* entry = find_entry(method, path_of(target));
  return entry ? &entry->route : nullptr;
}

ApiResponse answer(const ApiRequest& request, AgentService& service) {
  const std::string_view path = path_of(request.target);
  const ApiEntry* entry = find_entry(request.method, path);
  if (!entry) return nothing_there(path);
  ApiCall call{request, service, {}, {}, {}};
  if (Result<> filled = fill_path(call, entry->route.pattern, path); !filled) return failed(filled.error());
  if (Result<> filled = fill_query(call, *entry, request.target); !filled) return failed(filled.error());
  try {
    ApiResponse response = entry->handler(call);
    response.body = to_valid_utf8(response.body);
    return response;
  } catch (const std::exception& error) {
    // An API client must never take the agent down with it: memory may be short exactly when somebody asks why.
    return refused(500, "failed", std::string("internal error: ") + error.what());
  }
}

}  // namespace tidepool::daemon
