#include "pool/client/endpoint.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "pool/protocol/messages.h"

namespace tidepool::pool {
namespace {

constexpr std::size_t kMaxAddresses = 8;  // of one name; more are not tried

struct Address {
  sockaddr_storage storage{};
  socklen_t length = 0;
};

// Until `fd` has one of `events`.
Result<> await(int fd, short events, const Patience& patience, const char* doing) {
  for (;;) {
    std::array<pollfd, 2> waits{pollfd{fd, events, 0}, pollfd{patience.stop_fd, POLLIN, 0}};
    const Nanoseconds left = patience.until - SystemClock().now();
    if (left <= Nanoseconds{0}) return failure(std::errc::timed_out, doing, "memory server");
    const auto wait = std::chrono::ceil<std::chrono::milliseconds>(std::min<Nanoseconds>(left, std::chrono::hours(1)));
    const int ready = ::poll(waits.data(), waits.size(), static_cast<int>(wait.count()));
    if (ready < 0 && errno != EINTR) return errno_failure(doing, "memory server");
    if (ready <= 0) continue;
    if (waits[1].revents != 0) return failure(std::errc::operation_canceled, doing, "memory server");
    if (waits[0].revents != 0) return {};
  }
}

// Shared with the thread that looks a name up: it may end long after whoever asked.
struct Lookup {
  std::mutex mutex;
  UniqueFd ready{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  int error = 0;
  std::vector<Address> addresses;
};

void look_up(const std::shared_ptr<Lookup>& lookup, const Endpoint& endpoint, int flags) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags;
  addrinfo* found = nullptr;
  const int error = ::getaddrinfo(endpoint.host.c_str(), endpoint.port.c_str(), &hints, &found);
  const std::lock_guard lock(lookup->mutex);
  lookup->error = error;
  for (const addrinfo* one = found; one != nullptr && lookup->addresses.size() < kMaxAddresses; one = one->ai_next) {
    if (one->ai_addrlen > sizeof(sockaddr_storage)) continue;
    Address& address = lookup->addresses.emplace_back();
    std::memcpy(&address.storage, one->ai_addr, one->ai_addrlen);
    address.length = one->ai_addrlen;
  }
  if (found != nullptr) ::freeaddrinfo(found);
  const std::uint64_t one = 1;
  static_cast<void>(!::write(lookup->ready.get(), &one, sizeof one));
}

Result<std::vector<Address>> addresses_of(const Endpoint& endpoint, const Patience& patience) {
  const auto lookup = std::make_shared<Lookup>();
  if (!lookup->ready.valid()) return errno_failure("look up", endpoint.host);
  look_up(lookup, endpoint, AI_NUMERICHOST);
  if (lookup->error == EAI_NONAME) {
    std::uint64_t count = 0;
    static_cast<void>(!::read(lookup->ready.get(), &count, sizeof count));
    try {
      std::thread(look_up, lookup, endpoint, AI_ADDRCONFIG).detach();
    } catch (const std::system_error& error) {
      return failure_from(error.code().value(), "look up", endpoint.host);
    }
    if (auto ready = await(lookup->ready.get(), POLLIN, patience, "look up"); !ready) return Failure{ready.error()};
  }
  const std::lock_guard lock(lookup->mutex);
  if (lookup->error != 0)
    return failure(std::errc::host_unreachable, "look up", endpoint.host, ::gai_strerror(lookup->error));
  return lookup->addresses;
}

Result<UniqueFd> connect_address(const Address& address, const std::string& name, const Patience& patience) {
  UniqueFd fd{::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
  if (!fd.valid()) return errno_failure("make a socket for", name);
  if (address.storage.ss_family != AF_UNIX) {
    const int on = 1;
    if (::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0)
      return errno_failure("prepare a socket for", name);
  }
  if (address.storage.ss_family == AF_UNIX) {
    ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDBUF, &protocol::kUnixSendRoom, sizeof protocol::kUnixSendRoom);
  }
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address.storage), address.length) == 0) return fd;
  // A unix socket whose listener has no room says EAGAIN, and is not being connected.
  if (errno != EINPROGRESS) return errno_failure("connect to", name);
  if (auto ready = await(fd.get(), POLLOUT, patience, "connect to"); !ready) {
    Error error = ready.error();
    error.subject = name;
    return Failure{error};
  }
  int error = 0;
  socklen_t length = sizeof error;
  if (::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &length) != 0) return errno_failure("connect to", name);
  if (error != 0) return failure_from(error, "connect to", name);
  return fd;
}

