// Idle page tracking: /sys/kernel/mm/page_idle/bitmap, one bit per page frame (CONFIG_IDLE_PAGE_TRACKING; needs
// CAP_SYS_ADMIN). A frame that is marked idle stays so until it is used through a page table or a system call.
// Documentation/admin-guide/mm/idle_page_tracking.rst.
//
// Only frames on the LRU lists can be marked, and of a compound page only the first: marks on others are ignored, so a
// clear bit later means "used, or not trackable", never proof of use. Marking clears accessed bits without flushing the
// processors' TLBs: an access through a translation that is cached there leaves no trace until it is evicted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.h"
#include "base/unique_fd.h"
#include "kmod-interfaces/kernel_roots.h"

namespace tidepool::kernel {

// One word of the bitmap: 64 frames. The kernel answers EINVAL to anything smaller; addressing whole words makes that
// mistake impossible.
struct IdleWord {
  std::uint64_t index = 0;

  static IdleWord of(std::uint64_t frame) { return {frame / 64}; }
  static std::uint64_t bit(std::uint64_t frame) { return 1ull << (frame % 64); }
};

class PageIdleBitmap {
 public:
  // ENOENT: not in this kernel.
  static Result<PageIdleBitmap> open(const KernelRoots& roots);

  // Marks the frames whose bits are set, in consecutive words; the others are left as they are. Returns how many words
  // there were. Where memory ends within a word the kernel counts that word neither here nor in read()
  // (mm/page_idle.c): its frames cannot be watched.
  Result<std::size_t> mark(IdleWord first, std::span<const std::uint64_t> words) const;
  // Set bits are frames that are still idle. Returns how many words there were: fewer at the end of memory.
  Result<std::size_t> read(IdleWord first, std::span<std::uint64_t> out) const;

  // The same for single frames, in ascending order: as few calls as their words allow. `idle[i]` becomes 1 when
  // frames[i] is still idle, 0 when not, kBeyondMemory when the bitmap does not reach it.
  static constexpr std::uint8_t kBeyondMemory = 2;
  Result<> mark_frames(std::span<const std::uint64_t> frames) const;
  Result<> read_frames(std::span<const std::uint64_t> frames, std::span<std::uint8_t> idle) const;

 private:
  UniqueFd fd_;
};

}  // namespace tidepool::kernel
