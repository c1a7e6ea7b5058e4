// One thread that owns a set of VMs: it reads every event of their userfaultfds and makes every change that belongs to
// the owner (see page_entry.h). No other thread installs pages, frees the far copies of living pages, or changes
// address spaces: so a fork is cloned in one piece, and no lock is needed on the fault path.
//
// The loop never waits for storage, for a demotion, or for another VM: reads complete through its mailbox, faults on
// pages that are being dropped are parked, and what the kernel postpones (EAGAIN while an address space changes) is
// tried again after the next events.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "daemon/pager/paged_vm.h"

namespace tidepool {
class ByteBudget;
}

namespace tidepool::daemon {

struct FaultLoopConfig {
  // Share of one CPU that may be spent polling for the next fault before sleeping; wake-ups cost more than most
  // fault-ins.
  double spin_share = 0.10;
  // How long one spell of polling lasts at most.
  std::chrono::microseconds spin_window{100};
  unsigned prefetch_max_pages = 256;
  // Of what is brought home of our own accord, by all loops that share it; null: no bound.
  std::shared_ptr<ByteBudget> own_accord{};
};

// What the loop asks of others. Called on the loop's thread; must not block.
struct FaultLoopHooks {
  // A forked child: store its userfaultfd and page maps with whoever outlives us, then call `held`, from any thread;
  // the child is served from then on.
  std::function<void(PagedVm&, AddressSpace& child, std::function<void()> held)> hold_child;
  // An address space is gone: whatever is held of it is needed no more.
  std::function<void(PagedVm&, AddressSpace&)> space_gone;
  // The VM's own memory limit refuses a page: demote something of it.
  std::function<void(PagedVm&)> out_of_memory;
  // A far page failed its checksum; its thread stays stopped. The VM must not go on.
  std::function<void(PagedVm&, MemoryObject&, PageIndex)> integrity_failure;
  // No memory for the page map of a forked child: it gets SIGBUS where it touches what it does not have.
  std::function<void(PagedVm&)> child_lost;
  // The last address space of the VM is gone.
  std::function<void(PagedVm&)> vm_gone;
};

// kOwnAccord: because we think it better. It keeps to a bound, and stands still while the host is frozen.
enum class RestoreKind : std::uint8_t { kAsked, kOwnAccord };

class FaultLoop {
 public:
  virtual ~FaultLoop() = default;

  // All of these may be called from any thread.
  virtual void add(std::shared_ptr<PagedVm> vm) = 0;
  // A further process that shows the VM's memory, complete with its segments.
  virtual void add_space(std::shared_ptr<PagedVm> vm, std::shared_ptr<AddressSpace> space) = 0;
  // New memory of a space that is served already, as far as it is not known there. `registered` makes it raise faults,
  // on the loop's thread, so that no event comes in between; when it fails the segments go again.
  virtual void add_segments(std::shared_ptr<PagedVm> vm, std::shared_ptr<AddressSpace> space,
                            std::vector<Segment> segments,
                            std::function<Result<>(std::span<const Segment>)> registered) = 0;
  // Memory that turned out not to be there.
  virtual void forget_memory(std::shared_ptr<PagedVm> vm, std::shared_ptr<AddressSpace> space, AddressRange gone) = 0;
  // Stops serving, and frees whatever copies are left in the store. `done` runs on the loop's thread when no event of
  // the VM will be read any more.
  virtual void remove(std::shared_ptr<PagedVm> vm, std::function<void()> done) = 0;
  // A drop ended: faults parked on the pages are answered.
  virtual void drops_finished(std::shared_ptr<PagedVm> vm) = 0;
  // Brings the far pages of stretches of an object home, demand faults first. `done(left)` runs on the loop's thread
  // with the number of pages that could not be brought (0: all are home).
  virtual void restore(std::shared_ptr<PagedVm> vm, MemoryObject* object, std::vector<PageRun> runs, RestoreKind kind,
                       std::function<void(std::uint64_t left)> done) = 0;
  // While halted no page is brought home that nobody touched or asked for, but for an operation that has begun.
  virtual void halt(bool halted) = 0;
  // Runs on the loop's thread.
  virtual void post(std::function<void()> task) = 0;

  // Memory kept ready for far pages on their way home; allocated once.
  virtual Bytes buffers() const = 0;
  // Some descriptors of removed VMs are still open here, so that whoever changes such memory meanwhile is not left
  // waiting. What could not be unregistered stays so until then: a second at most.
  virtual bool drains() const = 0;
  // Grows with every pass: a watchdog that sees it stand still for long knows that the loop hangs.
  virtual std::uint64_t passes() const = 0;
  virtual void stop() = 0;  // joins
};

Result<std::unique_ptr<FaultLoop>> start_fault_loop(const std::string& name, const FaultLoopConfig& config,
                                                    FaultLoopHooks hooks, const Clock& clock);

}  // namespace tidepool::daemon
