#include "bench/pool/connected_pair.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <array>
#include <stdexcept>

namespace tidepool::bench {
namespace {

void no_delay(int socket) {
  const int on = 1;
  ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

// Two ends of a TCP connection over the loopback device.
std::pair<UniqueFd, UniqueFd> tcp_pair() {
  const UniqueFd listener{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  auto* const at = reinterpret_cast<sockaddr*>(&address);
  UniqueFd near{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  if (::bind(listener.get(), at, length) != 0 || ::listen(listener.get(), 1) != 0 ||
      ::getsockname(listener.get(), at, &length) != 0 || ::connect(near.get(), at, length) != 0)
    throw std::runtime_error("no TCP connection over the loopback device");
  UniqueFd far{::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC)};
  no_delay(near.get());
  no_delay(far.get());
  return {std::move(near), std::move(far)};
}

std::pair<UniqueFd, UniqueFd> unix_pair() {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0)
    throw std::runtime_error("no unix socket");
  return {UniqueFd{ends[0]}, UniqueFd{ends[1]}};
}

}  // namespace

std::pair<UniqueFd, UniqueFd> connected_pair(bool tcp) {
  return tcp ? tcp_pair() : unix_pair();
}

}  // namespace tidepool::bench
