// Where a memory server listens, and how a socket to it is made without anybody waiting but the thread that asks, which
// ends its wait when it is told to.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace tidepool::pool {

struct Endpoint {
  bool is_unix = false;
  std::string path;  // unix
  std::string host;  // tcp: a name, or an address as text
  std::string port;
};

// "unix:/path", "tcp:host:port", "tcp:[IPv6 address]:port".
Result<Endpoint> parse_endpoint(std::string_view text);

// How long somebody is willing to wait, and what ends the wait before.
struct Patience {
  MonoTime until;
  int stop_fd = -1;  // readable: give up
};

// A connected socket, close-on-exec, that never blocks; TCP sends at once what it is given. The name is looked up on a
// thread of its own, which is left behind when the wait ends first.
Result<UniqueFd> connect_to(const Endpoint& endpoint, const Patience& patience);

// All of `bytes`, or an error: timed_out, operation_canceled when told to stop, connection_reset when the peer closed.
Result<> send_all(int socket, std::span<const std::byte> bytes, const Patience& patience);
Result<> receive_all(int socket, std::span<std::byte> bytes, const Patience& patience);

}  // namespace tidepool::pool
