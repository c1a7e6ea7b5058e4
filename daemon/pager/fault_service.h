// The answers of a fault loop: what each event means for each page state. Single-threaded: everything here runs on the
// loop's thread, except that storage reads may complete on others (they come back through the loop's mailbox).
#pragma once

#include <deque>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "base/mapping.h"
#include "daemon/pager/fault_loop.h"
#include "daemon/pager/fetch.h"
#include "daemon/pager/prefetcher.h"

namespace tidepool::daemon {

struct SpaceState {
  SpaceState(std::shared_ptr<PagedVm> v, std::shared_ptr<AddressSpace> s, unsigned prefetch_max)
      : vm(std::move(v)), space(std::move(s)), prefetcher(prefetch_max) {}
  std::shared_ptr<PagedVm> vm;
  std::shared_ptr<AddressSpace> space;
  Prefetcher prefetcher;
};

class FaultService {
 public:
  FaultService(const FaultLoopConfig& config, FaultLoopHooks hooks, const Clock& clock, FaultLoop& loop);
  ~FaultService();
  Result<> prepare();  // allocates everything that the fault path needs

  void adopt_vm(const std::shared_ptr<PagedVm>& vm);
  void forget_vm(PagedVm& vm);
  void forget_space(SpaceState& state);
  void extend(PagedVm& vm, AddressSpace& space, std::vector<Segment> segments);

  // Everything but page faults, in order: discards, unmaps, moves, forks. Returns the children that forks made.
  std::vector<std::shared_ptr<AddressSpace>> serve_changes(SpaceState& state, std::span<const uffd_msg> messages);
  void serve_fault(SpaceState& state, std::uint64_t address, std::uint64_t flags, MonoTime since);
  void serve_parked(PagedVm& vm);
  void restore(std::shared_ptr<PagedVm> vm, MemoryObject* object, PageRun run, std::function<void(std::uint64_t)> done);

  void retry_deferred();
  void background_step();
  void flush_releases();
  bool has_background_work() const { return !prefetches_.empty() || restore_ready(); }
  bool has_deferred() const { return !deferred_ops_.empty() || !deferred_faults_.empty() || !restores_.empty(); }

  void free_forked(AddressSpace& space, PagedVm& vm);
  void free_all(PagedVm& vm);
  const FaultLoopHooks& hooks() const { return hooks_; }

 private:
  struct WaitingFault {
    SpaceState* state;
    std::uint64_t address;
    std::uint64_t flags;
    MonoTime since;
  };
  struct PrefetchRequest {
    SpaceState* state;
    MemoryObject* object;
    std::uint64_t next;
    std::int64_t stride;
    unsigned left;
  };
  struct RestoreJob {
    std::shared_ptr<PagedVm> vm;
    MemoryObject* object;
    PageRun run;
    std::uint64_t cursor;
    std::uint64_t progress_at_start;  // pages left at the start of this sweep
    unsigned fruitless;
    MonoTime not_before;
    std::function<void(std::uint64_t)> done;
    std::shared_ptr<AddressSpace> owner;  // of a forked object, which lives as long as its child's address space
  };
  enum class Answer { kDone, kAgain, kGone };

  // fault_service.cpp
  void serve_untracked(SpaceState& state, std::uint64_t address, std::uint64_t flags, MonoTime since);
  void serve_resident(SpaceState& state, const Segment& segment, PageIndex page, PageEntry entry,
                      const WaitingFault& fault);
  Answer answer_resident(SpaceState& state, const Segment& segment, const WaitingFault& fault);
  Answer judge(SpaceState& state, const kernel::InstallOutcome& outcome, std::uint64_t address);
  void defer(const WaitingFault& fault) { deferred_faults_.push_back(fault); }
  void park(const WaitingFault& fault, MemoryObject& object, PageIndex page);
  void fetch_demand(SpaceState& state, const Segment& segment, PageIndex page, PageEntry entry,
                    const WaitingFault& fault);
  void plan_prefetch(SpaceState& state, MemoryObject& object, PageIndex page);

  // fetching.cpp
  FetchOp* acquire();
  void recycle(FetchOp* op);
  bool begin_page(FetchOp& op, PageIndex page, PageEntry entry);
  void submit(FetchOp* op);
  void finish(FetchOp* op);
  enum class Step { kAdvanced, kPostpone, kSpaceGone };
  Step install_next(FetchOp& op);
  Step install_into_file(FetchOp& op, const Segment* segment, std::size_t index);
  void settle(FetchOp& op, std::size_t index, bool keeps_copy);
  void put_back(FetchOp& op, std::size_t index);
  void postpone(FetchOp* op);
  void account_demand(FetchOp& op);
  bool start_run(const std::shared_ptr<PagedVm>& vm, const std::shared_ptr<AddressSpace>& space, MemoryObject& object,
                 std::uint64_t from, std::uint64_t end, FetchReason reason, std::uint64_t& next);
  bool prefetch_step();
  bool restore_step();
  bool restore_ready() const;
  void end_restore_sweep(RestoreJob& job);

  // address_changes.cpp
  void discard(PagedVm& vm, AddressSpace& space, AddressRange range, bool unmapped);
  void discard_page(PagedVm& vm, MemoryObject& object, PageIndex page, PageState to);
  std::shared_ptr<AddressSpace> fork_of(PagedVm& vm, AddressSpace& parent, int fd);
  std::unique_ptr<MemoryObject> clone_private(PagedVm& vm, MemoryObject& parent);
  void record_layout(PagedVm& vm, const AddressSpace& space);
  void free_object(MemoryObject& object, pool::PageStore& store);
  void release_later(pool::PageStore* store, pool::Location location);

  const FaultLoopConfig config_;
  const FaultLoopHooks hooks_;
  const Clock& clock_;
  FaultLoop& loop_;

  Mapping buffers_;
  Mapping pattern_pages_;  // the zero page, and one that is filled with the pattern at hand
  std::vector<std::unique_ptr<FetchOp>> ops_;
  std::vector<FetchOp*> free_ops_;
  std::vector<FetchOp*> deferred_ops_;
  std::vector<WaitingFault> deferred_faults_;
  std::vector<WaitingFault> parked_;
  std::deque<PrefetchRequest> prefetches_;
  std::deque<RestoreJob> restores_;
  std::vector<pool::Location> releases_;
  pool::PageStore* releases_store_ = nullptr;
  std::thread::id owner_;
};

}  // namespace tidepool::daemon
