// Far pages on their way home: demand, prefetch and restore go the same way.
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "daemon/pager/fault_service.h"

namespace tidepool::daemon {
namespace {

constexpr auto kRecallPause = std::chrono::milliseconds(1);
// An address space that has been changing for longer (the process is stopped, or has no processor) is not watched
// closely.
constexpr auto kSoonFree = std::chrono::milliseconds(50);
// Operations of demand that may be held while their address spaces change: most are left for the others.
constexpr std::size_t kMostAtHand = shape_of(FetchReason::kDemand).ops / 4;

void fill_pattern(std::byte* page, std::uint32_t pattern) {
  std::uint64_t twice = (static_cast<std::uint64_t>(pattern) << 32) | pattern;
  for (std::uint64_t at = 0; at < kPageSize; at += sizeof twice) std::memcpy(page + at, &twice, sizeof twice);
}

}  // namespace

void FaultService::make_ops(FetchReason reason, std::byte* buffers) {
  const FetchShape& shape = shape_of(reason);
  for (std::size_t i = 0; i < shape.ops; ++i) {
    auto op = std::make_unique<FetchOp>();
    op->reason = reason;
    op->items.resize(shape.pages);
    op->buffer = buffers + i * shape.pages * kPageSize;
    op->batch.done = [this, raw = op.get()](pool::ReadBatch&) {
      if (std::this_thread::get_id() != owner_) {
        loop_.post([this, raw] { finish(raw); });
      } else if (raw->submitting) {
        raw->completed = true;
      } else {
        finish(raw);
      }
    };
    free_ops(reason).push_back(op.get());
    ops_.push_back(std::move(op));
  }
}

FetchOp* FaultService::acquire(PagedVm& vm, FetchReason reason) {
  auto& free = free_ops(reason);
  if (free.empty() || !may_fetch_more(vm, reason)) return nullptr;
  ++vm.fetches_under_way[static_cast<std::size_t>(reason)];
  FetchOp* op = free.back();
  free.pop_back();
  return op;
}

void FaultService::recycle(FetchOp* op) {
  --op->vm->fetches_under_way[static_cast<std::size_t>(op->reason)];
  op->clear();
  free_ops(op->reason).push_back(op);
}

bool FaultService::all_free() const {
  std::size_t free = 0;
  for (const auto& of_reason : free_ops_) free += of_reason.size();
  return free == ops_.size();
}

void FaultService::recall(const std::function<void()>& meanwhile) {
  for (const auto& op : ops_) {
    if (op->vm != nullptr) op->vm->store->cancel(op->batch);
  }
  while (!all_free()) {
    for (const auto& op : ops_) {
      if (op->vm != nullptr) op->vm->store->take_answers();
    }
    for (; !at_hand_.empty(); at_hand_.pop_back()) give_up(at_hand_.back(), Nanoseconds{0});
    meanwhile();
    std::this_thread::sleep_for(kRecallPause);
  }
}

// Takes one more page into the operation. False when the page is no longer far.
bool FaultService::begin_page(FetchOp& op, PageIndex page, PageEntry entry, PageMap::Changes& changes) {
  if (entry.state() != PageState::kFar) return false;
  PageEntry fetching = entry.with_state(PageState::kFetching);
  if (!changes.exchange(page, entry, fetching)) return false;
  const std::size_t index = op.count++;
  pool::ReadItem& item = op.items[index];
  item.buffer = op.buffer + index * kPageSize;
  item.location = pool::kNoLocation;
  item.page = nullptr;
  item.status = pool::PageStatus::kPending;
  if (entry.is_value()) {
    if (entry.pattern() == 0) {
      item.page = pattern_pages_.data();
    } else {
      fill_pattern(item.buffer, entry.pattern());
      item.page = item.buffer;
    }
    item.status = pool::PageStatus::kOk;
  } else {
    item.location = entry.location();
  }
  return true;
}

// Asks the store for every page of the operation that has not been answered. Values among them need no reading, so runs
// of locations between them are submitted as one batch only when there are no values; else the batch is compacted to
// the front.
void FaultService::submit(FetchOp* op) {
  const auto pending = [](const pool::ReadItem& item) { return item.status == pool::PageStatus::kPending; };
  const auto items = std::span(op->items).first(op->count);
  const auto first = std::find_if(items.begin(), items.end(), pending);
  if (first == items.end()) {
    return finish(op);
  }
  const auto behind = std::find_if_not(first, items.end(), pending);
  op->batch.items = std::span(first, behind);
  op->batch.priority = op->reason == FetchReason::kDemand ? pool::Priority::kDemand : pool::Priority::kPrefetch;
  op->completed = false;
  op->submitting = true;
  op->vm->store->submit_read(op->batch);
  op->submitting = false;
  // Stores in local memory have answered by now; others are asked later, or come back through the mailbox.
  if (op->completed) finish(op);
}

void FaultService::finish(FetchOp* op) {
  // A batch covered one stretch without values; there may be another.
  for (std::size_t i = op->installed; i < op->count; ++i) {
    if (op->items[i].status == pool::PageStatus::kPending) return submit(op);
  }
  while (op->installed < op->count) {
    switch (install_next(*op)) {
      case Step::kAdvanced:
        continue;
      case Step::kBusy:
        // What is at hand is not asked for again: a store may take longer than the address space is ever left alone.
        if (op->fault.state == nullptr || at_hand_.size() >= kMostAtHand) return give_up(op, Nanoseconds{0});
        return at_hand_.push_back(op);
      case Step::kStarved:
        return give_up(op, kRetryStarved);
      case Step::kSpaceGone:
        op->space->alive = false;
        while (op->installed < op->count) put_back(*op, op->installed++);
        break;
    }
  }
  const std::shared_ptr<PagedVm> vm = op->vm;
  if (op->left_out && op->fault.state != nullptr) {
    defer(op->fault);
  } else if (op->reason == FetchReason::kDemand) {
    account_demand(*op);
  }
  recycle(op);
  serve_parked(*vm);
}

bool FaultService::has_demand_held_up() const {
  if (at_hand_.empty()) return false;
  const MonoTime begun = clock_.now() - kSoonFree;
  return std::ranges::any_of(at_hand_, [&](const FetchOp* op) { return op->fault.since > begun; });
}

void FaultService::retry_at_hand() {
  if (at_hand_.empty()) return;
  retrying_at_hand_.swap(at_hand_);
  for (FetchOp* const op : retrying_at_hand_) finish(op);
  retrying_at_hand_.clear();
}

// What cannot go home now stays far, and the fault comes again: no operation is held for want of memory, so that a VM
// that has none, however many of its threads wait, takes nothing from its neighbours. A restore sweeps again.
void FaultService::give_up(FetchOp* op, Nanoseconds pause) {
  while (op->installed < op->count) put_back(*op, op->installed++);
  const std::shared_ptr<PagedVm> vm = op->vm;
  if (op->fault.state != nullptr) defer(op->fault, pause);
  recycle(op);
  serve_parked(*vm);
}

// The next page was given back, unmapped or moved meanwhile: whoever waits at its address gets what is there now.
FaultService::Step FaultService::leave_out(FetchOp& op) {
  put_back(op, op.installed++);
  op.left_out = true;
  return Step::kAdvanced;
}

void FaultService::account_demand(FetchOp& op) {
  PagerCounters& counters = op.vm->counters;
  const Nanoseconds waited = clock_.now() - op.fault.since;
  op.vm->fault_latency.record(waited);
  op.vm->prefetch.fault_took(waited);
  counters.stall_ns.fetch_add(static_cast<std::uint64_t>(waited.count()), std::memory_order_relaxed);
  counters.faults_far.fetch_add(1, std::memory_order_relaxed);
  if (int away = kStoreAway; op.vm->blocked_by.load(std::memory_order_relaxed) == away)
    op.vm->blocked_by.compare_exchange_strong(away, 0);
  increment_saturating(op.object->map->region(PageMap::region_of(op.first)).refaults);
}

// Handles the page at the front of what is left, together with as many neighbours as can go in one call.
FaultService::Step FaultService::install_next(FetchOp& op) {
  const std::size_t index = op.installed;
  pool::ReadItem& item = op.items[index];
  const PageIndex page{op.first.value + index};
  const PageEntry entry = op.object->map->load(page);
  if (entry.discarded() || item.status == pool::PageStatus::kCancelled) return leave_out(op);
  if (item.status == pool::PageStatus::kUnavailable) {
    if (op.reason == FetchReason::kDemand) {
      op.vm->counters.store_away.fetch_add(1, std::memory_order_relaxed);
      int nothing = 0;  // a worse reason stays
      op.vm->blocked_by.compare_exchange_strong(nothing, kStoreAway);
      return Step::kStarved;
    }
    put_back(op, op.installed++);
    return Step::kAdvanced;
  }
  if (item.status != pool::PageStatus::kOk) {
    // Wrong bytes must not reach the guest. Whoever waits for the page goes on waiting; the hook stops the VM.
    put_back(op, op.installed++);
    op.vm->counters.integrity_failures.fetch_add(1, std::memory_order_relaxed);
    op.vm->blocked_by = EBADMSG;
    if (hooks_.integrity_failure) hooks_.integrity_failure(*op.vm, *op.object, page);
    return Step::kAdvanced;
  }
  const Segment* segment = op.space->own_segments().showing(*op.object, page);
  if (segment == nullptr) {
    if (op.object->shared) return install_into_file(op, segment, index);
    return leave_out(op);
  }
  // A run: pages that follow each other in the address space and, as they are, in memory; else they are copied side by
  // side. One that the guest gave back since it was asked for ends it: its old content must not return.
  std::size_t count = 1;
  bool adjacent = true;
  while (index + count < op.count && op.items[index + count].status == pool::PageStatus::kOk &&
         segment->page_at(segment->addresses.end) > PageIndex{page.value + count} &&
         !op.object->map->load(PageIndex{page.value + count}).discarded()) {
    adjacent = adjacent && op.items[index + count].page == item.page + count * kPageSize;
    ++count;
  }
  const std::byte* source = item.page;
  if (!adjacent) {
    for (std::size_t i = 0; i < count; ++i) {
      std::byte* to = op.buffer + (index + i) * kPageSize;
      if (op.items[index + i].page != to) std::memcpy(to, op.items[index + i].page, kPageSize);
      op.items[index + i].page = to;
    }
    source = op.items[index].page;
  }
  const bool clean = op.reason == FetchReason::kDemand && !op.write && !op.object->shared && !op.object->forked &&
                     entry.holds_location() && op.vm->keep_clean_copies.load(std::memory_order_relaxed);
  const std::uint64_t address = segment->address_of(page);
  const bool fits = op.vm->group_room.take(count, op.reason == FetchReason::kDemand);
  const kernel::InstallOutcome outcome =
      fits ? op.space->userfaultfd.copy(address, source, count * kPageSize, clean) : kernel::InstallOutcome{0, ENOMEM};
  const std::size_t done = outcome.done / kPageSize;
  settle(op, done, clean);
  switch (outcome.error) {
    case 0:
      return Step::kAdvanced;
    case EAGAIN:
      return done > 0 ? Step::kAdvanced : Step::kBusy;
    case EEXIST: {
      if (op.object->shared) return install_into_file(op, segment, op.installed);
      // A forked child still had the parent's page: same content, so only a protection may be in the way.
      const AddressRange range{segment->address_of(PageIndex{op.first.value + op.installed}),
                               segment->address_of(PageIndex{op.first.value + op.installed + 1})};
      op.space->userfaultfd.write_protect(range, false);
      op.space->userfaultfd.wake(range);
      settle(op, 1, false);
      return Step::kAdvanced;
    }
    case ENOMEM:
      // Nothing goes for the sake of what nobody waits for.
      if (op.reason != FetchReason::kDemand) return Step::kStarved;
      op.vm->counters.out_of_memory.fetch_add(1, std::memory_order_relaxed);
      if (hooks_.out_of_memory) hooks_.out_of_memory(*op.vm);
      return Step::kStarved;
    case ESRCH:
      return Step::kSpaceGone;
    default:  // ENOENT: unmapped; its event will say so
      op.space->userfaultfd.wake({address, address + kPageSize});
      put_back(op, op.installed++);
      return Step::kAdvanced;
  }
}

// The page cache already holds something at this place (a foreign reader filled the hole), or no address space shows
// the page: write the content through the file, then map it. A bare wake would leave zeros in place of the page.
FaultService::Step FaultService::install_into_file(FetchOp& op, const Segment* segment, std::size_t index) {
  const PageIndex page{op.first.value + index};
  std::uint64_t offset = 0;
  if (segment != nullptr) {
    offset = segment->offset_of(page);
  } else {
    bool known = false;
    for (const FileExtent& extent : op.object->extents) {
      if (page.value < extent.first_page || page.value >= extent.first_page + extent.pages) continue;
      offset = extent.file_offset + ((page.value - extent.first_page) << kPageShift);
      known = true;
    }
    if (!known) return leave_out(op);
  }
  const ssize_t written = ::pwrite(op.object->file.get(), op.items[index].page, kPageSize, static_cast<off_t>(offset));
  if (written != static_cast<ssize_t>(kPageSize)) {
    op.vm->counters.out_of_memory.fetch_add(1, std::memory_order_relaxed);
    return Step::kStarved;
  }
  if (segment != nullptr) {
    const std::uint64_t address = segment->address_of(page);
    const kernel::InstallOutcome outcome = op.space->userfaultfd.map_cached(address, kPageSize, false);
    if (outcome.error == EAGAIN) return Step::kBusy;
    if (outcome.error == ESRCH) return Step::kSpaceGone;
    if (outcome.error != 0) op.space->userfaultfd.wake({address, address + kPageSize});
  }
  settle(op, 1, false);
  return Step::kAdvanced;
}

// The next pages of the operation are home.
void FaultService::settle(FetchOp& op, std::size_t pages, bool keep_copies) {
  PageMap::Changes changes(*op.object->map);
  const MonoTime now = clock_.now();
  for (const std::size_t end = op.installed + pages; op.installed < end; ++op.installed) {
    const PageIndex page{op.first.value + op.installed};
    PageEntry entry = op.object->map->load(page);
    const PageAge age =
        op.reason == FetchReason::kDemand ? entry.age().returned(now) : PageAge::at(now, entry.interval());
    const PageEntry home = (keep_copies ? PageEntry::stored(PageState::kResidentClean, entry.location())
                                        : PageEntry::plain(PageState::kResident))
                               .with_age(age);
    const bool free_copy = !keep_copies && entry.holds_location();
    const pool::Location location = entry.location();
    if (changes.exchange(page, entry, home) && free_copy) release_later(op.vm->store, location);
  }
  PagerCounters& counters = op.vm->counters;
  auto& counter = op.reason == FetchReason::kDemand     ? counters.promoted_demand
                  : op.reason == FetchReason::kPrefetch ? counters.promoted_prefetch
                                                        : counters.promoted_restore;
  counter.fetch_add(pages, std::memory_order_relaxed);
}

// The page stays far, unless the guest gave it back meanwhile.
void FaultService::put_back(FetchOp& op, std::size_t index) {
  const PageIndex page{op.first.value + index};
  PageEntry entry = op.object->map->load(page);
  if (entry.discarded()) {
    const bool free_copy = entry.holds_location();
    const pool::Location location = entry.location();
    if (op.object->map->exchange(page, entry, PageEntry::plain(PageState::kReleased)) && free_copy) {
      release_later(op.vm->store, location);
    }
    return;
  }
  op.object->map->exchange(page, entry, entry.with_state(PageState::kFar));
}

// Gathers the next far pages of [from, end), up to one operation, that follow each other.
FaultService::Run FaultService::start_run(const std::shared_ptr<PagedVm>& vm,
                                          const std::shared_ptr<AddressSpace>& space, MemoryObject& object,
                                          std::uint64_t from, std::uint64_t end, FetchReason reason) {
  PageMap& map = *object.map;
  // What is left far to learn from is no business of a restore.
  const auto left_out = [&](std::uint64_t page) {
    return reason == FetchReason::kPrefetch && vm->prefetch.is_control(object.number, page);
  };
  while (from < end) {
    const std::uint64_t region_end = (from / kPagesPerRegion + 1) * kPagesPerRegion;
    if (map.region(from / kPagesPerRegion).far.load(std::memory_order_relaxed) == 0) {
      from = region_end;
      continue;
    }
    if (map.load(PageIndex{from}).state() == PageState::kFar && !left_out(from)) break;
    ++from;
  }
  if (from >= end) return {.next = end, .at_end = true};
  FetchOp* op = acquire(*vm, reason);
  if (op == nullptr) return {.next = from};  // everything is busy: come back
  op->vm = vm;
  op->space = space;
  op->object = &object;
  op->first = PageIndex{from};
  {
    PageMap::Changes changes(map);
    while (from < end && op->count < op->items.size() && !left_out(from) &&
           begin_page(*op, PageIndex{from}, map.load(PageIndex{from}), changes))
      ++from;
  }
  const std::size_t pages = op->count;
  if (pages == 0) {
    recycle(op);
    return {.next = from + 1};
  }
  submit(op);
  return {.next = from, .pages = pages};
}

}  // namespace tidepool::daemon
