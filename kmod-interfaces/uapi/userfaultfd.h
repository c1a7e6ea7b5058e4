// userfaultfd definitions that are newer than the packaged kernel headers (Debian 12: 6.1). Kernel version of each in
// its comment.
#pragma once

#include <linux/userfaultfd.h>

#ifndef USERFAULTFD_IOC_NEW  // 6.1
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0)
#endif
#ifndef UFFD_FEATURE_WP_UNPOPULATED  // 6.4
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif
#ifndef UFFD_FEATURE_POISON  // 6.6
#define UFFD_FEATURE_POISON (1 << 14)
#endif
#ifndef UFFDIO_POISON  // 6.6
struct uffdio_poison {
  struct uffdio_range range;
  __u64 mode;
  __s64 updated;
};
#define UFFDIO_POISON _IOWR(UFFDIO, 0x08, struct uffdio_poison)
#endif
#ifndef UFFD_FEATURE_WP_ASYNC  // 6.7
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif
#ifndef UFFD_FEATURE_MOVE  // 6.8
#define UFFD_FEATURE_MOVE (1 << 16)
#endif
// Read-write protection: accesses of every kind to present pages are noticed; asynchronously, the kernel resolves them
// itself and PAGEMAP_SCAN tells of them. Announced for 7.2.
#ifndef UFFD_FEATURE_RWP
#define UFFD_FEATURE_RWP (1 << 17)
#endif
#ifndef UFFD_FEATURE_RWP_ASYNC
#define UFFD_FEATURE_RWP_ASYNC (1 << 18)
#endif
#ifndef UFFDIO_CONTINUE_MODE_WP  // 6.4
#define UFFDIO_CONTINUE_MODE_WP (static_cast<__u64>(1) << 1)
#endif
