// A mapped range of this process's own address space, unmapped when its owner goes.
#pragma once

#include <cstddef>
#include <span>
#include <utility>

#include "base/result.h"
#include "base/units.h"

namespace tidepool {

class Mapping {
 public:
  Mapping() = default;
  Mapping(void* address, std::size_t length) : address_(address), length_(length) {}
  Mapping(Mapping&& other) noexcept
      : address_(std::exchange(other.address_, nullptr)), length_(std::exchange(other.length_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept;
  ~Mapping() { reset(); }

  // Shared mapping of `length` bytes of `fd` at `offset`; protection and flags as for mmap(2).
  static Result<Mapping> of_file(int fd, Bytes length, Bytes offset, int protection, int flags);
  // Private anonymous memory, zeroed, not counted against overcommit until touched.
  static Result<Mapping> anonymous(Bytes length);
  // Address space only (PROT_NONE): room for mappings that grow in place.
  static Result<Mapping> reserve(Bytes length);

  std::byte* data() const { return static_cast<std::byte*>(address_); }
  std::size_t size() const { return length_; }
  std::span<std::byte> bytes() const { return {data(), length_}; }
  bool valid() const { return address_ != nullptr; }
  void reset();

 private:
  void* address_ = nullptr;
  std::size_t length_ = 0;
};

}  // namespace tidepool
