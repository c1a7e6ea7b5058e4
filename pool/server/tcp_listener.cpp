#include "pool/server/tcp_listener.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <charconv>
#include <cstring>
#include <optional>

namespace tidepool::pool::server {
namespace {

constexpr int kBacklog = 128;

struct Address {
  sockaddr_storage storage{};
  socklen_t length = 0;
};

std::optional<Address> parse(std::string_view text) {
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return std::nullopt;
  std::string host(text.substr(0, colon));
  const std::string_view digits = text.substr(colon + 1);
  std::uint16_t port = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
  if (error != std::errc{} || end != digits.data() + digits.size() || port == 0) return std::nullopt;
  if (host == "localhost") host = "127.0.0.1";
  Address address;
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    sockaddr_in6 v6{};
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(port);
    if (::inet_pton(AF_INET6, host.substr(1, host.size() - 2).c_str(), &v6.sin6_addr) != 1) return std::nullopt;
    std::memcpy(&address.storage, &v6, sizeof v6);
    address.length = sizeof v6;
    return address;
  }
  sockaddr_in v4{};
  v4.sin_family = AF_INET;
  v4.sin_port = htons(port);
  if (::inet_pton(AF_INET, host.c_str(), &v4.sin_addr) != 1) return std::nullopt;
  std::memcpy(&address.storage, &v4, sizeof v4);
  address.length = sizeof v4;
  return address;
}

}  // namespace

bool is_tcp_address(std::string_view text) {
  return parse(text).has_value();
}

Result<UniqueFd> listen_on_tcp(const std::string& text) {
  const std::optional<Address> address = parse(text);
  if (!address) return failure(std::errc::invalid_argument, "listen on", text, "expected ADDRESS:PORT");
  UniqueFd fd{::socket(address->storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  if (!fd.valid()) return errno_failure("create", "a TCP socket");
  const int on = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (address->storage.ss_family == AF_INET6) ::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
  const auto* const generic = static_cast<const sockaddr*>(static_cast<const void*>(&address->storage));
  if (::bind(fd.get(), generic, address->length) != 0 || ::listen(fd.get(), kBacklog) != 0)
    return errno_failure("listen on", text, "set listen to an address of this host with a free port");
  return fd;
}

}  // namespace tidepool::pool::server
