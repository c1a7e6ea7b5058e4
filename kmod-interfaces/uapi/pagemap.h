// PAGEMAP_SCAN (Linux 6.7, Documentation/admin-guide/mm/pagemap.rst): absent from Debian 12's headers.
#pragma once

#include <linux/ioctl.h>
#include <linux/types.h>

namespace tidepool::kernel::uapi {

struct page_region {
  __u64 start;
  __u64 end;
  __u64 categories;
};

struct pm_scan_arg {
  __u64 size;
  __u64 flags;
  __u64 start;
  __u64 end;
  __u64 walk_end;
  __u64 vec;
  __u64 vec_len;
  __u64 max_pages;
  __u64 category_inverted;
  __u64 category_mask;
  __u64 category_anyof_mask;
  __u64 return_mask;
};

inline constexpr __u64 kPageIsWpAllowed = 1 << 0;
inline constexpr __u64 kPageIsWritten = 1 << 1;
inline constexpr __u64 kPageIsFile = 1 << 2;
inline constexpr __u64 kPageIsPresent = 1 << 3;
inline constexpr __u64 kPageIsSwapped = 1 << 4;
inline constexpr __u64 kPageIsPfnZero = 1 << 5;
inline constexpr __u64 kPageIsHuge = 1 << 6;
inline constexpr __u64 kPageIsSoftDirty = 1 << 7;

inline constexpr __u64 kScanWpMatching = 1 << 0;
inline constexpr __u64 kScanCheckWpAsync = 1 << 1;

inline constexpr unsigned long kPagemapScan = _IOWR('f', 16, pm_scan_arg);

}  // namespace tidepool::kernel::uapi
