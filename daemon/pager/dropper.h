// Takes pages out of their owner's memory once they are stored elsewhere. One interface for shared memory (holes
// punched into the backing file) and private memory (a ring placed in the target runs MADV_DONTNEED there), so the
// pager does not know which.
#pragma once

#include <cstdint>
#include <span>

#include "base/units.h"

namespace tidepool::daemon {

struct Drop {
  std::uint64_t cookie = 0;       // the caller's, returned with the completion
  AddressRange addresses;         // in the target; used for private memory
  std::uint64_t file_offset = 0;  // in the backing file; used for shared memory
};

struct DropCompletion {
  std::uint64_t cookie = 0;
  int error = 0;  // errno; 0: the kernel says that the pages are gone (private memory: confirm by pagemap)
};

// Used by one thread.
class Dropper {
 public:
  virtual ~Dropper() = default;
  // Never blocks. False when too much is in flight: reap and try again.
  virtual bool submit(const Drop& drop) = 0;
  virtual std::size_t reap(std::span<DropCompletion> out) = 0;
  virtual std::size_t in_flight() const = 0;
  virtual std::size_t capacity() const = 0;  // how many may be in flight
  // True when the target's own userfaultfd announces these drops as EVENT_REMOVE, which must then be told from the
  // guest's.
  virtual bool announced_as_remove() const = 0;
  // True when the pages of a completed drop must be looked for before they are believed gone.
  virtual bool needs_confirmation() const = 0;
  // It takes no more drops, and those in flight may never be answered: the process has meddled with it, or is gone.
  virtual bool broken() const { return false; }
};

}  // namespace tidepool::daemon
