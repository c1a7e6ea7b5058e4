// The answers of a fault loop: what each event means for each page state. Single-threaded: everything here runs on the
// loop's thread, except that storage reads may complete on others (they come back through the loop's mailbox).
#pragma once

#include <array>
#include <atomic>
#include <deque>
#include <list>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "base/mapping.h"
#include "daemon/pager/fault_loop.h"
#include "daemon/pager/fetch.h"
#include "daemon/pager/prefetcher.h"
#include "kmod-interfaces/advice_calls.h"

namespace tidepool::daemon {

struct SpaceState {
  SpaceState(std::shared_ptr<PagedVm> v, std::shared_ptr<AddressSpace> s)
      : vm(std::move(v)), space(std::move(s)), calls(space->pid), pending(space->userfaultfd) {}
  std::shared_ptr<PagedVm> vm;
  std::shared_ptr<AddressSpace> space;
  Prefetcher prefetcher;
  kernel::CallWatcher calls;
  kernel::PendingFaults pending;
  bool several_wait = false;  // a guess: more than one fault, whenever one does
  // The madvise calls that were seen before the events at hand were read; see Loop::read_space.
  kernel::AdviceCalls advice;
  MonoTime no_cause_since{};  // the address space is changing and nobody is seen to do it; MonoTime{}: it is not so

  // Only where REMOVE may mean either of two things, and its cause can be looked up.
  bool asks_for_advice() const { return !vm->shared_remove_discards && space->pid > 0 && vm->has_shared_memory(); }
  // Only while a drop is under way whose address may become somebody else's.
  bool guards_drops() const { return space->ring != nullptr && !space->fixed && !space->ledger.empty(); }
};

class FaultService {
 public:
  FaultService(const FaultLoopConfig& config, FaultLoopHooks hooks, const Clock& clock, FaultLoop& loop);
  ~FaultService();
  Result<> prepare();  // allocates everything that the fault path needs

  void adopt_vm(const std::shared_ptr<PagedVm>& vm);
  void forget_vm(PagedVm& vm);
  void forget_space(SpaceState& state);
  // Leaves those out (of `segments` too) whose addresses are known already.
  void extend(PagedVm& vm, AddressSpace& space, std::vector<Segment>& segments);
  void unmap(const std::shared_ptr<PagedVm>& of, AddressSpace& space, AddressRange gone);

  // Everything but page faults, in order: discards, unmaps, moves, forks. Returns the children that forks made.
  std::vector<std::shared_ptr<AddressSpace>> serve_changes(SpaceState& state, std::span<const uffd_msg> messages);
  void serve_fault(SpaceState& state, std::uint64_t address, std::uint64_t flags, MonoTime since);
  void serve_parked(PagedVm& vm);
  void restore(std::shared_ptr<PagedVm> vm, MemoryObject* object, std::vector<PageRun> runs, RestoreKind kind,
               std::function<void(std::uint64_t)> done);
  void halt(bool halted) { halted_ = halted; }  // any thread

  void retry_deferred();
  void background_step();
  void flush_releases();
  bool has_background_work() const { return prefetch_ready() || restore_ready(); }
  // A fault that waits for its address space only, and not for long yet.
  bool has_demand_held_up() const;
  bool has_deferred() const { return !deferred_.empty() || !at_hand_.empty() || !restores_.empty(); }

  void free_private(AddressSpace& gone, PagedVm& vm);
  void free_all(PagedVm& vm);
  // Takes back what its stores have not answered, and waits for them. `meanwhile` runs what other threads post.
  void recall(const std::function<void()>& meanwhile);
  const FaultLoopHooks& hooks() const { return hooks_; }
  Bytes buffers() const { return Bytes{buffers_.size() + pattern_pages_.size()}; }

 private:
  struct ParkedFault {
    WaitingFault fault;
    MemoryObject* object;  // lives as long as the fault's address space is served
    PageIndex page;
  };
  struct PrefetchRequest {
    std::uint64_t id;
    SpaceState* state;
    MemoryObject* object;
    std::uint64_t next;
    std::int64_t stride;
    unsigned left;
  };
  struct RestoreJob {
    std::uint64_t id;
    std::shared_ptr<PagedVm> vm;
    MemoryObject* object;
    std::vector<PageRun> runs;  // inside the object
    RestoreKind kind;
    std::size_t run;  // where the sweep is: in which of them, and at which page
    std::uint64_t cursor;
    std::uint64_t left_before;  // pages that the last sweep left
    MonoTime progress_at;       // when a sweep last left fewer than the one before
    MonoTime not_before;
    std::function<void(std::uint64_t)> done;
    std::shared_ptr<AddressSpace> owner;  // of a forked object, which lives as long as its child's address space
  };
  // kFound: what was there already was mapped, or its protection lifted. kAgain: the address space is changing.
  // kStarved: the VM's own limit leaves no memory for the page.
  enum class Answer { kDone, kFound, kAgain, kStarved, kGone };

  // fault_service.cpp
  void serve_untracked(SpaceState& state, std::uint64_t address, std::uint64_t flags, MonoTime since);
  void serve_resident(SpaceState& state, const Segment& segment, PageIndex page, PageEntry entry,
                      const WaitingFault& fault);
  Answer answer_resident(SpaceState& state, const Segment& segment, const WaitingFault& fault);
  // True when the fault has to be tried again; then it is deferred.
  bool postpones(const WaitingFault& fault, Answer answer);
  void let_go_of_held(const WaitingFault& fault);
  bool may_be_emptied_yet(const PagedVm& vm) const;
  static bool must_wait(const MemoryObject& object, PageIndex page);
  Answer judge(SpaceState& state, const kernel::InstallOutcome& outcome, std::uint64_t address);
  void defer(WaitingFault fault, Nanoseconds pause = {});
  void park(const WaitingFault& fault, MemoryObject& object, PageIndex page);
  void fetch_demand(SpaceState& state, const Segment& segment, PageIndex page, PageEntry entry,
                    const WaitingFault& fault);

