// /proc/meminfo: the host's own account of its memory. Documentation/filesystems/proc.rst.
#pragma once

#include <string_view>

#include "base/result.h"
#include "base/units.h"
#include "kmod-interfaces/kernel_roots.h"

namespace tidepool::kernel {

struct MemInfo {
  Bytes total;
  Bytes free;
  // What new programs could get without swapping: the figure that decides whether there is pressure.
  Bytes available;
  Bytes buffers;
  Bytes cached;  // includes shmem
  Bytes shmem;   // tmpfs, memfd, shared anonymous
  Bytes anonymous;
  Bytes anonymous_huge;
  Bytes shmem_huge;
  Bytes locked;  // Mlocked
  Bytes swap_total;
  Bytes swap_free;
  Bytes swap_cached;
  Bytes zswap;     // what zswap occupies
  Bytes zswapped;  // what it holds, uncompressed
  Bytes slab;
  Bytes page_tables;
  std::uint64_t huge_pages_total = 0;  // of the default size
  std::uint64_t huge_pages_free = 0;
  Bytes huge_page_size;
};

// What a kernel does not report is zero. Fails when there is no MemTotal.
Result<MemInfo> read_meminfo(const KernelRoots& roots);
MemInfo parse_meminfo(std::string_view text);

}  // namespace tidepool::kernel
