#include "daemon/control/api_error.h"

#include <boost/json.hpp>

#include "daemon/control/api_json.h"

namespace tidepool::daemon {

namespace json = boost::json;

ApiErrorKind kind_of(const std::error_code& code) {
  const auto is = [&](std::errc value) { return code == std::make_error_condition(value); };
  if (is(std::errc::no_such_file_or_directory) || is(std::errc::no_such_process)) return {404, "not_found"};
  if (is(std::errc::invalid_argument)) return {400, "invalid"};
  if (is(std::errc::file_exists) || is(std::errc::device_or_resource_busy)) return {409, "conflict"};
  if (is(std::errc::operation_not_permitted) || is(std::errc::permission_denied) || is(std::errc::not_supported) ||
      is(std::errc::no_space_on_device) || is(std::errc::not_enough_memory) || is(std::errc::operation_canceled))
    return {422, "refused"};
  if (is(std::errc::timed_out)) return {503, "timed_out"};
  if (is(std::errc::resource_unavailable_try_again)) return {503, "unavailable"};
  return {500, "failed"};
}

json::object error_object(std::string_view code, std::string_view message, std::string_view remedy,
                          const std::vector<Finding>& findings) {
  json::array list;
  for (const Finding& finding : findings) list.emplace_back(to_json(finding));
  return {{"code", code}, {"message", message}, {"remedy", remedy}, {"findings", std::move(list)}};
}

json::object error_object(const Error& error, const std::vector<Finding>& findings) {
  Error bare = error;
  bare.remedy.clear();  // has a field of its own
  return error_object(kind_of(error.code).code, bare.message(), error.remedy, findings);
}

std::string error_body(std::string_view code, std::string_view message, std::string_view remedy,
                       const std::vector<Finding>& findings) {
  return json::serialize(json::object{{"error", error_object(code, message, remedy, findings)}}) + "\n";
}

}  // namespace tidepool::daemon
