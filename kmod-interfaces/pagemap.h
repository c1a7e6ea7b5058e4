// /proc/PID/pagemap: which pages of a process are there, found by PAGEMAP_SCAN (Linux 6.7).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <span>

#include "base/result.h"
#include "base/unique_fd.h"
#include "base/units.h"
#include "kmod-interfaces/uapi/pagemap.h"

namespace tidepool::kernel {

// Documentation/admin-guide/mm/pagemap.rst.
inline constexpr std::uint64_t kPagemapPresent = 1ull << 63;
inline constexpr std::uint64_t kPagemapSwapped = 1ull << 62;
inline constexpr std::uint64_t kPagemapWriteProtected = 1ull << 57;  // by a userfaultfd; 5.13

class Pagemap {
 public:
  // The descriptor refers to the address space the process has now: after exec or exit, scans fail or find nothing.
  static Result<Pagemap> open(pid_t pid);

  // Fills `out` with ranges of pages that have any of the categories (uapi::kPageIs...), each with which of them it
  // has, in order of address, starting at range.start. Returns how many ranges; `scanned_to` is where a next call
  // should go on (range.end when finished).
  Result<std::size_t> scan(AddressRange range, std::uint64_t any_of, std::span<uapi::page_region> out,
                           std::uint64_t& scanned_to) const;

  // The page's own word: kPagemapPresent, ... 0 when nothing is there.
  Result<std::uint64_t> word(std::uint64_t address) const;

  int fd() const { return fd_.get(); }
  bool valid() const { return fd_.valid(); }

 private:
  UniqueFd fd_;
};

}  // namespace tidepool::kernel
