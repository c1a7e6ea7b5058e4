// One connection to a cache server, one request at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace tidepool::load {

enum class CacheProtocol : std::uint8_t { kMemcached, kRedis };

// Not thread-safe. After an error the connection is of no further use.
class CacheConnection {
 public:
  virtual ~CacheConnection() = default;
  virtual Result<> set(std::string_view key, std::string_view value) = 0;
  // Nothing when the server does not have the key.
  virtual Result<std::optional<std::string>> get(std::string_view key) = 0;
};

// `address`: "HOST:PORT" with a numeric IPv4 host, or the path of a unix socket.
Result<std::unique_ptr<CacheConnection>> connect_to_cache(CacheProtocol protocol, const std::string& address);

}  // namespace tidepool::load
