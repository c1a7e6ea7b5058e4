#include "service/http/error_body.h"

#include <boost/json.hpp>

namespace tidepool::http {

namespace json = boost::json;

ErrorKind kind_of(const std::error_code& code) {
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

json::object error_object(std::string_view code, std::string_view message, std::string_view remedy) {
  return {{"code", code}, {"message", message}, {"remedy", remedy}, {"findings", json::array{}}};
}

std::string error_body(std::string_view code, std::string_view message, std::string_view remedy) {
  return json::serialize(json::object{{"error", error_object(code, message, remedy)}}) + "\n";
}

Response error_response(unsigned status, std::string_view code, std::string_view message, std::string_view remedy) {
  Response response;
  response.status = status;
  response.body = error_body(code, message, remedy);
  return response;
}

Response error_response(const Error& error) {
  Error bare = error;
  bare.remedy.clear();  // has a field of its own
  const ErrorKind kind = kind_of(error.code);
  return error_response(kind.status, kind.code, bare.message(), error.remedy);
}

}  // namespace tidepool::http
