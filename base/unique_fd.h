// A file descriptor with one owner.
#pragma once

#include <utility>

namespace tidepool {

class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept;
  ~UniqueFd() { reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  [[nodiscard]] int release() { return std::exchange(fd_, -1); }
  void reset();
  // A second descriptor of the same open file, close-on-exec; invalid (and errno set) when the kernel has none left.
  UniqueFd duplicate() const;

 private:
  int fd_ = -1;
};

}  // namespace tidepool
