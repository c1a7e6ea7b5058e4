// Errors as the API tells them: {"error": {"code", "message", "remedy", "findings"}} and an HTTP status.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "daemon/control/agent_service.h"

namespace boost::json {
class object;
}

namespace tidepool::daemon {

struct ApiErrorKind {
  unsigned status;        // HTTP
  std::string_view code;  // stable word for programs
};

// 400 invalid, 404 not_found, 409 conflict, 422 refused, 503 unavailable or timed_out, 500 failed; by Error::code as
// agent_service.h says.
ApiErrorKind kind_of(const std::error_code& code);

boost::json::object error_object(const Error& error, const std::vector<Finding>& findings = {});
boost::json::object error_object(std::string_view code, std::string_view message, std::string_view remedy = {},
                                 const std::vector<Finding>& findings = {});
// The whole body, with a line feed.
std::string error_body(std::string_view code, std::string_view message, std::string_view remedy = {},
                       const std::vector<Finding>& findings = {});

}  // namespace tidepool::daemon
