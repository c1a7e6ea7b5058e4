// Errors as an API tells them: {"error": {"code", "message", "remedy", "findings"}} and an HTTP status.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "service/http/message.h"

namespace boost::json {
class object;
}

namespace tidepool::http {

struct ErrorKind {
  unsigned status;        // HTTP
  std::string_view code;  // stable word for programs
};

// 400 invalid, 404 not_found, 409 conflict, 422 refused, 503 unavailable or timed_out, 500 failed.
ErrorKind kind_of(const std::error_code& code);

// What stands under "error"; "findings" is empty and for the caller to fill.
boost::json::object error_object(std::string_view code, std::string_view message, std::string_view remedy = {});
// The whole body, with a line feed.
std::string error_body(std::string_view code, std::string_view message, std::string_view remedy = {});

Response error_response(unsigned status, std::string_view code, std::string_view message, std::string_view remedy = {});
Response error_response(const Error& error);

}  // namespace tidepool::http
