#include "daemon/control/api_error.h"

#include <boost/json.hpp>

#include "daemon/control/api_json.h"
#include "service/http/error_body.h"

namespace tidepool::daemon {

namespace json = boost::json;

namespace {

json::object with_findings(json::object error, const std::vector<Finding>& findings) {
  json::array list;
  for (const Finding& finding : findings) list.emplace_back(to_json(finding));
  error["findings"] = std::move(list);
  return error;
}

}  // namespace

json::object error_object(const Error& error, const std::vector<Finding>& findings) {
  Error bare = error;
  bare.remedy.clear();  // has a field of its own
  return with_findings(http::error_object(http::kind_of(error.code).code, bare.message(), error.remedy), findings);
}

std::string error_body(std::string_view code, std::string_view message, std::string_view remedy,
                       const std::vector<Finding>& findings) {
  return json::serialize(json::object{{"error", with_findings(http::error_object(code, message, remedy), findings)}}) +
         "\n";
}

}  // namespace tidepool::daemon