  // prefetching.cpp
  void plan_prefetch(SpaceState& state, MemoryObject& object, PageIndex page);
  bool prefetch_ready() const;
  bool prefetch_step();
  void advance_prefetch(const PrefetchRequest& request, std::uint64_t pages, std::uint64_t limit);
  void settle_controls(PagedVm& vm);

  // fetching.cpp
  void make_ops(FetchReason reason, std::byte* buffers);
  FetchOp* acquire(PagedVm& vm, FetchReason reason);
  std::vector<FetchOp*>& free_ops(FetchReason reason) { return free_ops_[static_cast<std::size_t>(reason)]; }
  bool any_free(FetchReason reason) const { return !free_ops_[static_cast<std::size_t>(reason)].empty(); }
  bool all_free() const;
  static bool may_fetch_more(const PagedVm& vm, FetchReason reason) {
    return vm.fetches_under_way[static_cast<std::size_t>(reason)] < shape_of(reason).ops_per_vm;
  }
  void recycle(FetchOp* op);
  bool begin_page(FetchOp& op, PageIndex page, PageEntry entry, PageMap::Changes& changes);
  void submit(FetchOp* op);
  void finish(FetchOp* op);
  // kBusy: the address space is changing, try again after the next events. kStarved: no memory, or the store is away.
  enum class Step { kAdvanced, kBusy, kStarved, kSpaceGone };
  Step install_next(FetchOp& op);
  Step leave_out(FetchOp& op);
  Step install_into_file(FetchOp& op, const Segment* segment, std::size_t index);
  void settle(FetchOp& op, std::size_t pages, bool keep_copies);
  void put_back(FetchOp& op, std::size_t index);
  void give_up(FetchOp* op, Nanoseconds pause);
  void retry_at_hand();
  void account_demand(FetchOp& op);
  struct Run {
    std::uint64_t next;     // where to go on
    std::size_t pages = 0;  // that are on their way now; none: everything is busy, or this one is not far any more
    bool at_end = false;    // nothing was far
  };
  Run start_run(const std::shared_ptr<PagedVm>& vm, const std::shared_ptr<AddressSpace>& space, MemoryObject& object,
                std::uint64_t from, std::uint64_t end, FetchReason reason);

  // restoring.cpp
  bool restore_step();
  bool restore_ready() const;
  bool may_go_on(const RestoreJob& job) const { return job.kind == RestoreKind::kAsked || !halted_; }
  bool is_paid(const RestoreJob& job, MonoTime now) const;
  bool sweep(RestoreJob& job);
  static std::shared_ptr<AddressSpace> space_for(const RestoreJob& job);
  void end_restore_sweep(RestoreJob& job);
  static std::uint64_t count_left(const RestoreJob& job);
  static void begin_sweep(RestoreJob& job);

  // address_changes.cpp
  enum class Removal { kUnmapped, kGivenBack, kKeptInFile };
  void discard(PagedVm& vm, AddressSpace& space, AddressRange range, Removal removal);
  static Removal removal_of(SpaceState& state, AddressRange range);
  void discard_page(PagedVm& vm, MemoryObject& object, PageIndex page, PageState to);
  std::shared_ptr<AddressSpace> fork_of(PagedVm& vm, AddressSpace& parent, int fd);
  std::unique_ptr<MemoryObject> clone_private(PagedVm& vm, MemoryObject& parent);
  void note_restlessness(PagedVm& vm, const AddressSpace& space, AddressRange changed);
  void record_layout(const PagedVm& vm);
  void free_object(MemoryObject& object, const std::shared_ptr<pool::PageStore>& store);
  void release_later(const std::shared_ptr<pool::PageStore>& store, pool::Location location);

  const FaultLoopConfig config_;
  const FaultLoopHooks hooks_;
  const Clock& clock_;
  FaultLoop& loop_;

  Mapping buffers_;
  Mapping pattern_pages_;  // the zero page, and one that is filled with the pattern at hand
  std::vector<std::unique_ptr<FetchOp>> ops_;
  std::array<std::vector<FetchOp*>, kFetchReasons> free_ops_;
  // One fault at most for each thread of the targets. The second vector of each pair is the one being worked through;
  // both keep their memory.
  std::vector<WaitingFault> deferred_;
  std::vector<WaitingFault> retrying_;
  // Demand whose page has come, and that waits until its address space can be changed again.
  std::vector<FetchOp*> at_hand_;
  std::vector<FetchOp*> retrying_at_hand_;
  std::vector<ParkedFault> parked_;
  std::vector<WaitingFault> unparked_;
  bool serving_parked_ = false;
  std::deque<PrefetchRequest> prefetches_;
  std::uint64_t next_prefetch_ = 0;
  std::atomic<bool> halted_{false};
  std::list<RestoreJob> restores_;  // whose turn it is stands in front
  std::uint64_t next_restore_ = 1;
  std::vector<pool::Location> releases_;
  std::shared_ptr<pool::PageStore> releases_store_;
  std::thread::id owner_;
};

}  // namespace tidepool::daemon
