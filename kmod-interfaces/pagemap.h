// /proc/PID/pagemap: which pages of a process are there, found by PAGEMAP_SCAN (Linux 6.7), and in which page frames.
// Documentation/admin-guide/mm/pagemap.rst.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <span>

#include "base/result.h"
#include "base/unique_fd.h"
#include "base/units.h"
#include "kmod-interfaces/process.h"
#include "kmod-interfaces/uapi/pagemap.h"

namespace tidepool::kernel {

// What pagemap says of one page of an address space.
struct PagemapEntry {
  std::uint64_t raw = 0;

  bool present() const { return (raw >> 63) != 0; }
  bool soft_dirty() const { return ((raw >> 55) & 1) != 0; }
  // 0 when the page is not present, or without CAP_SYS_ADMIN.
  std::uint64_t frame() const { return present() ? raw & ((1ull << 55) - 1) : 0; }
};

class Pagemap {
 public:
  // Of the process that is meant, or ESRCH: a recycled pid is noticed.
  static Result<Pagemap> open(const KernelRoots& roots, const ProcessId& process);
  // The descriptor refers to the address space the process has now: after exec or exit, scans fail or find nothing.
  static Result<Pagemap> open(pid_t pid);

  // Fills `out` with ranges of pages that have any of the categories (uapi::kPageIs...), each with which of them it
  // has, in order of address, starting at range.start. Returns how many ranges; `scanned_to` is where a next call
  // should go on (range.end when finished).
  Result<std::size_t> scan(AddressRange range, std::uint64_t any_of, std::span<uapi::page_region> out,
                           std::uint64_t& scanned_to) const;

  // The entries of consecutive pages from `address` (a multiple of the page size). Returns how many there were: fewer
  // than asked for at the end of the address space, none when the process is gone.
  Result<std::size_t> entries(std::uint64_t address, std::span<PagemapEntry> out) const;

  int fd() const { return fd_.get(); }
  bool valid() const { return fd_.valid(); }

 private:
  UniqueFd fd_;
};

}  // namespace tidepool::kernel
