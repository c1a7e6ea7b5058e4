// The memory that trackers look at: objects, and the address spaces through which they are seen, as of one epoch.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/ids.h"
#include "base/unique_fd.h"
#include "base/units.h"
#include "kmod-interfaces/process.h"
#include "policy/access_sample.h"

namespace tidepool::telemetry {

// What the pager knows of, and can do to, an object that it manages, by region of 2 MiB. Called on the trackers' thread
// only; must stay callable after its VM is gone (and then says that there is nothing).
class PagedObject {
 public:
  struct Region {
    std::uint16_t resident = 0;  // pages
    std::uint16_t far = 0;
    std::uint16_t armed = 0;  // pages whose next access will be noticed
  };

  virtual ~PagedObject() = default;
  virtual std::uint64_t regions() const = 0;
  virtual Region look(std::uint64_t region) const = 0;
  // Since they were last taken: accesses to armed pages, which are armed no more; and far pages that came back because
  // they were touched. Both saturate.
  virtual std::uint16_t take_touches(std::uint64_t region) = 0;
  virtual std::uint16_t take_refaults(std::uint64_t region) = 0;
  // Which accesses are noticed by pages that are armed now.
  virtual policy::Sees sees() const = 0;
  // Has the next such access to resident pages noticed. Returns how many could be armed.
  virtual std::size_t arm(std::span<const PageIndex> pages) = 0;
  // What was armed in the region does not count as watched any more.
  virtual void disarm(std::uint64_t region) = 0;
};

struct TrackedObject {
  policy::ObjectId id;
  PageCount pages;
  bool shared = false;      // a file's memory, which others may map; else one process's private memory
  bool may_be_huge = true;  // may contain 2 MiB pages, which have one accessed bit for 512 pages
  // Nothing where the pager does not manage it.
  std::shared_ptr<PagedObject> paged;
};

// A stretch of an address space that shows a stretch of an object. Multiples of the page size.
struct TrackedSegment {
  AddressRange addresses;
  std::uint32_t object = 0;  // position in TrackedMemory::objects
  PageIndex first;

  std::uint64_t address_of(PageIndex page) const {
    return addresses.start + ((page.value - first.value) << kPageShift);
  }
  PageIndex page_at(std::uint64_t address) const {
    return PageIndex{first.value + ((address - addresses.start) >> kPageShift)};
  }
  PageRun pages() const { return {first, addresses.size() >> kPageShift}; }
};

class DividedMappings;

struct TrackedSpace {
  kernel::ProcessId process;
  std::shared_ptr<const UniqueFd> pidfd;  // may be empty; names the process where the pid could be recycled
  std::vector<TrackedSegment> segments;   // by address, without overlaps
  // Where two userfaultfds were placed in the process for trackers alone; else empty.
  std::shared_ptr<const DividedMappings> divided;

  // The segment around an address; nothing where none is.
  const TrackedSegment* at(std::uint64_t address) const;
  // What the segments cover, adjacent ones joined.
  std::vector<AddressRange> ranges() const;
};

// All of one VM. Never changes: when the VM's memory does, there is another one with a higher epoch, and what was
// learnt of addresses in an older epoch is void (page indexes stay what they are).
struct TrackedMemory {
  VmId vm;
  std::uint64_t epoch = 0;
  // Guest memory behind a hypervisor's second page tables: its accesses leave traces there, which not every method
  // sees.
  bool guest = false;
  std::vector<TrackedObject> objects;
  std::vector<TrackedSpace> spaces;  // the process that was adopted first comes first

  // Of all objects, each page once.
  Bytes size() const;
  bool managed() const;  // by the pager, in part at least
};

using MemoryList = std::vector<std::shared_ptr<const TrackedMemory>>;

Bytes size_of(const MemoryList& memory);

}  // namespace tidepool::telemetry
