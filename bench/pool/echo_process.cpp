#include "bench/pool/echo_process.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <stdexcept>

namespace tidepool::bench {
namespace {

void move_all(int socket, std::byte* bytes, bool out, int flags) {
  for (std::size_t done = 0; done < EchoProcess::kBytes;) {
    const ssize_t moved = out ? ::send(socket, bytes + done, EchoProcess::kBytes - done, flags | MSG_NOSIGNAL)
                              : ::recv(socket, bytes + done, EchoProcess::kBytes - done, flags);
    if (moved > 0) {
      done += static_cast<std::size_t>(moved);
    } else if (moved == 0 || (errno != EAGAIN && errno != EINTR)) {
      throw std::runtime_error("the echo ended");
    }
  }
}

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

EchoProcess::EchoProcess(const std::string& address) {
  auto [near, far] = address.starts_with("tcp:") ? tcp_pair() : unix_pair();
  pid_ = ::fork();
  if (pid_ < 0) throw std::runtime_error("cannot fork");
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    near.reset();
    try {
      for (;;) {
        move_all(far.get(), page_.data(), false, 0);
        move_all(far.get(), page_.data(), true, 0);
      }
    } catch (const std::exception&) {
      ::_exit(0);
    }
  }
  socket_ = std::move(near);
}

EchoProcess::~EchoProcess() {
  socket_.reset();
  ::waitpid(pid_, nullptr, 0);
}

void EchoProcess::round_trip(bool spinning) {
  move_all(socket_.get(), page_.data(), true, 0);
  move_all(socket_.get(), page_.data(), false, spinning ? MSG_DONTWAIT : 0);
}

}  // namespace tidepool::bench
