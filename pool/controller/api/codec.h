// requests.h as JSON and back: for the server and for its clients. docs/openapi.yaml describes the documents.
//
// Sizes are whole numbers of bytes in fields named *_bytes; "no limit" is null. Slices, boots, holders, keys and
// secrets are lower-case hexadecimal digits in strings. What a request leaves out has the value that requests.h gives
// it; a field that is not known, missing where there is none, of the wrong type or beyond its bound is an
// invalid_argument error that names it with its place ("vms[3].holder"). Answers are read the same way, but unknown
// fields are passed over: a controller may be newer than its clients.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "base/result.h"
#include "pool/controller/api/service.h"

namespace tidepool::pool::controller {

// ---- for clients --------------------------------------------------------------------------------------------------

struct HttpForm {
  std::string method;
  std::string target;
  std::string body;  // empty where there is nothing to say
};
HttpForm http_form(const Request& request);

// The answer to `request` from a status and a body. Refusals of the controller are answers. Errors: whatever else is
// not an answer: what the status and the body's "error" say (permission_denied for 403, operation_not_permitted for
// not_leader, resource_unavailable_try_again for 503), or protocol_error for what is no such document.
Result<Answer> answer_from(const Request& request, unsigned status, std::string_view body);

// ---- for the server -----------------------------------------------------------------------------------------------

using Parameters = std::map<std::string, std::string>;  // of the path and of the query, decoded

// `kind` has the alternative that the route stands for; names and query parameters come from `parameters`.
Result<Request> request_from(const Request& kind, const Parameters& parameters, std::string_view body);

struct Document {
  unsigned status = 200;
  std::string body;  // with a line feed
};
Document document_of(const Answer& answer);
Document document_of(const BackupAnswer& answer);
Result<std::string> backup_file_from(std::string_view body);

}  // namespace tidepool::pool::controller
