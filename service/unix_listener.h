// A listening unix socket that belongs to one process at a time.
#pragma once

#include <sys/types.h>

#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace tidepool {

// Listens on `path`, mode 0660, owned by `group` where it exists (root's otherwise). A socket that a dead process left
// is replaced; a living one is an address_in_use error, and so is a path that is something else than a socket.
// `path`.lock is locked as long as this object lives and stays behind: removing a lock file races with the next owner.
class UnixListener {
 public:
  // `who` serves there, for the error's text.
  static Result<UnixListener> bind(const std::string& path, const std::string& group, const std::string& who = "agent");
  UnixListener(UnixListener&&) noexcept = default;
  UnixListener& operator=(UnixListener&&) = delete;
  // Removes the socket, unless somebody else's stands there by now.
  ~UnixListener();

  // Non-blocking. Stays owned here.
  int fd() const { return fd_.get(); }
  const std::string& path() const { return path_; }

 private:
  UnixListener() = default;

  std::string path_;
  UniqueFd lock_;
  UniqueFd fd_;
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

}  // namespace tidepool
