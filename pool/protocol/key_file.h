// The server's key: 32 secret bytes in a file that nobody else may read.
#pragma once

#include <string>

#include "base/result.h"
#include "pool/protocol/handshake.h"

namespace tidepool::protocol {

// The file holds the 32 bytes, or 64 hexadecimal digits. Errors say how to make a key, or what to do about a file that
// others may read.
Result<ServerKey> read_key_file(const std::string& path);

}  // namespace tidepool::protocol
