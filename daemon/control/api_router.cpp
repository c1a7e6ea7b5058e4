#include "daemon/control/api_router.h"

#include <algorithm>
#include <boost/json.hpp>
#include <charconv>
#include <exception>

#include "base/quantity_text.h"
#include "base/text.h"
#include "daemon/control/api_handlers.h"
#include "daemon/control/api_json.h"
#include "service/http/error_body.h"
#include "service/http/target.h"

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

const ApiEntry* find_entry(std::string_view method, std::string_view path) {
  for (const ApiEntry& entry : entries())
    if (entry.route.method == method && http::matches(entry.route.pattern, path)) return &entry;
  return nullptr;
}

ApiResponse nothing_there(std::string_view path) {
  std::string allow;
  for (const ApiEntry& entry : entries())
    if (http::matches(entry.route.pattern, path))
      allow += (allow.empty() ? "" : ", ") + std::string(entry.route.method);
  if (allow.empty())
    return refused(404, "not_found", "no route " + std::string(path.substr(0, 200)), "docs/api.md lists the routes");
  ApiResponse response = refused(405, "invalid", "this route answers to " + allow);
  response.allow = allow;
  return response;
}

Result<> fill(ApiCall& call, const ApiEntry& entry, std::string_view target) {
  Result<std::map<std::string, std::string>> path = http::path_values(entry.route.pattern, http::path_of(target));
  if (!path) return Failure(path.error());
  call.vm = (*path)["vm"];
  call.id = (*path)["id"];
  Result<std::map<std::string, std::string>> query =
      http::query_values(target, entry.query, "docs/api.md lists the parameters");
  if (!query) return Failure(query.error());
  call.query = std::move(*query);
  return {};
}

}  // namespace

ApiResponse refused(unsigned status, std::string_view code, std::string_view message, std::string_view remedy) {
  return http::error_response(status, code, message, remedy);
}

ApiResponse document(unsigned status, const boost::json::object& object) {
  ApiResponse response;
  response.status = status;
  response.body = boost::json::serialize(object) + "\n";
  return response;
}

ApiResponse log_page(boost::json::array items, std::uint64_t last_sequence, bool lost, WallTime began) {
  return document(
      200,
      {{"items", std::move(items)}, {"last_sequence", last_sequence}, {"lost", lost}, {"log_began", rfc3339(began)}});
}

ApiResponse failed(const Error& error) {
  return http::error_response(error);
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
  const ApiEntry* entry = find_entry(method, http::path_of(target));
  return entry ? &entry->route : nullptr;
}

ApiResponse answer(const ApiRequest& request, AgentService& service) {
  const std::string_view path = http::path_of(request.target);
  const ApiEntry* entry = find_entry(request.method, path);
  if (!entry) return nothing_there(path);
  ApiCall call{request, service, {}, {}, {}};
  if (Result<> filled = fill(call, *entry, request.target); !filled) return failed(filled.error());
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
