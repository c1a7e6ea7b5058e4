#include "base/mapping.h"

#include <sys/mman.h>

namespace tidepool {
namespace {

Result<Mapping> map(int fd, Bytes length, Bytes offset, int protection, int flags) {
  void* address = ::mmap(nullptr, length.value, protection, flags, fd, static_cast<off_t>(offset.value));
  if (address == MAP_FAILED) return errno_failure("map", std::to_string(length.value) + " bytes");
  return Mapping{address, length.value};
}

}  // namespace

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  if (this != &other) {
    reset();
    address_ = std::exchange(other.address_, nullptr);
    length_ = std::exchange(other.length_, 0);
  }
  return *this;
}

void Mapping::reset() {
  if (address_ != nullptr) ::munmap(std::exchange(address_, nullptr), std::exchange(length_, 0));
}

Result<Mapping> Mapping::of_file(int fd, Bytes length, Bytes offset, int protection, int flags) {
  return map(fd, length, offset, protection, flags);
}

Result<Mapping> Mapping::anonymous(Bytes length) {
  return map(-1, length, Bytes{}, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
}

Result<Mapping> Mapping::reserve(Bytes length) {
  return map(-1, length, Bytes{}, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
}

}  // namespace tidepool
