#include "pool/protocol/messages.h"

namespace tidepool::protocol {

std::string describe(ErrorCode code) {
  switch (code) {
    case ErrorCode::kOk:
      return "done";
    case ErrorCode::kMalformed:
      return "the frame makes no sense";
    case ErrorCode::kNoVersion:
      return "no protocol version that both sides speak";
    case ErrorCode::kDenied:
      return "no valid token for that";
    case ErrorCode::kNoSuchSlice:
      return "no such slice";
    case ErrorCode::kStaleEpoch:
      return "the slice is held with a higher epoch";
    case ErrorCode::kWrongBoot:
      return "the server was restarted and has none of the pages it had";
    case ErrorCode::kExpired:
      return "the lease is over";
    case ErrorCode::kOverloaded:
      return "more is under way than the server granted";
    case ErrorCode::kFull:
      return "no memory for a slice of that size";
    case ErrorCode::kDrainingNow:
      return "the server is being drained";
    case ErrorCode::kOutOfRange:
      return "the slice has no such slot";
    case ErrorCode::kStaleVersion:
      return "the slot has a version at least as high";
    case ErrorCode::kEmpty:
      return "nothing is stored in the slot";
    case ErrorCode::kUnsupported:
      return "the other side does not know this request";
  }
  return "error " + std::to_string(static_cast<std::uint32_t>(code));
}

}  // namespace tidepool::protocol
