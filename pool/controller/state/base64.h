// RFC 4648, section 4: as protobuf's JSON has bytes.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace tidepool::pool::controller {

std::string base64_of(std::string_view bytes);
// Absent: not base64, or without its padding.
std::optional<std::string> from_base64(std::string_view text);

}  // namespace tidepool::pool::controller
