// A TCP socket that listens on one address.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"

namespace tidepool::pool::server {

// True for "127.0.0.1:7411", "[::1]:7411" and "localhost:7411": an address of this host and a port from 1 to 65535, no
// names to look up.
bool is_tcp_address(std::string_view text);

Result<UniqueFd> listen_on_tcp(const std::string& address);

}  // namespace tidepool::pool::server
