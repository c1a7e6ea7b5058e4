// The socket on which a service manager hears of its services (sd_notify(3)): for tests that play systemd.
#pragma once

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <cstring>
#include <string>

#include "base/unique_fd.h"

namespace tidepool::tests {

class NotifySocket {
 public:
  // At `path`, which nothing is at yet; whoever made its folder removes it.
  explicit NotifySocket(std::string path)
      : path_(std::move(path)), socket_(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path_.copy(address.sun_path, sizeof address.sun_path - 1);
    EXPECT_EQ(::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  }

  // What NOTIFY_SOCKET names.
  const std::string& path() const { return path_; }
  int fd() const { return socket_.get(); }

  // The oldest message that was not taken yet; waits for one unless told not to. Empty: none.
  std::string next(int flags = 0) const {
    std::array<char, 4096> text;
    const ssize_t got = ::recv(socket_.get(), text.data(), text.size(), flags);
    return got > 0 ? std::string(text.data(), static_cast<std::size_t>(got)) : std::string();
  }

 private:
  const std::string path_;
  const UniqueFd socket_;
};

}  // namespace tidepool::tests
