// One thread that moves cold pages out: freeze, wait, copy, store, verify, drop. Off the fault path: it takes nothing
// that a fault waits for.
//
// A demotion handles up to one region (2 MiB) at a time, many regions at once. Order (each step only for pages that are
// still undisturbed):
//   freeze   resident -> demoting, write-protected in every address space that shows the page
//   grace    devices that were given the page before the protection finish (O_DIRECT)
//   copy     into the store's memory; same-filled pages become values
//   verify   read again, compare: a page that changed in spite of the protection stays
//   commit   demoting -> dropping, the location recorded
//   drop     hole punched, or MADV_DONTNEED by the target's ring
//   far      once the drop is confirmed
// A write at any time before commit cancels its page. A drop that does not complete (a stopped target) is left alone
// and picked up when it does; other VMs are not affected.
#pragma once

#include <bitset>
#include <chrono>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/clock.h"
#include "base/result.h"
#include "daemon/pager/fault_loop.h"
#include "daemon/pager/paged_vm.h"

namespace tidepool::daemon {

struct DemoterConfig {
  std::chrono::nanoseconds grace = std::chrono::seconds(1);
  // Regions in flight at once, all VMs together, and per VM; and their pages, which bounds the memory that is
  // write-protected at any time. No more regions are begun when so many pages are in flight.
  unsigned max_jobs = 1024;
  unsigned max_jobs_per_vm = 512;
  std::size_t max_pages = 128ul * 512;
  std::size_t max_pages_per_vm = 64ul * 512;
  // After this long a drop counts as overdue: the VM gets no further demotions until it completes.
  std::chrono::nanoseconds drop_deadline = std::chrono::seconds(5);
};

struct RegionToDemote {
  MemoryObject* object = nullptr;
  std::uint64_t region = 0;
  // Bit i: its pages [16 i, 16 i + 16). A part of private memory is left alone where it lies in a 2 MiB page.
  std::uint32_t units = ~std::uint32_t{0};
  // Leaves pages alone that came home lately (policy/page_age.h).
  bool spares = true;
  // Of the region, only these pages; null: all of them.
  std::shared_ptr<const std::bitset<kPagesPerRegion>> only{};
};

class Demoter {
 public:
  virtual ~Demoter() = default;

  // Queues the region's resident pages; false when the queue is full, the VM is being released or the host is frozen.
  // Any thread.
  virtual bool demote(const std::shared_ptr<PagedVm>& vm, RegionToDemote region) = 0;
  // Stops all new demotions (true), or lets them go on. What is committed is finished.
  virtual void freeze_host(bool frozen) = 0;
  // Cancels what is queued for the VM; `done` runs on the demotion thread once nothing of it is in flight.
  virtual void drain(std::shared_ptr<PagedVm> vm, std::function<void()> done) = 0;
  // Forgets drops that can never complete: the process is gone.
  virtual void abandon(std::shared_ptr<PagedVm> vm) = 0;
  virtual std::size_t queued() const = 0;
  // Memory kept ready for pages on their way out; allocated once.
  virtual Bytes buffers() const = 0;
  virtual void stop() = 0;  // joins
};

// `loop_of` names the fault loop that owns a VM.
Result<std::unique_ptr<Demoter>> start_demoter(const DemoterConfig& config, std::function<FaultLoop&(PagedVm&)> loop_of,
                                               const Clock& clock);

}  // namespace tidepool::daemon
