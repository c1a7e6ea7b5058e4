// /proc/kpageflags: what a page frame is used for. Needs CAP_SYS_ADMIN. Documentation/admin-guide/mm/pagemap.rst.
#pragma once

#include <cstdint>
#include <span>

#include "base/result.h"
#include "base/unique_fd.h"
#include "kmod-interfaces/kernel_roots.h"

namespace tidepool::kernel {

// include/uapi/linux/kernel-page-flags.h
struct PageFlags {
  std::uint64_t raw = 0;

  bool has(unsigned bit) const { return ((raw >> bit) & 1) != 0; }
  bool on_lru() const { return has(5); }
  // The first, or a further, frame of several that are handled as one: a 2 MiB page, or a smaller folio.
  bool compound_head() const { return has(15); }
  bool compound_tail() const { return has(16); }
  bool absent() const { return has(20); }  // no memory there
  bool merged() const { return has(21); }  // by KSM: several processes' pages in one
  bool huge() const { return has(22); }    // part of a transparent huge page
  bool zero_page() const { return has(24); }
};

class PageFlagsTable {
 public:
  static Result<PageFlagsTable> open(const KernelRoots& roots);
  // Flags of consecutive frames; how many there were: fewer at the end of memory.
  Result<std::size_t> read(std::uint64_t first_frame, std::span<PageFlags> out) const;

 private:
  UniqueFd fd_;
};

}  // namespace tidepool::kernel
