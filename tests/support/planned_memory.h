// Memory that a child process will have at an address that its parent knows beforehand: reserved by the parent, made by
// the child after the fork. What the parent has there is nothing (PROT_NONE), so it is no second holder of it.
#pragma once

#include <sys/mman.h>

#include <cstring>
#include <stdexcept>

#include "base/units.h"

namespace tidepool::tests {

class PlannedMemory {
 public:
  explicit PlannedMemory(std::size_t size) : size_(size) {
    address_ = ::mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (address_ == MAP_FAILED) throw std::runtime_error("no address space");
  }
  ~PlannedMemory() { ::munmap(address_, size_); }
  PlannedMemory(const PlannedMemory&) = delete;
  PlannedMemory& operator=(const PlannedMemory&) = delete;

  AddressRange range() const {
    const auto start = reinterpret_cast<std::uint64_t>(address_);
    return {start, start + size_};
  }

  // In the child. Filled with `fill`; null when it cannot be had.
  char* make(int flags = MAP_PRIVATE | MAP_ANONYMOUS, int fd = -1, char fill = 'x') const {
    void* memory = ::mmap(address_, size_, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0);
    if (memory == MAP_FAILED) return nullptr;
    std::memset(memory, fill, size_);
    return static_cast<char*>(memory);
  }
  void unmake() const { ::munmap(address_, size_); }

 private:
  void* address_ = nullptr;
  std::size_t size_;
};

}  // namespace tidepool::tests