Failure bad_address(std::string_view text, std::string why) {
  return failure(std::errc::invalid_argument, "understand", "the address '" + std::string(text) + "'",
                 std::move(why) + "; write unix:/path, tcp:host:port or tcp:[IPv6 address]:port");
}

}  // namespace

Result<Endpoint> parse_endpoint(std::string_view text) {
  Endpoint endpoint;
  if (text.starts_with("unix:")) {
    endpoint.is_unix = true;
    endpoint.path = text.substr(5);
    if (!endpoint.path.starts_with('/')) return bad_address(text, "the path must begin with /");
    if (endpoint.path.size() >= sizeof(sockaddr_un{}.sun_path)) return bad_address(text, "the path is too long");
    if (endpoint.path.find('\0') != std::string::npos) return bad_address(text, "the path has a zero in it");
    return endpoint;
  }
  if (!text.starts_with("tcp:")) return bad_address(text, "it begins with neither unix: nor tcp:");
  const std::string_view rest = text.substr(4);
  const std::size_t colon = rest.rfind(':');
  if (colon == std::string_view::npos) return bad_address(text, "there is no port");
  std::string_view host = rest.substr(0, colon);
  const std::string_view port = rest.substr(colon + 1);
  const bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  if (host.empty() || host.find_first_of("[]\0 ", 0, 4) != std::string_view::npos)
    return bad_address(text, "the host makes no sense");
  if (!bracketed && host.find(':') != std::string_view::npos)
    return bad_address(text, "an IPv6 address stands in brackets");
  unsigned number = 0;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), number);
  if (error != std::errc{} || end != port.data() + port.size() || number == 0 || number > 65535)
    return bad_address(text, "a port is a number from 1 to 65535");
  endpoint.host = host;
  endpoint.port = port;
  return endpoint;
}

Result<UniqueFd> connect_to(const Endpoint& endpoint, const Patience& patience) {
  if (endpoint.is_unix) {
    Address address;
    sockaddr_un unix_address{};
    unix_address.sun_family = AF_UNIX;
    if (endpoint.path.size() >= sizeof unix_address.sun_path) return bad_address(endpoint.path, "it is too long");
    std::memcpy(unix_address.sun_path, endpoint.path.data(), endpoint.path.size());
    std::memcpy(&address.storage, &unix_address, sizeof unix_address);
    address.length = sizeof unix_address;
    return connect_address(address, "unix:" + endpoint.path, patience);
  }
  const auto addresses = addresses_of(endpoint, patience);
  if (!addresses) return Failure{addresses.error()};
  const std::string name = "tcp:" + endpoint.host + ":" + endpoint.port;
  Result<UniqueFd> socket = failure(std::errc::host_unreachable, "connect to", name, "the name has no address");
  // Each gets its share of the time, so that a dead one does not use up that of the others.
  for (std::size_t i = 0; i < addresses->size(); ++i) {
    const MonoTime now = SystemClock().now();
    const auto others = static_cast<Nanoseconds::rep>(addresses->size() - i);
    socket = connect_address((*addresses)[i], name, {now + (patience.until - now) / others, patience.stop_fd});
    if (socket || socket.error().code == std::errc::operation_canceled) return socket;
  }
  return socket;
}

Result<> send_all(int socket, std::span<const std::byte> bytes, const Patience& patience) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent > 0) {
      bytes = bytes.subspan(static_cast<std::size_t>(sent));
    } else if (errno == EAGAIN) {
      if (auto ready = await(socket, POLLOUT, patience, "send to"); !ready) return ready;
    } else if (errno != EINTR) {
      return errno_failure("send to", "memory server");
    }
  }
  return {};
}

Result<> receive_all(int socket, std::span<std::byte> bytes, const Patience& patience) {
  while (!bytes.empty()) {
    const ssize_t got = ::recv(socket, bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (got > 0) {
      bytes = bytes.subspan(static_cast<std::size_t>(got));
    } else if (got == 0) {
      return failure(std::errc::connection_reset, "receive from", "memory server", "it closed the connection");
    } else if (errno == EAGAIN) {
      if (auto ready = await(socket, POLLIN, patience, "receive from"); !ready) return ready;
    } else if (errno != EINTR) {
      return errno_failure("receive from", "memory server");
    }
  }
  return {};
}

}  // namespace tidepool::pool
