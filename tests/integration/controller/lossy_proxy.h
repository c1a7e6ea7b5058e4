// Stands between a client and a server on loopback, and loses an answer when it is told to: the server has done what
// was asked, and the client sees its connection end.
#pragma once

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/unique_fd.h"

namespace tidepool::tests {

class LossyProxy {
 public:
  explicit LossyProxy(const std::string& url) : server_(address(std::atoi(url.c_str() + url.rfind(':') + 1))) {
    sockaddr_in own = address(0);
    socklen_t length = sizeof own;
    ::bind(listener_.get(), generic(own), sizeof own);
    ::listen(listener_.get(), 16);
    ::getsockname(listener_.get(), generic(own), &length);
    port_ = ntohs(own.sin_port);
    thread_ = std::thread([this] { run(); });
  }
  ~LossyProxy() {
    ended_ = true;
    thread_.join();
  }
  LossyProxy(const LossyProxy&) = delete;
  LossyProxy& operator=(const LossyProxy&) = delete;

  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_); }
  void lose_an_answer() { lose_ = true; }
  unsigned lost() const { return lost_; }

 private:
  struct Pair {
    UniqueFd client, server;
  };

  static sockaddr_in address(int port) {
    sockaddr_in result{};
    result.sin_family = AF_INET;
    result.sin_port = htons(static_cast<std::uint16_t>(port));
    result.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return result;
  }
  static sockaddr* generic(sockaddr_in& address) { return static_cast<sockaddr*>(static_cast<void*>(&address)); }

  // False: the connection is over.
  bool pass(int from, int to, bool answer) {
    std::array<char, 16384> buffer{};
    const ssize_t got = ::recv(from, buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (got < 0) return errno == EAGAIN;
    if (got == 0) return false;
    if (answer && lose_.exchange(false)) {
      ++lost_;
      return false;
    }
    return ::send(to, buffer.data(), static_cast<std::size_t>(got), MSG_NOSIGNAL) == got;
  }

  void run() {
    std::vector<Pair> pairs;
    while (!ended_) {
      std::vector<pollfd> waiting{{listener_.get(), POLLIN, 0}};
      for (const Pair& each : pairs) {
        waiting.push_back({each.client.get(), POLLIN, 0});
        waiting.push_back({each.server.get(), POLLIN, 0});
      }
      if (::poll(waiting.data(), waiting.size(), 50) <= 0) continue;
      std::vector<Pair> alive;
      for (std::size_t i = 0; i < pairs.size(); ++i) {
        Pair& pair = pairs[i];
        const bool asked = waiting[1 + 2 * i].revents == 0 || pass(pair.client.get(), pair.server.get(), false);
        const bool answered = waiting[2 + 2 * i].revents == 0 || pass(pair.server.get(), pair.client.get(), true);
        if (asked && answered) alive.push_back(std::move(pair));
      }
      pairs = std::move(alive);
      if (waiting[0].revents == 0) continue;
      Pair next{UniqueFd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC)),
                UniqueFd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0))};
      if (next.client.valid() && ::connect(next.server.get(), generic(server_), sizeof server_) == 0)
        pairs.push_back(std::move(next));
    }
  }

  UniqueFd listener_{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  sockaddr_in server_;
  std::uint16_t port_ = 0;
  std::atomic<bool> ended_ = false;
  std::atomic<bool> lose_ = false;
  std::atomic<unsigned> lost_ = 0;
  std::thread thread_;
};

}  // namespace tidepool::tests
