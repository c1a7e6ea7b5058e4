// Errors as service/http/error_body.h tells them, with the findings of a VM.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "daemon/control/agent_service.h"

namespace boost::json {
class object;
}

namespace tidepool::daemon {

boost::json::object error_object(const Error& error, const std::vector<Finding>& findings = {});
// The whole body, with a line feed.
std::string error_body(std::string_view code, std::string_view message, std::string_view remedy = {},
                       const std::vector<Finding>& findings = {});

}  // namespace tidepool::daemon
