// One region on its way out, and the steps that need no thread of their own. Used by the demotion thread only.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <bitset>
#include <cstddef>
#include <memory>
#include <optional>
#include <vector>

#include "base/clock.h"
#include "daemon/pager/demoter.h"
#include "daemon/pager/fault_loop.h"
#include "daemon/pager/paged_vm.h"
#include "daemon/pager/punch_dropper.h"

namespace tidepool::daemon {

// What is copied, stored, compared and, of shared memory, dropped in one go. Small enough to stay in a core's own cache
// from the first reading to the second, and for the VM's events to wait while it is dropped; large enough for the
// system calls not to matter.
inline constexpr std::size_t kStretchPages = 64;
inline constexpr std::size_t kStretches = kPagesPerRegion / kStretchPages;
static_assert(kPagesPerRegion % kStretchPages == 0);

// Of a process that may unmap its private memory: drops that are on their way at once. Between the look at a page and
// its drop lie at most those before it.
inline constexpr std::size_t kDropsInFlight = 64;

class DemotionJob {
 public:
  enum class Stage : std::uint8_t { kFrozen, kStoring, kDropping, kDone };
  // Memory that a job works with while it stores: the copies, for stores that lend no place for them; and for a moment
  // only, the second reading.
  static constexpr Bytes kCopies{kHugePageSize};
  static constexpr Bytes kSecondReading{kStretchPages * kPageSize};

  // `cookie`: of the job's first drop; those of the others follow. A region has at most kPagesPerRegion drops.
  DemotionJob(std::shared_ptr<PagedVm> vm, FaultLoop& loop, const RegionToDemote& what, std::uint16_t ticket,
              std::uint64_t cookie);

  // resident -> demoting, protected everywhere. False when there is nothing to demote.
  bool freeze(MonoTime now);
  // Copies and stores what is still frozen, stretch by stretch; compares and commits what the store has answered, and
  // drops it when it is shared memory. False while the store still has something: call again. `copies` is this job's
  // until then, null where the store lends places; `again` only during the call.
  bool store(std::byte* copies, std::byte* again);
  // Takes back what the store has not answered, and stores nothing more. False while the store still has something:
  // call again. In the end everything is its owner's.
  bool recall();
  // Starts the drops that have not been started; false when not all could be: call again.
  bool start_drops();
  void drop_completed(std::size_t run_index, int error);
  bool all_drops_done() const { return runs_done_ == runs_.size(); }
  bool all_drops_started() const {
    return std::ranges::all_of(runs_, [](const Run& run) { return run.started; });
  }
  // Gives back everything that is frozen; what is being dropped goes on.
  void cancel();
  // Gives back what has not been asked to be dropped.
  void refuse_rest();
  // The process is gone: nothing of it can come back. Not while the store still has something: see recall.
  void abandon();

  const std::shared_ptr<PagedVm>& vm() const { return vm_; }
  MemoryObject& object() const { return *object_; }
  std::uint64_t region() const { return first_page_ / kPagesPerRegion; }
  Stage stage = Stage::kFrozen;
  MonoTime frozen_at;
  // Pages that left, and pages that were left alone, or refused by the store, though they were asked for. (A page that
  // was used meanwhile is neither.)
  std::uint32_t dropped() const { return dropped_; }
  std::uint32_t spared() const { return spared_pages_; }
  // Pages that it has protected, or found protected, to move them.
  std::size_t pages() const { return pages_; }
  // Drops that the process's ring has been asked for and has not answered, and when it last took or answered one.
  std::size_t drops_in_flight() const { return in_flight_; }
  std::size_t drop_steps() const { return drop_steps_; }
  std::size_t drop_steps_seen = 0;
  MonoTime dropping_since;
  bool overdue = false;

