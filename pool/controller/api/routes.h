// The controller's API: routes, who may use which, and the HTTP handler that joins them with a ControllerService.
// docs/openapi.yaml describes every one of them, which a test keeps.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "pool/controller/api/service.h"
#include "service/http/server.h"

namespace tidepool::pool::controller {

enum class Role : std::uint8_t { kNone, kReader, kServer, kAgent, kAdmin };
// Of a unix socket's peer: admin, for the socket's mode lets nobody else in than root and its group. Over TLS: what the
// certificate says.
Role role_of(const http::Caller& caller);

struct ApiRoute {
  std::string_view method;
  std::string_view pattern;  // "/v1/servers/{name}/drain"
  // That may use it besides admin. Agents and servers only where {name} is their certificate's name.
  Role role = Role::kAdmin;
  http::Handler::Route kind;
};
std::span<const ApiRoute> api_routes();

// For http::Server.
class ApiHandler final : public http::Handler {
 public:
  // `service` must outlive it.
  explicit ApiHandler(ControllerService& service) : service_(service) {}

  Route route(std::string_view method, std::string_view target) const override;
  http::Response answer(const http::Request& request) override;
  void audit_trouble(std::string_view problem) override { service_.audit_trouble(problem); }

 private:
  ControllerService& service_;
};

}  // namespace tidepool::pool::controller
