// Where an HTTP server listens, as people write it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "base/result.h"

namespace tidepool::http {

// "192.0.2.7:9843", "[2001:db8::1]:9843", "pool-1.example:9843": the host without brackets, and the port. Errors: what
// is none of them.
Result<std::pair<std::string, std::uint16_t>> split_host_port(std::string_view text);
// With brackets where they are needed.
std::string join_host_port(const std::string& host, std::uint16_t port);

struct Endpoint {
  enum class Kind : std::uint8_t { kUnix, kTcp, kTls };
  Kind kind = Kind::kUnix;
  std::string path;  // of the unix socket
  std::string host;  // without brackets
  std::uint16_t port = 0;

  // "unix:/run/tidepool/controller.sock", "http://127.0.0.1:2379", "https://[2001:db8::1]:9843". The port must be
  // given.
  static Result<Endpoint> parse(std::string_view text);
  std::string text() const;
};

}  // namespace tidepool::http
