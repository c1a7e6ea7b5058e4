// Bytes to and from a unix socket, well-formed or not.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/unique_fd.h"

namespace tidepool::daemon::testing {

class RawClient {
 public:
  // Invalid when refused.
  explicit RawClient(const std::string& path);
  bool connected() const { return fd_.valid(); }
  // False when the other side no longer listens.
  bool send(std::string_view bytes);
  // Everything until the other side closes, or `seconds` passed (then absent).
  std::optional<std::string> read_all(int seconds = 60);
  // One response with a Content-Length. Absent when the connection ended before.
  std::optional<std::string> read_response(int seconds = 60);
  int fd() const { return fd_.get(); }

 private:
  UniqueFd fd_;
  std::string buffer_;
};

// One request on a connection of its own, and the whole answer.
std::string roundtrip(const std::string& path, std::string_view method, std::string_view target,
                      std::string_view body = "", std::string_view header = "");
int status_of(std::string_view response);
std::string body_of(std::string_view response);

// A folder of its own, removed with all that is in it.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace tidepool::daemon::testing
