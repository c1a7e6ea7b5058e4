#include "pool/controller/api/routes.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <exception>
#include <optional>
#include <vector>

#include "base/text.h"
#include "pool/controller/api/codec.h"
#include "pool/controller/api/forms.h"
#include "service/http/error_body.h"
#include "service/http/target.h"
#include "service/log.h"

namespace tidepool::pool::controller {
namespace {

constexpr std::string_view kReadTheDocs = "docs/openapi.yaml lists the routes";
constexpr std::string_view kBackup = "/v1/backup";
constexpr std::array<std::string_view, 8> kQueryNames{"plan", "after",  "limit",  "host",
                                                      "vm",   "server", "tenant", "subject"};

constexpr std::array<std::pair<std::string_view, Role>, 4> kRoles{
    {{"admin", Role::kAdmin}, {"agent", Role::kAgent}, {"server", Role::kServer}, {"reader", Role::kReader}}};

std::string_view word_of(Role role) {
  const auto* const found = std::ranges::find(kRoles, role, &std::pair<std::string_view, Role>::second);
  return found == kRoles.end() ? "" : found->first;
}

const ApiRoute* find_route(std::string_view method, std::string_view path) {
  for (const ApiRoute& route : api_routes())
    if (route.method == method && http::matches(route.pattern, path)) return &route;
  return nullptr;
}

http::Response nothing_there(std::string_view path) {
  std::string allow;
  for (const ApiRoute& route : api_routes())
    if (http::matches(route.pattern, path)) allow += (allow.empty() ? "" : ", ") + std::string(route.method);
  if (allow.empty())
    return http::error_response(404, "not_found", "no route " + std::string(path.substr(0, 200)), kReadTheDocs);
  http::Response response = http::error_response(405, "invalid", "this route answers to " + allow);
  response.allow = allow;
  return response;
}

// Absent: it may.
std::optional<http::Response> forbidden(const http::Caller& caller, const ApiRoute& route, const Parameters& path) {
  const auto refuse = [&](const std::string& why, std::string_view remedy) {
    spdlog::warn("event=api_forbidden name={} role={} route={} error={}", in_quotes(caller.name),
                 in_quotes(caller.role), route.pattern, in_quotes(why));
    return http::error_response(403, "forbidden", why, remedy);
  };
  const Role role = role_of(caller);
  if (role == Role::kAdmin) return std::nullopt;
  if (role == Role::kNone)
    return refuse("the certificate of '" + caller.name + "' names no role that this controller knows",
                  "one URI tidepool:role:ROLE in it: admin, agent, server or reader; tidectl pki issue makes such");
  if (role != route.role)
    return refuse("'" + caller.name + "' has the role " + std::string(word_of(role)) + ", and this is for " +
                      (route.role == Role::kAdmin ? "" : std::string(word_of(route.role)) + " and ") + "admin",
                  "use a certificate of that role");
  if (role == Role::kReader) return std::nullopt;
  const auto named = path.find("name");
  if (named != path.end() && named->second == caller.name) return std::nullopt;
  return refuse("'" + caller.name + "' may speak for itself only, not for '" +
                    (named == path.end() ? "" : printable(named->second)) + "'",
                "the name is the certificate's common name");
}

std::string actor_of(const http::Caller& caller) {
  if (caller.tls) return std::string(word_of(role_of(caller))) + " " + caller.name;
  return "uid " + std::to_string(caller.uid);
}

http::Response not_leading(const Error& error, ControllerService& service) {
  const std::string leader = service.leader();
  http::Response response = http::error_response(
      503, "not_leader", error.remedy.empty() ? "this controller does not lead" : printable(error.remedy),
      leader.empty() ? "try again in a moment" : "ask that one");
  response.leader = leader;
  return response;
}

http::Response response_for(const Error& error, ControllerService& service) {
  if (error.code == std::make_error_condition(std::errc::operation_not_permitted)) return not_leading(error, service);
  return http::error_response(error);
}

http::Response response_for(const Document& document) {
  http::Response response;
  response.status = document.status;
  response.body = to_valid_utf8(document.body);
  return response;
}

http::Response back_up(const http::Request& request, ControllerService& service) {
  const Result<std::string> file = backup_file_from(request.body);
  if (!file) return http::error_response(file.error());
  const Result<BackupAnswer> answer = service.backup(*file);
  if (!answer) return response_for(answer.error(), service);
  return response_for(document_of(*answer));
}

http::Response respond(const http::Request& request, ControllerService& service) {
  const std::string_view path = http::path_of(request.target);
  const ApiRoute* route = find_route(request.method, path);
  if (!route) return nothing_there(path);
  Result<Parameters> parameters = http::path_values(route->pattern, path);
  if (!parameters) return http::error_response(parameters.error());
  if (std::optional<http::Response> refusal = forbidden(request.caller, *route, *parameters)) return *refusal;
  Result<Parameters> query = http::query_values(request.target, kQueryNames, kReadTheDocs);
  if (!query) return http::error_response(query.error());
  if (route->pattern == kBackup) return back_up(request, service);
  const auto forms = request_forms();
  const auto form = std::ranges::find_if(
      forms, [&](const RequestForm& each) { return each.pattern == route->pattern && each.method == route->method; });
  parameters->merge(*query);
  if (!query->empty())
    return http::error_response(failure(std::errc::invalid_argument, "read query parameter",
                                        "'" + query->begin()->first + "'", "it stands in the path")
                                    .value());
  const Result<Request> asked = request_from(form->kind, *parameters, request.body);
  if (!asked) return http::error_response(asked.error());
  const Result<Answer> answer = service.call(*asked, actor_of(request.caller));
  if (!answer) return response_for(answer.error(), service);
  return response_for(document_of(*answer));
}

}  // namespace

Role role_of(const http::Caller& caller) {
  if (!caller.tls) return caller.uid == ~0u ? Role::kNone : Role::kAdmin;
  const auto* const found = std::ranges::find(kRoles, caller.role, &std::pair<std::string_view, Role>::first);
  return found == kRoles.end() ? Role::kNone : found->second;
}

std::span<const ApiRoute> api_routes() {
  static const std::vector<ApiRoute> routes = [] {
    std::vector<ApiRoute> all;
    for (const RequestForm& form : request_forms()) all.push_back({form.method, form.pattern, form.role, form.route});
    all.push_back({"POST", kBackup, Role::kAdmin, {.changes = true}});
    return all;
  }();
  return routes;
}

http::Handler::Route ApiHandler::route(std::string_view method, std::string_view target) const {
  const ApiRoute* found = find_route(method, http::path_of(target));
  return found ? found->kind : Route{};
}

http::Response ApiHandler::answer(const http::Request& request) {
  try {
    return respond(request, service_);
  } catch (const std::exception& error) {
    // A client must never take the controller down with it.
    return http::error_response(500, "failed", std::string("internal error: ") + error.what());
  }
}

}  // namespace tidepool::pool::controller
