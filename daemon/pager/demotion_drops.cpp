// The end of a demotion: what is stored leaves its owner's memory.
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

#include "daemon/pager/demotion_job.h"
#include "kmod-interfaces/drop_ring.h"
#include "kmod-interfaces/process_memory.h"

namespace tidepool::daemon {

// Where nothing but far pages lies between two that go, all of it is dropped in one piece.
void DemotionJob::bridge_gaps() {
  const Slots going = frozen_ | clean_;
  std::size_t last = kPagesPerRegion;  // of those that go
  for (std::size_t slot = 0; slot < kPagesPerRegion; ++slot) {
    if (going.test(slot)) {
      for (std::size_t gap = last + 1; gap < slot; ++gap) bridges_.set(gap);
      last = slot;
    } else if (last != kPagesPerRegion && object_->map->load(page(slot)).state() != PageState::kFar) {
      last = kPagesPerRegion;
    }
  }
}

void DemotionJob::add_runs(const Slots& pages, SlotRange range) {
  const auto table = space_->segments();
  for_runs(pages, range, [&](std::size_t first, std::size_t count) {
    std::size_t done = 0;
    while (done < count) {
      const Segment* segment = table->showing(*object_, page(first + done));
      std::size_t length = 1;
      Run run{first + done, 1, {}, 0};
      if (segment != nullptr) {
        length =
            std::min<std::uint64_t>(count - done, segment->first.value + segment->pages() - page(first + done).value);
        const std::uint64_t address = segment->address_of(page(first + done));
        run.addresses = {address, address + length * kPageSize};
        run.file_offset = segment->offset_of(page(first + done));
      }
      run.count = length;
      runs_.push_back(run);
      done += length;
    }
  });
}

// Punches the committed stretches of a run of shared memory; the first error.
int DemotionJob::punch_committed(const Run& run) {
  int error = 0;
  for (std::size_t slot = run.first; slot < run.first + run.count;) {
    if (!committed_.test(slot)) {
      ++slot;
      continue;
    }
    std::size_t end = slot + 1;
    while (end < run.first + run.count && committed_.test(end)) ++end;
    const std::uint64_t length = (end - slot) * kPageSize;
    DropCompletion completion;
    punch_->submit({0, {0, length}, run.file_offset + (slot - run.first) * kPageSize});
    if (punch_->reap(std::span(&completion, 1)) == 1 && error == 0) error = completion.error;
    slot = end;
  }
  return error;
}

// Decides and punches while no fork can slip in between (see PagedVm::event_gate). False when the fault loop is at it.
bool DemotionJob::drop_shared(std::size_t index) {
  Run& run = runs_[index];
  if (!vm_->event_gate.try_close_patiently()) return false;
  const bool joined = vm_->spaces_epoch.load(std::memory_order_seq_cst) != epoch_;
  {
    PageMap::Changes changes(*object_->map);
    for (std::size_t slot = run.first; slot < run.first + run.count && !joined; ++slot) commit(slot, changes);
  }
  const int error = punch_committed(run);
  vm_->event_gate.open();
  for (std::size_t slot = run.first; slot < run.first + run.count; ++slot) {
    if (!committed_.test(slot)) give_up(slot);
    frozen_.reset(slot);
  }
  run.started = true;
  drop_completed(index, error);
  return true;
}

bool DemotionJob::start_drops() {
  for (std::size_t i = 0; i < runs_.size(); ++i) {
    if (!runs_[i].started && runs_[i].addresses.empty()) refuse_run(i);  // unmapped meanwhile: nothing to drop here
  }
  if (!object_->shared) {
    if (!start_private_drops()) return false;
    forget_copies();
    return true;
  }
  for (std::size_t i = 0; i < runs_.size(); ++i) {
    if (!runs_[i].started && !drop_shared(i)) return false;
  }
  return true;
}

// Many jobs may wait for their drops at once: those are small.
void DemotionJob::forget_copies() {
  items_ = {};
  submitted_ = {};
  submitted_slots_ = {};
  patterns_ = {};
}

// Nothing of it was dropped, and nothing will be.
void DemotionJob::refuse_run(std::size_t index) {
  const Run run = runs_[index];
  runs_[index].started = true;
  for (std::size_t slot = run.first; slot < run.first + run.count; ++slot) {
    if (frozen_.test(slot)) give_up(slot);
  }
  drop_completed(index, 0);
}

void DemotionJob::refuse_rest() {
  for (std::size_t i = 0; i < runs_.size(); ++i) {
    if (!runs_[i].started) refuse_run(i);
  }
}

// far -> dropping, and far again when the drop is over. False when somebody wants it.
bool DemotionJob::commit_bridge(std::size_t slot) {
  PageEntry entry = object_->map->load(page(slot));
  if (entry.state() != PageState::kFar || entry.held() ||
      !object_->map->exchange(page(slot), entry, entry.with_state(PageState::kDropping).with_held()))
    return false;
  committed_.set(slot);
  return true;
}

// Commits pages from `first` on as far as they are undisturbed, the last of them one that goes; `behind` is the first
// that was not.
DemotionJob::SlotRange DemotionJob::commit_from(std::size_t first, std::size_t& behind) {
  PageMap::Changes changes(*object_->map);
  std::size_t slot = first;
  std::size_t end = first;
  for (; slot < behind; ++slot) {
    if (bridges_.test(slot)) {
      if (!commit_bridge(slot)) break;
    } else {
      if (!(clean_.test(slot) ? commit_clean(slot) : commit(slot, changes))) break;
      end = slot + 1;
    }
  }
  // Bridges that lead nowhere.
  for (std::size_t far = end; far < slot; ++far) settle_dropped(far, false, changes);
  behind = slot;
  return {first, end};
}

// How many pages of the run, from its first on, are as we left them: frozen ones present and protected, far ones not
// present. Whatever else is found at an address by now (the owner has moved or unmapped what was there, and its event
// is not read yet, or has written to it) is not ours to drop.
std::size_t DemotionJob::still_ours(const Run& run) const {
  if (space_->fixed) return run.count;
  constexpr std::uint64_t kThere = kernel::uapi::kPageIsPresent | kernel::uapi::kPageIsSwapped;
  Slots ours = bridges_;
  // A page that is not there counts as written.
  const auto looked =
      space_->pagemap.for_each(run.addresses, kThere | kernel::uapi::kPageIsWritten, [&](const auto& seen) {
        if ((seen.categories & kThere) == 0) return;
        const bool as_left = (seen.categories & kernel::uapi::kPageIsPresent) != 0 &&
                             (seen.categories & kernel::uapi::kPageIsWritten) == 0;
        for (std::uint64_t address = seen.start; address < seen.end; address += kPageSize)
          ours.set(run.first + (address - run.addresses.start) / kPageSize, as_left);
      });
  std::size_t count = 0;
  while (looked && count < run.count && ours.test(run.first + count)) ++count;
  return count;
}

// Whether what was just found to be ours is registered memory of ours also where no page is that could tell, and
// nothing of it is changing: the error of protecting it once more, EAGAIN while it is.
int DemotionJob::error_of_range(const Run& run, std::size_t behind) const {
  bool bridged = false;
  for (std::size_t slot = run.first; slot < behind; ++slot) bridged = bridged || bridges_.test(slot);
  if (space_->fixed || !bridged) return 0;
  const std::uint64_t start = run.addresses.start;
  return space_->userfaultfd.write_protect({start, start + (behind - run.first) * kPageSize}, true,
                                           kernel::Userfaultfd::Waiters::kLeave);
}

// Decides on all that there is room for, and only then asks the process's ring: the first drop's announcement would say
// that the process's memory is changing. Nobody can unmap anything unseen meanwhile.
bool DemotionJob::start_private_drops() {
  if (all_drops_started()) return true;
  AddressSpace& space = *space_;
  const std::size_t most = space.fixed ? space.ring->capacity() : kDropsInFlight;
  if (space.ring->in_flight() >= most || !vm_->event_gate.try_close_patiently()) return false;
  // What was copied was found by a table that must still hold.
  if (vm_->keeps_private() || (table_ != nullptr && table_ != space.segments())) {
    vm_->event_gate.open();
    refuse_rest();
    return true;
  }
  std::vector<std::size_t> decided;
  std::size_t room = most - space.ring->in_flight();
  Slots disturbed;
  for (std::size_t i = 0; i < runs_.size() && room != 0; ++i) {
    if (runs_[i].started) continue;
    if (!decide(i, disturbed)) break;
    decided.push_back(i);
    if (runs_[i].count != 0) --room;
  }
  for (const std::size_t i : decided) {
    Run& run = runs_[i];
    if (run.count == 0) continue;
    run.ledger_id = space.ledger.expect(run.addresses);
    if (!space.ring->submit({cookie_ + i, run.addresses, 0})) continue;
    run.in_flight = true;
    vm_->counters.drops.fetch_add(1, std::memory_order_relaxed);
    ++in_flight_;
    ++drop_steps_;
  }
  vm_->event_gate.open();
  for (std::size_t slot = 0; slot < kPagesPerRegion; ++slot) {
    if (disturbed.test(slot) && frozen_.test(slot)) give_up(slot);
  }
  for (const std::size_t i : decided) {
    const Run& run = runs_[i];
    if (run.in_flight) continue;
    // Nothing to drop, or the ring is broken: the process is ending, and nothing is dropped any more.
    if (run.count != 0) space.ledger.finished(run.ledger_id);
    drop_completed(i, ECANCELED);
  }
  return all_drops_started();
}

// Commits what of a run can be dropped in one piece from its beginning on; what is behind becomes a run of its own.
// False: not now.
bool DemotionJob::decide(std::size_t index, Slots& disturbed) {
  Run rest = runs_[index];
  const std::uint64_t start = rest.addresses.start;
  const std::size_t end = rest.first + rest.count;
  std::size_t behind = rest.first + still_ours(rest);
  const int error = error_of_range(rest, behind);
  if (error == EAGAIN) return false;
  Run& run = runs_[index];
  run.started = true;
  run.count = 0;
  if (error != 0) {
    for (std::size_t slot = rest.first; slot < end; ++slot) disturbed.set(slot);
    return true;
  }
  const SlotRange going = commit_from(rest.first, behind);
  run.count = going.end - going.first;
  run.addresses.end = start + run.count * kPageSize;
  for (std::size_t slot = going.first; slot < going.end; ++slot) frozen_.reset(slot);
  // The rest begins behind the page that was disturbed, with one that goes.
  if (behind < end && !bridges_.test(behind)) disturbed.set(behind++);
  while (behind < end && bridges_.test(behind)) ++behind;
  if (behind < end) {
    rest.addresses.start += (behind - rest.first) * kPageSize;
    rest.first = behind;
    rest.count = end - behind;
    runs_.push_back(rest);
  }
  return true;
}

// Private memory: the pages of a run that the kernel still has, whatever the drop's completion says.
DemotionJob::Slots DemotionJob::still_present(const Run& run) const {
  Slots present;
  if (object_->shared || run.addresses.empty()) return present;
  // Where the pages are now: their owner may have moved them since.
  const auto table = space_->segments();
  for (const Segment& segment : table->all()) {
    if (segment.object != object_) continue;
    const std::uint64_t from = std::max(page(run.first).value, segment.first.value);
    const std::uint64_t to = std::min(page(run.first + run.count).value, segment.first.value + segment.pages());
    if (from >= to) continue;
    const AddressRange range{segment.address_of(PageIndex{from}), segment.address_of(PageIndex{to})};
    // Where we cannot look, the pages count as gone: see below.
    (void)space_->pagemap.for_each(
        range, kernel::uapi::kPageIsPresent | kernel::uapi::kPageIsSwapped, [&](const auto& seen) {
          for (std::uint64_t address = std::max<std::uint64_t>(seen.start, range.start);
               address < std::min<std::uint64_t>(seen.end, range.end); address += kPageSize) {
            present.set(segment.page_at(address).value - first_page_);
          }
        });
  }
  return present;
}

// A huge page of which a part was dropped keeps all of its memory until it is split, which the kernel puts off until
// memory is short. To call one of the pages that are left cold splits it at once (Linux 5.4, mm/madvise.c,
// madvise_cold_or_pageout_pte_range) and frees what was dropped: 0.25 ms for 2 MiB. A page beside one that was dropped
// is looked for, so that nothing need be known of where huge pages are.
void DemotionJob::split_what_is_left() const {
  if (!space_->pidfd.valid()) return;
  const auto table = space_->segments();
  std::vector<AddressRange> beside;
  const auto add = [&](std::size_t slot) {
    if (slot >= kPagesPerRegion || committed_.test(slot)) return;
    const PageState state = object_->map->load(page(slot)).state();
    const bool there = state == PageState::kResident || state == PageState::kResidentClean;
    const Segment* segment = there ? table->showing(*object_, page(slot)) : nullptr;
    if (segment == nullptr) return;
    const std::uint64_t address = segment->address_of(page(slot));
    beside.push_back({address, address + kPageSize});
  };
  for (const Run& run : runs_) {
    add(run.first - 1);  // wraps around to none before the first
    add(run.first + run.count);
  }
  kernel::advise_process_memory(space_->pidfd.get(), beside, MADV_COLD);
}

// A page that was not dropped may be called far all the same: it is protected, so its content is the stored one, and
// whoever touches it finds it. Pages seen present go back to resident, so that the account stays true.
void DemotionJob::drop_completed(std::size_t index, int /*error: presence says it better*/) {
  Run& run = runs_[index];
  if (run.done) return;
  run.done = true;
  ++runs_done_;
  if (run.in_flight) {
    --in_flight_;
    ++drop_steps_;
  }
  if (run.ledger_id.number != 0) loop_->post([space = space_, id = run.ledger_id] { space->ledger.finished(id); });
  const auto present = still_present(run);
  const std::uint32_t dropped_before = dropped_;
  {
    PageMap::Changes changes(*object_->map);
    for (std::size_t slot = run.first; slot < run.first + run.count; ++slot)
      if (committed_.test(slot)) settle_dropped(slot, present.test(slot), changes);
  }
  vm_->counters.demoted_pages.fetch_add(dropped_ - dropped_before, std::memory_order_relaxed);
  if (!object_->shared && all_drops_done()) split_what_is_left();
}

// dropping -> far, or what became of it meanwhile. A page that was far before is far again, wherever it is.
void DemotionJob::settle_dropped(std::size_t slot, bool present, PageMap::Changes& changes) {
  const bool was_far = bridges_.test(slot);
  for (PageEntry entry = object_->map->load(page(slot)); entry.state() == PageState::kDropping;) {
    const bool stays = present && !was_far && !entry.discarded();
    const bool frees_copy = entry.holds_location() && (entry.discarded() || stays);
    const pool::Location location = entry.location();
    PageEntry next = entry.is_value() ? PageEntry::value(PageState::kFar, entry.pattern())
                                      : PageEntry::stored(PageState::kFar, location);
    next = next.with_age(entry.age());
    if (entry.discarded() || weightless_.test(slot)) next = PageEntry::plain(PageState::kReleased);
    if (stays) next = PageEntry::plain(PageState::kResident).with_held().with_age(entry.age());
    if (!changes.exchange(page(slot), entry, next)) continue;
    if (frees_copy) vm_->store->release(std::span(&location, 1));
    if (stays) {
      protect(slot, 1, false);
      object_->map->exchange(page(slot), next, next.without_held());
    } else if (next.state() == PageState::kFar && !was_far) {
      ++dropped_;
    }
    return;
  }
}

}  // namespace tidepool::daemon
