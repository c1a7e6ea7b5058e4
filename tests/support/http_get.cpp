#include "tests/support/http_get.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdlib>
#include <random>
#include <set>

#include "base/unique_fd.h"

namespace tidepool::tests {
namespace {

sockaddr_in loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

}  // namespace

std::string http_get(int port, const std::string& path) {
  const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_in address = loopback(port);
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) return {};
  const std::string request = "GET " + path + " HTTP/1.0\r\nHost: localhost\r\n\r\n";
  if (::send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(request.size())) return {};
  std::string answer;
  char buffer[4096];
  for (ssize_t got = 0; (got = ::recv(fd.get(), buffer, sizeof buffer, 0)) > 0;)
    answer.append(buffer, static_cast<std::size_t>(got));
  return answer;
}

int free_port() {
  // Below the range from which the system picks ports for connections: nobody's connection may come to sit on the port
  // of a server that is started later, or again.
  constexpr int kLowest = 12000;
  constexpr int kHighest = 31999;
  static std::mt19937 random(std::random_device{}());
  static std::set<int> given;
  std::uniform_int_distribution<int> any(kLowest, kHighest);
  for (int attempt = 0; attempt < 1000; ++attempt) {
    const int port = any(random);
    const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_in address = loopback(port);
    if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) continue;
    if (given.insert(port).second) return port;
  }
  return 0;
}

double metric_value(const std::string& exposition, const std::string& series) {
  const std::size_t at = exposition.find("\n" + series + " ");
  return at == std::string::npos ? -1 : std::strtod(exposition.c_str() + at + series.size() + 2, nullptr);
}

}  // namespace tidepool::tests
