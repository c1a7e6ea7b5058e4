// From a request to an answer, without sockets: which route, which call of the service, which document. Thread-safe
// where the service is.
#pragma once

#include <span>
#include <string_view>

#include "daemon/control/agent_service.h"
#include "service/http/message.h"

namespace tidepool::daemon {

using ApiRequest = http::Request;
using ApiResponse = http::Response;

struct ApiRoute {
  std::string_view method;
  std::string_view pattern;  // "/v1/vms/{vm}"
  bool changes = false;      // recorded in the audit log
  bool urgent = false;       // answered by a thread of its own, so that slow work never delays it
};

// Every route there is; docs/api.md lists the same.
std::span<const ApiRoute> api_routes();

// Absent when nothing answers to the target, whatever the method.
const ApiRoute* find_route(std::string_view method, std::string_view target);

ApiResponse answer(const ApiRequest& request, AgentService& service);

}  // namespace tidepool::daemon
