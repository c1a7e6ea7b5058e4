#include "tests/integration/control/raw_client.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <stdexcept>

namespace tidepool::daemon::testing {

RawClient::RawClient(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), std::min(path.size() + 1, sizeof address.sun_path));
  fd_ = UniqueFd{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  if (::connect(fd_.get(), static_cast<const sockaddr*>(static_cast<const void*>(&address)), sizeof address) != 0)
    fd_.reset();
}

bool RawClient::send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(sent));
  }
  return true;
}

namespace {

// False when the time is over, true when something can be read or the end was reached.
bool readable(int fd, std::chrono::steady_clock::time_point until) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
  pollfd waiting{fd, POLLIN, 0};
  return left.count() > 0 && ::poll(&waiting, 1, static_cast<int>(left.count())) > 0;
}

}  // namespace

std::optional<std::string> RawClient::read_all(int seconds) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
  std::array<char, 65536> chunk{};
  while (readable(fd_.get(), until)) {
    const ssize_t got = ::recv(fd_.get(), chunk.data(), chunk.size(), 0);
    if (got <= 0) return std::exchange(buffer_, {});
    buffer_.append(chunk.data(), static_cast<std::size_t>(got));
  }
  return std::nullopt;
}

std::optional<std::string> RawClient::read_response(int seconds) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
  std::array<char, 65536> chunk{};
  while (true) {
    const std::size_t end = buffer_.find("\r\n\r\n");
    const std::size_t length_at = buffer_.find("Content-Length: ");
    if (end != std::string::npos && length_at < end) {
      const std::size_t length = std::stoul(buffer_.substr(length_at + 16));
      if (buffer_.size() >= end + 4 + length) {
        std::string response = buffer_.substr(0, end + 4 + length);
        buffer_.erase(0, response.size());
        return response;
      }
    }
    if (!readable(fd_.get(), until)) return std::nullopt;
    const ssize_t got = ::recv(fd_.get(), chunk.data(), chunk.size(), 0);
    if (got <= 0) return std::nullopt;
    buffer_.append(chunk.data(), static_cast<std::size_t>(got));
  }
}

std::string roundtrip(const std::string& path, std::string_view method, std::string_view target, std::string_view body,
                      std::string_view header) {
  RawClient client(path);
  if (!client.connected()) return "";
  client.send(std::string(method) + " " + std::string(target) + " HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n" +
              std::string(header) + "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + std::string(body));
  return client.read_all().value_or("");
}

int status_of(std::string_view response) {
  int status = 0;
  if (response.size() > 12) std::from_chars(response.data() + 9, response.data() + 12, status);
  return status;
}

std::string body_of(std::string_view response) {
  const std::size_t end = response.find("\r\n\r\n");
  return end == std::string_view::npos ? "" : std::string(response.substr(end + 4));
}

TemporaryFolder::TemporaryFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "tidepool-control-XXXXXX").string();
  if (!::mkdtemp(name.data())) throw std::runtime_error("mkdtemp failed");
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace tidepool::daemon::testing
