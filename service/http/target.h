// Paths and queries of requests: percent-coding, and patterns like "/v1/vms/{vm}".
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace tidepool::http {

// For a path segment or a query value.
std::string percent_encoded(std::string_view text);
// Absent: malformed, or a zero byte, which no name has.
std::optional<std::string> percent_decoded(std::string_view text);

// Without the query.
std::string_view path_of(std::string_view target);

// Every segment is the same, or {named} in the pattern and not empty in the path.
bool matches(std::string_view pattern, std::string_view path);

// The {named} segments of a path that matches, decoded, by name without braces. Errors: one that cannot be decoded.
Result<std::map<std::string, std::string>> path_values(std::string_view pattern, std::string_view path);

// Parameters, decoded. Errors: one that cannot be decoded, comes twice, or is none of `known`; `remedy` is the error's.
Result<std::map<std::string, std::string>> query_values(std::string_view target,
                                                        std::span<const std::string_view> known,
                                                        std::string_view remedy);

}  // namespace tidepool::http
