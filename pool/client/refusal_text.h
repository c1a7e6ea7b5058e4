// Why a server did not give a slice, for people.
#pragma once

#include <string>

#include "pool/protocol/messages.h"

namespace tidepool::pool {

inline std::string refusal_text(protocol::ErrorCode code) {
  using protocol::ErrorCode;
  switch (code) {
    case ErrorCode::kFull:
      return "it has no memory for another slice";
    case ErrorCode::kDenied:
      return "it does not accept the token";
    case ErrorCode::kDrainingNow:
      return "it is draining";
    case ErrorCode::kStaleEpoch:
      return "somebody else holds the slice since";
    default:
      return "it refused a slice, error " + std::to_string(static_cast<std::uint32_t>(code));
  }
}

}  // namespace tidepool::pool
