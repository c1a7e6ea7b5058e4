#include "bench/load/cache_connection.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <cstring>

#include "base/unique_fd.h"

namespace tidepool::load {
namespace {

Result<UniqueFd> connect_unix(const std::string& path) {
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  if (path.size() >= sizeof(address.sun_path)) return failure(std::errc::filename_too_long, "connect", path);
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  UniqueFd socket{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  if (!socket.valid() || ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return errno_failure("connect", path);
  }
  return socket;
}

Result<UniqueFd> connect_tcp(const std::string& where) {
  const std::size_t colon = where.rfind(':');
  sockaddr_in address{};
  address.sin_family = AF_INET;
  std::uint16_t port = 0;
  const std::string_view digits = std::string_view(where).substr(colon + 1);
  const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), port);
  const bool numeric = parsed.ec == std::errc{} && parsed.ptr == digits.data() + digits.size();
  if (!numeric || ::inet_pton(AF_INET, where.substr(0, colon).c_str(), &address.sin_addr) != 1) {
    return failure(std::errc::invalid_argument, "parse address", where,
                   "give a numeric IPv4 HOST:PORT, or a socket's path");
  }
  address.sin_port = htons(port);
  UniqueFd socket{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  if (!socket.valid() || ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return errno_failure("connect", where);
  }
  const int on = 1;
  ::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  return socket;
}

// Lines and blocks over a blocking stream socket.
class LineStream {
 public:
  explicit LineStream(UniqueFd socket) : socket_(std::move(socket)) {}

  Result<> send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent < 0 && errno == EINTR) continue;
      if (sent <= 0) return errno_failure("send", "cache server");
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    }
    return {};
  }
  // Without its "\r\n".
  Result<std::string> line() {
    constexpr std::size_t kLongest = 4096;
    for (;;) {
      const std::size_t end = buffer_.find("\r\n");
      if (end != std::string::npos) {
        std::string result = buffer_.substr(0, end);
        buffer_.erase(0, end + 2);
        return result;
      }
      if (buffer_.size() > kLongest) return failure(std::errc::bad_message, "read a line", "cache server");
      if (const auto more = receive(); !more) return Failure(more.error());
    }
  }
  // `size` bytes and the "\r\n" behind them, which is dropped.
  Result<std::string> block(std::size_t size) {
    while (buffer_.size() < size + 2) {
      if (const auto more = receive(); !more) return Failure(more.error());
    }
    std::string result = buffer_.substr(0, size);
    buffer_.erase(0, size + 2);
    return result;
  }

 private:
  Result<> receive() {
    std::array<char, 16384> chunk;
    ssize_t got = 0;
    do {
      got = ::recv(socket_.get(), chunk.data(), chunk.size(), 0);
    } while (got < 0 && errno == EINTR);
    if (got < 0) return errno_failure("receive", "cache server");
    if (got == 0) return failure(std::errc::connection_reset, "receive", "cache server");
    buffer_.append(chunk.data(), static_cast<std::size_t>(got));
    return {};
  }

  UniqueFd socket_;
  std::string buffer_;
};

// A block never is larger than what this program stores.
constexpr std::size_t kLargestValue = 1 << 20;

Result<std::size_t> parse_size(std::string_view text) {
  std::size_t size = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), size);
  if (parsed.ec != std::errc{} || parsed.ptr != text.data() + text.size() || size > kLargestValue) {
    return failure(std::errc::bad_message, "read a size", std::string(text));
  }
  return size;
}

class MemcachedConnection final : public CacheConnection {
 public:
  explicit MemcachedConnection(UniqueFd socket) : stream_(std::move(socket)) {}

  Result<> set(std::string_view key, std::string_view value) override {
    if (auto sent = stream_.send(fmt::format("set {} 0 0 {}\r\n{}\r\n", key, value.size(), value)); !sent) return sent;
    const auto answer = stream_.line();
    if (!answer) return Failure(answer.error());
    if (*answer != "STORED") return failure(std::errc::io_error, "set", std::string(key), "memcached says " + *answer);
    return {};
  }

  Result<std::optional<std::string>> get(std::string_view key) override {
    if (auto sent = stream_.send(fmt::format("get {}\r\n", key)); !sent) return Failure(sent.error());
    const auto head = stream_.line();
    if (!head) return Failure(head.error());
    if (*head == "END") return std::optional<std::string>{};
    // "VALUE key flags bytes"
    if (!head->starts_with("VALUE "))
      return failure(std::errc::bad_message, "get", std::string(key), "memcached says " + *head);
    const auto size = parse_size(std::string_view(*head).substr(head->rfind(' ') + 1));
    if (!size) return Failure(size.error());
    auto value = stream_.block(*size);
    if (!value) return Failure(value.error());
    if (const auto end = stream_.line(); !end) return Failure(end.error());
    return std::optional<std::string>(std::move(*value));
  }

 private:
  LineStream stream_;
};

class RedisConnection final : public CacheConnection {
 public:
  explicit RedisConnection(UniqueFd socket) : stream_(std::move(socket)) {}

  Result<> set(std::string_view key, std::string_view value) override {
    const auto request =
        fmt::format("*3\r\n$3\r\nSET\r\n${}\r\n{}\r\n${}\r\n{}\r\n", key.size(), key, value.size(), value);
    if (auto sent = stream_.send(request); !sent) return sent;
    const auto answer = stream_.line();
    if (!answer) return Failure(answer.error());
    if (*answer != "+OK") return failure(std::errc::io_error, "set", std::string(key), "redis says " + *answer);
    return {};
  }

  Result<std::optional<std::string>> get(std::string_view key) override {
    if (auto sent = stream_.send(fmt::format("*2\r\n$3\r\nGET\r\n${}\r\n{}\r\n", key.size(), key)); !sent)
      return Failure(sent.error());
    const auto head = stream_.line();
    if (!head) return Failure(head.error());
    if (*head == "$-1") return std::optional<std::string>{};
    if (!head->starts_with('$')) return failure(std::errc::bad_message, "get", std::string(key), "redis says " + *head);
    const auto size = parse_size(std::string_view(*head).substr(1));
    if (!size) return Failure(size.error());
    auto value = stream_.block(*size);
    if (!value) return Failure(value.error());
    return std::optional<std::string>(std::move(*value));
  }

 private:
  LineStream stream_;
};

}  // namespace

Result<std::unique_ptr<CacheConnection>> connect_to_cache(CacheProtocol protocol, const std::string& address) {
  auto socket = address.find('/') == std::string::npos ? connect_tcp(address) : connect_unix(address);
  if (!socket) return Failure(socket.error());
  std::unique_ptr<CacheConnection> connection;
  if (protocol == CacheProtocol::kMemcached) {
    connection = std::make_unique<MemcachedConnection>(std::move(*socket));
  } else {
    connection = std::make_unique<RedisConnection>(std::move(*socket));
  }
  return connection;
}

}  // namespace tidepool::load
