// One region on its way out, and the steps that need no thread of their own. Used by the demotion thread only.
#pragma once

#include <array>
#include <bitset>
#include <cstddef>
#include <memory>
#include <optional>
#include <vector>

#include "base/clock.h"
#include "daemon/pager/fault_loop.h"
#include "daemon/pager/paged_vm.h"

namespace tidepool::daemon {

class DemotionJob {
 public:
  enum class Stage : std::uint8_t { kFrozen, kStoring, kCommitted, kDropping, kDone };

  DemotionJob(std::shared_ptr<PagedVm> vm, FaultLoop& loop, MemoryObject& object, std::uint64_t region,
              std::uint16_t ticket);

  // resident -> demoting, protected everywhere. False when there is nothing to demote.
  bool freeze(MonoTime now);
  // Copies what is still frozen; `scratch` is one region of memory for stores that lend none. True when there is
  // something to store.
  bool copy(std::byte* scratch);
  void submit();
  // After the store has answered: compares again and commits. `scratch` as in copy, but another region. True when
  // something is committed.
  bool verify_and_commit(std::byte* scratch);
  // Starts drops; false when not all could be started (the ring is full): call again.
  bool start_drops(std::uint64_t job_cookie);
  void drop_completed(std::size_t run_index, int error);
  bool all_drops_done() const { return runs_done_ == runs_.size(); }
  // Gives back everything that was frozen. Only before copy.
  void cancel();
  // The process is gone: nothing of it can come back.
  void abandon();

  const std::shared_ptr<PagedVm>& vm() const { return vm_; }
  MemoryObject& object() const { return *object_; }
  std::uint64_t region() const { return first_page_ / kPagesPerRegion; }
  Stage stage = Stage::kFrozen;
  MonoTime frozen_at;
  MonoTime dropping_since;
  bool overdue = false;
  std::atomic<bool> stored{false};  // the store has answered; may be set by another thread

 private:
  struct Run {
    std::size_t first;  // within the region
    std::size_t count;
    AddressRange addresses;
    std::uint64_t file_offset;
    DropLedger::Id ledger_id{};
    bool started = false;
    bool done = false;
  };
  PageIndex page(std::size_t slot) const { return PageIndex{first_page_ + slot}; }
  PageEntry dropping_entry(std::size_t slot) const;
  std::bitset<kPagesPerRegion> droppable(const SegmentTable& table, const AddressSpace& space) const;
  bool protect(std::size_t first, std::size_t count, bool protect) const;
  void thaw(std::size_t slot, PageEntry to);
  bool read_run(std::size_t first, std::size_t count, std::byte* to) const;
  void stage_and_read(std::byte* scratch);
  void add_runs(const SegmentTable& table);
  void discard_buffer(std::size_t slot);
  std::bitset<kPagesPerRegion> still_present(const Run& run) const;
  bool commit(std::size_t slot);
  int punch_committed(const Run& run);

  template <class Callback>
  void for_runs(const std::bitset<kPagesPerRegion>& set, Callback&& callback) const;

  std::shared_ptr<PagedVm> vm_;
  FaultLoop* loop_;
  MemoryObject* object_;
  std::uint64_t first_page_;
  std::uint16_t ticket_;
  std::uint32_t epoch_ = 0;                 // of the VM's address spaces when frozen
  std::shared_ptr<AddressSpace> space_;     // through which private memory is read and dropped
  std::bitset<kPagesPerRegion> frozen_;     // demoting with our ticket, as far as we know
  std::bitset<kPagesPerRegion> values_;     // same-filled: pattern below
  std::bitset<kPagesPerRegion> clean_;      // resident with a valid far copy: need no copying, only the drop
  std::bitset<kPagesPerRegion> committed_;  // dropping
  std::vector<std::uint32_t> patterns_;
  std::vector<pool::WriteItem> items_;      // one per slot
  std::vector<pool::WriteItem> submitted_;  // those that go to the store, in slot order
  std::vector<std::uint16_t> submitted_slots_;
  pool::WriteBatch batch_;
  std::vector<Run> runs_;
  std::size_t runs_done_ = 0;
};

}  // namespace tidepool::daemon
