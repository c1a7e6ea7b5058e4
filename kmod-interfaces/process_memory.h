// Reading another process's memory and advising the kernel about it, from outside.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/units.h"

namespace tidepool::kernel {

// Copies [address, address + length) of the process into `buffer`; bytes copied, or -errno. A page that is registered
// with a userfaultfd and not present blocks the caller until somebody answers the fault: check presence first, and be
// ready to answer your own fault.
std::int64_t read_process_memory(pid_t pid, std::uint64_t address, std::byte* buffer, std::uint64_t length);

// Has the process's pages at these addresses brought in, as if it had read a byte of each: pages that are in swap come
// home and leave it. How many could be read, or -errno; blocks as read_process_memory does.
std::int64_t touch_process_memory(pid_t pid, std::span<const std::uint64_t> addresses);

// process_madvise(2): MADV_COLD, MADV_PAGEOUT, ... on ranges of the process behind `pidfd`. Bytes advised, or -errno.
// With no swap configured MADV_PAGEOUT cannot write shared memory anywhere, but it does unmap the pages: the next
// access faults.
std::int64_t advise_process_memory(int pidfd, std::span<const AddressRange> ranges, int advice);

}  // namespace tidepool::kernel
