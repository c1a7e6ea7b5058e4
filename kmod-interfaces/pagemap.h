// /proc/PID/pagemap: which pages of a process are there, found by PAGEMAP_SCAN (Linux 6.7), and in which page frames.
// Documentation/admin-guide/mm/pagemap.rst.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <span>

#include "base/result.h"
#include "base/unique_fd.h"
#include "base/units.h"
#include "kmod-interfaces/process.h"
#include "kmod-interfaces/uapi/pagemap.h"

namespace tidepool::kernel {

// What pagemap says of one page of an address space (Documentation/admin-guide/mm/pagemap.rst).
struct PagemapEntry {
  std::uint64_t raw = 0;

  bool nothing() const { return raw == 0; }
  bool present() const { return (raw >> 63) != 0; }
  bool swapped() const { return !present() && ((raw >> 62) & 1) != 0; }
  bool write_protected() const { return ((raw >> 57) & 1) != 0; }  // by a userfaultfd; Linux 5.13
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

  // Fills `out` with ranges of pages that have any of the categories (uapi::kPageIs...), each with which of them it has
  // (and whether it is kPageIsHuge or kPageIsPfnZero), in order of address, starting at range.start. Returns how many
  // ranges; `scanned_to` is where a next call should go on (range.end when finished).
  Result<std::size_t> scan(AddressRange range, std::uint64_t any_of, std::span<uapi::page_region> out,
                           std::uint64_t& scanned_to) const;

  // Calls visit(uapi::page_region) for all such ranges of `range`, in order of address. Stops at the first failure:
  // what was not visited is not known.
  template <class Visit>
  Result<> for_each(AddressRange range, std::uint64_t any_of, Visit&& visit) const;

  // The same for pages that were written since they were last taken, which are protected anew in the same step. Only of
  // memory registered with a userfaultfd that tracks writes (UFFD_FEATURE_WP_ASYNC, Linux 6.7); EPERM of other memory.
  // Pages of which nothing is known yet count as written.
  Result<std::size_t> take_written(AddressRange range, std::span<uapi::page_region> out,
                                   std::uint64_t& scanned_to) const;

  // The entries of consecutive pages from `address` (a multiple of the page size). Returns how many there were: fewer
  // than asked for at the end of the address space, none when the process is gone.
  Result<std::size_t> entries(std::uint64_t address, std::span<PagemapEntry> out) const;
  // Of one page; nothing() beyond the end.
  Result<PagemapEntry> entry(std::uint64_t address) const;

  int fd() const { return fd_.get(); }
  bool valid() const { return fd_.valid(); }

 private:
  UniqueFd fd_;
};

template <class Visit>
Result<> Pagemap::for_each(AddressRange range, std::uint64_t any_of, Visit&& visit) const {
  std::array<uapi::page_region, 128> found;
  while (!range.empty()) {
    std::uint64_t scanned_to = range.end;
    const auto count = scan(range, any_of, found, scanned_to);
    if (!count) return Failure{count.error()};
    for (const uapi::page_region& region : std::span(found).first(*count)) visit(region);
    if (scanned_to <= range.start) break;
    range.start = scanned_to;
  }
  return {};
}

}  // namespace tidepool::kernel