 private:
  using Slots = std::bitset<kPagesPerRegion>;
  // [first, end) of the region's slots.
  struct SlotRange {
    std::size_t first;
    std::size_t end;
  };
  // On its way into the store.
  struct Stretch {
    pool::WriteBatch batch;  // of `submitted_`
    std::size_t first_submitted = 0;
    std::size_t end_submitted = 0;
    std::atomic<bool> stored{false};  // the store has answered; may be set by another thread
  };
  struct Run {
    std::size_t first;  // within the region
    std::size_t count;
    AddressRange addresses;
    std::uint64_t file_offset;
    DropLedger::Id ledger_id{};
    bool started = false;
    bool in_flight = false;  // asked of the process's ring
    bool done = false;
  };
  PageIndex page(std::size_t slot) const { return PageIndex{first_page_ + slot}; }
  static constexpr SlotRange kWholeRegion{0, kPagesPerRegion};
  static SlotRange range_of(std::size_t stretch) { return {stretch * kStretchPages, (stretch + 1) * kStretchPages}; }
  static bool any(const Slots& set, SlotRange range);
  PageEntry dropping_entry(std::size_t slot) const;
  enum class HugePages : std::uint8_t { kAsTheyAre, kOnlyWhole, kNone };
  struct Presence {
    Slots there;
    Slots zero_page;  // the kernel's page of zeros, which costs nothing
  };
  Presence present(SlotRange within, HugePages huge) const;
  void claim(const Slots& candidates, MonoTime now);
  policy::AgeSpread spread_of_ages(MonoTime now) const;
  bool protect(std::size_t first, std::size_t count, bool protect) const;
  void thaw(std::size_t slot, PageEntry to);
  void give_up(std::size_t slot, PageEntry to = PageEntry::plain(PageState::kResident));
  PageAge age_of(std::size_t slot, MonoTime now) const { return PageAge::at(now, intervals_[slot]); }
  bool read_run(std::size_t first, std::size_t count, std::byte* to) const;
  void forget_disturbed(SlotRange range);
  void stage_and_read(SlotRange range, std::byte* copies);
  void copy_and_submit(std::size_t stretch, std::byte* copies);
  void take_answers(const Stretch& stretch);
  void return_places(const Stretch& stretch);
  void protect_in_new_spaces();
  void compare(SlotRange range, std::byte* again);
  void settle(std::size_t stretch, std::byte* again);
  bool commit_clean(std::size_t slot);
  void bridge_gaps();
  void add_runs(const Slots& pages, SlotRange range);
  void discard_buffer(std::size_t slot);
  Slots still_present(const Run& run) const;
  void split_what_is_left() const;
  bool commit(std::size_t slot, PageMap::Changes& changes);
  int punch_committed(const Run& run);
  bool drop_shared(std::size_t run_index);
  bool start_private_drops();
  void forget_copies();
  bool decide(std::size_t run_index, Slots& disturbed);
  std::size_t still_ours(const Run& run) const;
  int error_of_range(const Run& run, std::size_t behind) const;
  bool commit_bridge(std::size_t slot);
  SlotRange commit_from(std::size_t first, std::size_t& behind);
  void settle_dropped(std::size_t slot, bool present, PageMap::Changes& changes);
  void refuse_run(std::size_t run_index);

  template <class Callback>
  static void for_runs(const Slots& set, SlotRange range, Callback&& callback);  // callback(first slot, count)

  std::shared_ptr<PagedVm> vm_;
  FaultLoop* loop_;
  MemoryObject* object_;
  std::uint64_t first_page_;
  std::uint32_t units_;  // as RegionToDemote
  bool spares_;
  std::shared_ptr<const Slots> only_;
  std::uint16_t ticket_;
  std::uint64_t cookie_;
  std::uint32_t epoch_ = 0;                    // of the VM's address spaces when frozen
  std::shared_ptr<AddressSpace> space_;        // through which private memory is read and dropped
  std::shared_ptr<const SegmentTable> table_;  // its memory as it was when the first page was copied
  Slots frozen_;                               // demoting with our ticket, as far as we know
  Slots values_;                               // same-filled: pattern below
  Slots clean_;                                // resident with a valid far copy: need no copying, only the drop
  Slots weightless_;                           // never written: nothing is saved by keeping them far
  Slots bridges_;                              // far pages between those: dropped along with them, in one piece
  Slots committed_;                            // dropping
  std::vector<std::uint32_t> patterns_;
  std::vector<pool::WriteItem> items_;      // one per slot
  std::vector<pool::WriteItem> submitted_;  // those that go to the store, in slot order; never reallocated
  std::vector<std::uint16_t> submitted_slots_;
  std::array<Stretch, kStretches> stretches_;
  std::size_t copied_ = 0;   // stretches that were given to the store
  std::size_t settled_ = 0;  // stretches that it has answered, and that were compared and committed
  bool recalled_ = false;
  std::optional<PunchDropper> punch_;  // shared memory
  std::vector<Run> runs_;
  std::size_t runs_done_ = 0;
  std::size_t in_flight_ = 0;
  std::size_t drop_steps_ = 0;
  std::uint32_t dropped_ = 0;
  std::uint32_t spared_pages_ = 0;
  std::size_t pages_ = 0;
  std::array<std::uint8_t, kPagesPerRegion> intervals_{};  // of what is frozen (policy/page_age.h)
};

template <class Callback>
void DemotionJob::for_runs(const Slots& set, SlotRange range, Callback&& callback) {
  for (std::size_t slot = range.first; slot < range.end;) {
    if (!set.test(slot)) {
      ++slot;
      continue;
    }
    std::size_t end = slot + 1;
    while (end < range.end && set.test(end)) ++end;
    callback(slot, end - slot);
    slot = end;
  }
}

}  // namespace tidepool::daemon
