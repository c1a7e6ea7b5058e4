// The kernel's own far memory: what is paged out to compressed swap (zram devices, or zswap before a swap device), and
// what of this host's DRAM that takes. Documentation/admin-guide/blockdev/zram.rst, Documentation/admin-guide/mm/
// zswap.rst.
//
// A disk without zswap before it is swap as well, as slow as the disk: it is told apart, so that nobody takes it for
// this.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/units.h"
#include "kmod-interfaces/kernel_roots.h"

namespace tidepool::kernel {

enum class SwapKind : std::uint8_t { kNone, kZram, kZswap, kDisk };
std::string_view name_of(SwapKind kind);

// What the kernel fills next: the swap areas of one kind that come before all others, by priority.
struct KernelTier {
  SwapKind kind = SwapKind::kNone;
  std::vector<std::string> devices;
  Bytes size;  // pages that the areas can hold
  Bytes free;  // of it; zram's own memory limit (mem_limit) is in it
  // In all areas of this host together, of everybody:
  Bytes stored;  // pages
  Bytes dram;    // what of this host's DRAM they take, compressed

  // Bytes of DRAM for a byte stored. While too little is stored to tell: 1, and 0 for a disk.
  double ratio() const;
};

// One line of /sys/block/zramN/mm_stat.
struct ZramUse {
  Bytes stored;  // orig_data_size
  Bytes dram;    // mem_used_total: compressed, with the allocator's waste
  Bytes limit;   // mem_limit; 0: none
};
// nullopt for anything but such a line.
std::optional<ZramUse> parse_zram_use(std::string_view text);

// The N of "/dev/zramN"; nullopt for any other name.
std::optional<std::uint64_t> zram_number(std::string_view device);

// Where the kernel would put pages now. What cannot be read counts as not there.
KernelTier read_kernel_tier(const KernelRoots& roots);

}  // namespace tidepool::kernel
