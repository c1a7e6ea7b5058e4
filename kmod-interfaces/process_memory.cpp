#include "kmod-interfaces/process_memory.h"

#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace tidepool::kernel {
namespace {

// An address of another process, which is no pointer of ours until the kernel takes it.
void* remote(std::uint64_t address) {
  return reinterpret_cast<void*>(static_cast<std::uintptr_t>(address));  // NOLINT(performance-no-int-to-ptr)
}

}  // namespace

std::int64_t read_process_memory(pid_t pid, std::uint64_t address, std::byte* buffer, std::uint64_t length) {
  const iovec local{buffer, length};
  const iovec from{remote(address), length};
  const ssize_t got = ::process_vm_readv(pid, &local, 1, &from, 1, 0);
  return got < 0 ? -errno : got;
}

std::int64_t touch_process_memory(pid_t pid, std::span<const std::uint64_t> addresses) {
  std::array<iovec, 512> from;
  std::array<std::byte, from.size()> bytes;
  std::int64_t touched = 0;
  while (!addresses.empty()) {
    const std::size_t count = std::min(addresses.size(), from.size());
    for (std::size_t i = 0; i < count; ++i) from[i] = {remote(addresses[i]), 1};
    const iovec local{bytes.data(), count};
    const ssize_t got = ::process_vm_readv(pid, &local, 1, from.data(), count, 0);
    if (got < 0 && errno != EFAULT) return touched > 0 ? touched : -errno;
    touched += std::max<ssize_t>(got, 0);
    // It stops at an address that is no more: go on behind that one.
    addresses = addresses.subspan(std::min(count, static_cast<std::size_t>(std::max<ssize_t>(got, 0)) + 1));
  }
  return touched;
}

std::int64_t advise_process_memory(int pidfd, std::span<const AddressRange> ranges, int advice) {
  std::int64_t total = 0;
  std::array<iovec, 256> vectors;
  while (!ranges.empty()) {
    const std::size_t count = std::min(ranges.size(), vectors.size());
    for (std::size_t i = 0; i < count; ++i) vectors[i] = {remote(ranges[i].start), ranges[i].size()};
    const long advised = ::syscall(SYS_process_madvise, pidfd, vectors.data(), count, advice, 0);
    if (advised < 0) return total > 0 ? total : -errno;
    total += advised;
    ranges = ranges.subspan(count);
  }
  return total;
}

}  // namespace tidepool::kernel
