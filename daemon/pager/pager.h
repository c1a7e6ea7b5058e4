// The userfaultfd data path: VMs enrol with the descriptors that were taken hold of, and from then on their pages can
// live elsewhere.
//
// Thread-safe unless said otherwise; no call blocks for long except enrol and release, which walk the VM's memory once.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "daemon/pager/demoter.h"
#include "daemon/pager/fault_loop.h"
#include "daemon/pager/paged_vm.h"

namespace tidepool::daemon {

// One mapping to manage. Shared mappings of the same file in several processes name the same `object`.
struct MappingSpec {
  AddressRange addresses;
  std::size_t object = 0;         // index into VmSpec::objects
  std::uint64_t file_offset = 0;  // shared memory
};

struct SpaceSpec {
  kernel::Userfaultfd userfaultfd;
  bool handed_off = false;  // its owner made the userfaultfd; false: it is fresh, and the pager does the handshake
  pid_t pid = -1;
  UniqueFd pidfd;
  std::vector<MappingSpec> mappings;
  std::unique_ptr<Dropper> ring;  // private memory cannot be moved out without
};

struct ObjectSpec {
  bool shared = false;
  UniqueFd file;  // shared memory: readable and writable
};

struct VmSpec {
  std::string name;
  std::vector<ObjectSpec> objects;
  std::vector<SpaceSpec> spaces;
  std::shared_ptr<pool::PageStore> store;
  bool keep_clean_copies = false;
  bool shared_remove_discards = false;
  bool fixed_memory = false;  // see AddressSpace::fixed
  // False: its faults are served and its accesses sampled, but nothing of it is ever moved out.
  bool movable = true;
};

struct PagerConfig {
  unsigned fault_threads = 1;
  FaultLoopConfig loop;
  DemoterConfig demoter;
  kernel::KernelRoots roots;
};

struct DescriptorToHold {
  std::string name;
  int fd;
};

struct PagerHooks {
  // See FaultLoopHooks. The names say what each descriptor is, for whoever holds it (docs/layout.md).
  std::function<void(PagedVm&, std::vector<DescriptorToHold>, std::function<void()> held)> hold;
  std::function<void(PagedVm&, std::vector<std::string> names)> let_go;
  std::function<void(PagedVm&)> out_of_memory;
  std::function<void(PagedVm&, MemoryObject&, PageIndex)> integrity_failure;
  std::function<void(PagedVm&)> child_lost;
  std::function<void(PagedVm&)> vm_gone;
};

// kOutward: nothing more is moved out. kEverything: nor home, unless it is touched or asked for.
enum class Halt : std::uint8_t { kNothing, kOutward, kEverything };

class Pager {
 public:
  static Result<std::unique_ptr<Pager>> start(const PagerConfig& config, PagerHooks hooks, const Clock& clock);
  virtual ~Pager() = default;

  // Prepares a VM: handshakes and page maps, nothing registered yet. ENOTSUP: a userfaultfd that was handed off cannot
  // be served (see FaultSource). The caller hands `descriptors` to whoever outlives
  // us, then activates.
  virtual Result<std::shared_ptr<PagedVm>> prepare(VmSpec spec) = 0;
  virtual std::vector<DescriptorToHold> descriptors(const PagedVm& vm) const = 0;
  // Registers the memory, learns what is present, and serves it. On failure everything is unregistered again.
  virtual Result<> activate(const std::shared_ptr<PagedVm>& vm) = 0;
  // Further private or shared mappings of the VM's first process (its memory grew). Objects as in prepare, by index.
  virtual Result<> extend(const std::shared_ptr<PagedVm>& vm, std::span<const MappingSpec> mappings) = 0;

  virtual bool demote(const std::shared_ptr<PagedVm>& vm, RegionToDemote region) = 0;
  // Brings stretches of an object home; `done` gets the number of pages that could not be brought. However many they
  // are, one call is one piece of work: a call for each would keep faults waiting.
  virtual void restore(const std::shared_ptr<PagedVm>& vm, MemoryObject* object, std::vector<PageRun> runs,
                       RestoreKind kind, std::function<void(std::uint64_t)> done) = 0;
  // What is brought home of our own accord, all VMs together; zero: no bound, as at first.
  virtual void bound_restores(Bytes per_second) = 0;
  // What stands still from now on. Faults are answered, and what was asked for is done, all the same.
  virtual void halt(Halt what) = 0;
  // The VM's processes are gone: nothing of it that is under way can complete.
  virtual void abandon(const std::shared_ptr<PagedVm>& vm) = 0;

  // Brings everything home, lifts every protection, unregisters. `done` may run on any thread; an error says what could
  // not be brought home (the VM then stays served). Exactly one call of done.
  virtual void release(const std::shared_ptr<PagedVm>& vm, std::function<void(Result<>)> done) = 0;

  // True for up to a second after a release, and after an activation that failed: what could not be unregistered then,
  // because the process was changing it, is let go of only at the end of that.
  virtual bool lets_go() const = 0;

  // Arms pages for access sampling: the next access is counted in its region's `touches`. Returns how many were armed.
  // Shared memory is unmapped (reads and writes are seen), except where there is swap, which the same call would fill.
  // It and private memory are write-protected (writes are seen).
  virtual std::size_t arm_samples(PagedVm& vm, MemoryObject& object, std::span<const PageIndex> pages) = 0;
  virtual bool sampling_sees_reads(const MemoryObject& object) const = 0;

  // Grows while every fault loop goes round; a watchdog feeds on it.
  virtual std::uint64_t heartbeat() const = 0;
  virtual std::size_t demotions_queued() const = 0;
  // Memory kept ready for pages on the move.
  virtual Bytes buffers() const = 0;
  // Stops serving; nothing is brought home. Descriptors stay with whoever holds them.
  virtual void stop() = 0;
};

}  // namespace tidepool::daemon
