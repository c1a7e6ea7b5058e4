#include "daemon/pager/demotion_job.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>

#include "kmod-interfaces/process_memory.h"

namespace tidepool::daemon {
namespace {

// The pattern when the whole page repeats one 32-bit word.
std::optional<std::uint32_t> same_filled(const std::byte* page) {
  std::uint64_t first;
  std::memcpy(&first, page, sizeof first);
  if (static_cast<std::uint32_t>(first) != static_cast<std::uint32_t>(first >> 32)) return std::nullopt;
  // Comparing the page with itself, shifted by one word, says whether all words are equal.
  if (std::memcmp(page, page + sizeof first, kPageSize - sizeof first) != 0) return std::nullopt;
  return static_cast<std::uint32_t>(first);
}

constexpr std::size_t kPagesPerUnit = kPagesPerRegion / 32;  // of RegionToDemote::units

constexpr std::size_t kIncompressibleParts = 16;
constexpr int kProtectAttempts = 50;
constexpr auto kProtectPause = std::chrono::microseconds(50);

}  // namespace

DemotionJob::DemotionJob(std::shared_ptr<PagedVm> vm, FaultLoop& loop, const RegionToDemote& what, std::uint16_t ticket,
                         std::uint64_t cookie)
    : vm_(std::move(vm)),
      loop_(&loop),
      object_(what.object),
      first_page_(what.region * kPagesPerRegion),
      units_(what.units),
      spares_(what.spares),
      only_(what.only),
      ticket_(ticket),
      cookie_(cookie) {
  if (object_->shared) punch_.emplace(object_->file.get());
  for (Stretch& stretch : stretches_) {
    stretch.batch.priority = pool::Priority::kWriteBack;
    stretch.batch.done = [&stored = stretch.stored](pool::WriteBatch&) {
      stored.store(true, std::memory_order_release);
    };
  }
}

bool DemotionJob::any(const Slots& set, SlotRange range) {
  for (std::size_t slot = range.first; slot < range.end; ++slot) {
    if (set.test(slot)) return true;
  }
  return false;
}

// Which pages the process has, as the kernel says: only those are read (reading an absent page would block us in our
// own userfaultfd). A 2 MiB page of which the region shows only a part is better left alone: dropping a part frees
// nothing.
DemotionJob::Presence DemotionJob::present(SlotRange within, HugePages huge_pages) const {
  Presence presence;
  const auto table = space_->segments();
  for (const Segment& segment : table->all()) {
    if (segment.object != object_) continue;
    const std::uint64_t from = std::max(first_page_ + within.first, segment.first.value);
    const std::uint64_t to = std::min(first_page_ + within.end, segment.first.value + segment.pages());
    if (from >= to) continue;
    const AddressRange range{segment.address_of(PageIndex{from}), segment.address_of(PageIndex{to})};
    const auto looked = space_->pagemap.for_each(range, kernel::uapi::kPageIsPresent, [&](const auto& seen) {
      const bool huge = huge_pages != HugePages::kAsTheyAre && (seen.categories & kernel::uapi::kPageIsHuge) != 0;
      if (huge && huge_pages == HugePages::kNone) return;
      if (huge && (seen.start % kHugePageSize != 0 || (seen.end - seen.start) % kHugePageSize != 0)) return;
      for (std::uint64_t address = seen.start; address < seen.end; address += kPageSize) {
        const std::uint64_t slot = segment.page_at(address).value - first_page_;
        presence.there.set(slot);
        if ((seen.categories & kernel::uapi::kPageIsPfnZero) != 0) presence.zero_page.set(slot);
      }
    });
    if (!looked) return {};
  }
  return presence;
}

bool DemotionJob::freeze(MonoTime now) {
  frozen_at = now;
  if (!object_->shared && vm_->keeps_private()) return false;
  epoch_ = vm_->spaces_epoch.load(std::memory_order_seq_cst);
  const bool whole = units_ == ~std::uint32_t{0};
  Slots candidates;
  candidates.set();
  for (const auto& space : vm_->spaces()) {
    const auto table = space->segments();
    const bool shows =
        std::any_of(table->all().begin(), table->all().end(), [&](const Segment& s) { return s.object == object_; });
    if (!shows || !space->alive) continue;
    space_ = space;
    if (!object_->shared) candidates = present(kWholeRegion, whole ? HugePages::kOnlyWhole : HugePages::kNone).there;
    break;
  }
  if (space_ == nullptr) return false;
  for (std::size_t slot = 0; !whole && slot < kPagesPerRegion; ++slot) {
    if ((units_ >> (slot / kPagesPerUnit) & 1) == 0) candidates.reset(slot);
  }
  if (only_ != nullptr) candidates &= *only_;
  claim(candidates, now);
  pages_ = frozen_.count() + clean_.count();
  // Not protected in every address space is not frozen at all.
  for_runs(frozen_, kWholeRegion, [&](std::size_t first, std::size_t count) {
    if (protect(first, count, true)) return;
    for (std::size_t slot = first; slot < first + count; ++slot) give_up(slot);
  });
  return frozen_.any() || clean_.any();
}

// resident -> demoting, for those that are not spared.
void DemotionJob::claim(const Slots& candidates, MonoTime now) {
  PageMap::Changes changes(*object_->map);
  const std::uint64_t limit = object_->map->pages().value;
  const Nanoseconds hold = vm_->hold.load(std::memory_order_relaxed);
  const policy::AgeSpread spread = spares_ ? spread_of_ages(now) : policy::AgeSpread{};
  for (std::size_t slot = 0; slot < kPagesPerRegion && page(slot).value < limit; ++slot) {
    if (!candidates.test(slot)) continue;
    PageEntry entry = object_->map->load(page(slot));
    if (entry.state() != PageState::kResident && entry.state() != PageState::kResidentClean) continue;
    if (entry.held()) continue;
    // What did not compress may have been written since: a part of it is tried again each time.
    const bool hopeless = entry.incompressible() && slot % kIncompressibleParts != ticket_ % kIncompressibleParts;
    if (hopeless || (spread.stands_out(entry.interval()) && entry.age().spared(now, hold))) {
      ++spared_pages_;
      continue;
    }
    intervals_[slot] = static_cast<std::uint8_t>(entry.interval());
    if (entry.state() == PageState::kResidentClean) {
      // Protected since it came home, and its copy is still there: no need to write it again.
      clean_.set(slot);
    } else if (changes.exchange(page(slot), entry, PageEntry::demoting(ticket_, intervals_[slot]))) {
      frozen_.set(slot);
    }
  }
}

policy::AgeSpread DemotionJob::spread_of_ages(MonoTime now) const {
  policy::AgeSpread spread;
  const std::uint64_t limit = object_->map->pages().value;
  for (std::size_t slot = 0; slot < kPagesPerRegion && page(slot).value < limit; ++slot) {
    const PageEntry entry = object_->map->load(page(slot));
    spread.add(entry.age().likely_interval(now, entry.state() == PageState::kFar));
  }
  return spread;
}

bool DemotionJob::protect(std::size_t first, std::size_t count, bool on) const {
  bool everywhere = true;
  for (const auto& space : vm_->spaces()) {
    if (!space->alive) continue;
    const auto table = space->segments();
    for (const Segment& segment : table->all()) {
      if (segment.object != object_) continue;
      const std::uint64_t from = std::max(first_page_ + first, segment.first.value);
      const std::uint64_t to = std::min(first_page_ + first + count, segment.first.value + segment.pages());
      if (from >= to) continue;
      // EAGAIN while an event of this address space is unread: the fault loop is about to read it.
      int error = EAGAIN;
      for (int attempt = 0; attempt < kProtectAttempts && error == EAGAIN; ++attempt) {
        if (attempt > 0) std::this_thread::sleep_for(kProtectPause);
        // Whoever waits on the protection is answered by the fault loop, which finds the page resident.
        error =
            space->userfaultfd.write_protect({segment.address_of(PageIndex{from}), segment.address_of(PageIndex{to})},
                                             on, kernel::Userfaultfd::Waiters::kLeave);
      }
      // A process that is gone can write to nothing. But where a part of the range is not registered (ENOENT),
      // something else may be mapped there by now, which nobody protects and which is nobody's to drop.
      everywhere = everywhere && (error == 0 || error == ESRCH);
    }
  }
  return everywhere;
}

// Gives one page back to its owner, as resident, if it is still ours.
void DemotionJob::thaw(std::size_t slot, PageEntry to) {
  PageEntry entry = object_->map->load(page(slot));
  frozen_.reset(slot);
  if (entry.state() != PageState::kDemoting || entry.ticket() != ticket_) return;
  to = to.with_age(age_of(slot, frozen_at));
  // Held while the protection goes, so that no other demotion freezes it in between.
  if (!object_->map->exchange(page(slot), entry, to.with_held())) return;
  protect(slot, 1, false);
  entry = to.with_held();
  object_->map->exchange(page(slot), entry, to);
}

bool DemotionJob::read_run(std::size_t first, std::size_t count, std::byte* to) const {
  const auto table = space_->segments();
  std::size_t done = 0;
  while (done < count) {
    const Segment* segment = table->showing(*object_, page(first + done));
    if (segment == nullptr) return false;
    const std::size_t in_segment =
        std::min<std::uint64_t>(count - done, segment->first.value + segment->pages() - page(first + done).value);
    const std::uint64_t length = in_segment * kPageSize;
    std::byte* target = to + done * kPageSize;
    const std::int64_t got =
        object_->shared
            ? ::pread(object_->file.get(), target, length, static_cast<off_t>(segment->offset_of(page(first + done))))
            : kernel::read_process_memory(space_->pid, segment->address_of(page(first + done)), target, length);
    if (got != static_cast<std::int64_t>(length)) return false;
    done += in_segment;
  }
  return true;
}

void DemotionJob::discard_buffer(std::size_t slot) {
  if (items_.empty()) return;
  if (items_[slot].buffer != nullptr) vm_->store->unstage(std::span(&items_[slot], 1));
  items_[slot] = {};
}

// The page stays with its owner, and its copy, if the store has one, is not wanted.
void DemotionJob::give_up(std::size_t slot, PageEntry to) {
  if (!items_.empty()) {
    if (items_[slot].status == pool::PageStatus::kOk) vm_->store->release(std::span(&items_[slot].location, 1));
    items_[slot] = {};
  }
  thaw(slot, to);
}

void DemotionJob::forget_disturbed(SlotRange range) {
  for (std::size_t slot = range.first; slot < range.end; ++slot) {
    if (!frozen_.test(slot)) continue;
    const PageEntry entry = object_->map->load(page(slot));
    if (entry.state() != PageState::kDemoting || entry.ticket() != ticket_) frozen_.reset(slot);
  }
  if (object_->shared || !any(frozen_, range)) return;
  // Gone since the freeze: discarded, and about to be announced.
  const Presence presence = present(range, HugePages::kAsTheyAre);
  weightless_ |= presence.zero_page;
  for (std::size_t slot = range.first; slot < range.end; ++slot) {
    if (frozen_.test(slot) && !presence.there.test(slot)) give_up(slot);
  }
}

void DemotionJob::stage_and_read(SlotRange range, std::byte* copies) {
  for_runs(frozen_, range, [&](std::size_t first, std::size_t count) {
    const auto items = std::span(items_).subspan(first, count);
    vm_->store->stage(items);
    for (std::size_t i = 0; i < count;) {
      // Stretches of adjacent memory are read in one go: the store's own, or ours.
      const bool lent = items[i].buffer != nullptr;
      if (!lent && copies == nullptr) {
        vm_->counters.store_full.fetch_add(1, std::memory_order_relaxed);
        ++spared_pages_;
        give_up(first + i++);
        continue;
      }
      if (!lent) items[i].buffer = copies + (first + i) * kPageSize;
      std::size_t length = 1;
      while (i + length < count && (items[i + length].buffer != nullptr) == lent &&
             (!lent || items[i + length].buffer == items[i].buffer + length * kPageSize)) {
        if (!lent) items[i + length].buffer = copies + (first + i + length) * kPageSize;
        ++length;
      }
      if (!read_run(first + i, length, items[i].buffer)) {
        for (std::size_t k = i; k < i + length; ++k) {
          discard_buffer(first + k);
          give_up(first + k);
        }
      }
      i += length;
    }
  });
}

void DemotionJob::copy_and_submit(std::size_t index, std::byte* copies) {
  const SlotRange range = range_of(index);
  forget_disturbed(range);
  if (table_ == nullptr) table_ = space_->segments();
  stage_and_read(range, copies);
  Stretch& stretch = stretches_[index];
  stretch.first_submitted = submitted_.size();
  for (std::size_t slot = range.first; slot < range.end; ++slot) {
    if (!frozen_.test(slot)) continue;
    if (const auto pattern = same_filled(items_[slot].buffer)) {
      patterns_[slot] = *pattern;
      values_.set(slot);
      discard_buffer(slot);
      continue;
    }
    submitted_.push_back(items_[slot]);
    submitted_slots_.push_back(static_cast<std::uint16_t>(slot));
  }
  stretch.end_submitted = submitted_.size();
  stretch.batch.items = std::span(submitted_).subspan(stretch.first_submitted);
  if (stretch.batch.items.empty()) {
    stretch.stored = true;
  } else {
    vm_->store->submit_write(stretch.batch);
  }
}

bool DemotionJob::store(std::byte* copies, std::byte* again) {
  // Only now: a job that waits for its grace to pass is small.
  if (items_.empty()) {
    patterns_.resize(kPagesPerRegion);
    items_.resize(kPagesPerRegion);
    submitted_.reserve(kPagesPerRegion);
    submitted_slots_.reserve(kPagesPerRegion);
  }
  const auto settle_answered = [&] {
    while (settled_ < copied_ && stretches_[settled_].stored.load(std::memory_order_acquire)) settle(settled_++, again);
  };
  settle_answered();
  while (copied_ < kStretches) {
    copy_and_submit(copied_++, copies);
    settle_answered();
  }
  if (settled_ < kStretches) return false;
  if (object_->shared) return true;
  // Private memory goes in pieces as large as possible: each costs a round trip through the process.
  bridge_gaps();
  add_runs(frozen_ | clean_ | bridges_, kWholeRegion);
  return true;
}

bool DemotionJob::recall() {
  for (std::size_t i = settled_; i < copied_ && !recalled_; ++i) vm_->store->cancel(stretches_[i].batch);
  recalled_ = true;
  while (settled_ < copied_ && stretches_[settled_].stored.load(std::memory_order_acquire)) {
    take_answers(stretches_[settled_]);
    return_places(stretches_[settled_++]);
  }
  if (settled_ < copied_) return false;
  cancel();
  return true;
}

void DemotionJob::take_answers(const Stretch& stretch) {
  for (std::size_t i = stretch.first_submitted; i < stretch.end_submitted; ++i) {
    const std::size_t slot = submitted_slots_[i];
    items_[slot] = submitted_[i];
    const pool::PageStatus status = submitted_[i].status;
    if (status == pool::PageStatus::kOk) continue;
    ++spared_pages_;
    if (status == pool::PageStatus::kFull) vm_->counters.store_full.fetch_add(1, std::memory_order_relaxed);
    PageEntry back = PageEntry::plain(PageState::kResident);
    if (status == pool::PageStatus::kIncompressible) back = back.with_incompressible();
    give_up(slot, back);
  }
}

// What the store lent for pages that it has answered.
void DemotionJob::return_places(const Stretch& stretch) {
  if (!vm_->store->lends_places()) return;
  const auto submitted = std::span(submitted_).subspan(stretch.first_submitted);
  const std::size_t count = stretch.end_submitted - stretch.first_submitted;
  for (std::size_t i = 0; i < count; ++i) items_[submitted_slots_[stretch.first_submitted + i]].buffer = nullptr;
  vm_->store->unstage(submitted.first(count));
}

// A child that was forked since the freeze may have pages that the freeze did not reach: protect them now, before the
// second reading.
void DemotionJob::protect_in_new_spaces() {
  const std::uint32_t epoch = vm_->spaces_epoch.load(std::memory_order_seq_cst);
  if (!object_->shared || epoch == epoch_) return;
  epoch_ = epoch;
  for_runs(frozen_, kWholeRegion, [&](std::size_t first, std::size_t count) {
    if (protect(first, count, true)) return;
    for (std::size_t slot = first; slot < first + count; ++slot) give_up(slot);
  });
}

// Protection stops every CPU, but not a device that was given the page before: what it wrote since shows here.
void DemotionJob::compare(SlotRange range, std::byte* again) {
  for_runs(frozen_, range, [&](std::size_t first, std::size_t count) {
    const bool read = read_run(first, count, again);
    for (std::size_t slot = first; slot < first + count; ++slot) {
      const std::byte* second = again + (slot - first) * kPageSize;
      const bool unchanged = read && (values_.test(slot) ? same_filled(second) == patterns_[slot]
                                                         : std::memcmp(second, items_[slot].buffer, kPageSize) == 0);
      if (unchanged) continue;
      if (read) vm_->counters.verify_failures.fetch_add(1, std::memory_order_relaxed);
      give_up(slot);
    }
  });
}

void DemotionJob::settle(std::size_t index, std::byte* again) {
  const SlotRange range = range_of(index);
  take_answers(stretches_[index]);
  protect_in_new_spaces();
  compare(range, again);
  return_places(stretches_[index]);
  if (object_->shared) {
    // Commits in the moment of its drop, which is now if nobody is in the way.
    add_runs(frozen_ | clean_, range);
    start_drops();
  }
}

// False when it has been written since it came home.
bool DemotionJob::commit_clean(std::size_t slot) {
  PageEntry entry = object_->map->load(page(slot));
  if (entry.state() != PageState::kResidentClean ||
      !object_->map->exchange(page(slot), entry,
                              entry.with_state(PageState::kDropping).with_age(age_of(slot, frozen_at))))
    return false;
  committed_.set(slot);
  vm_->counters.clean_drops.fetch_add(1, std::memory_order_relaxed);
  return true;
}

PageEntry DemotionJob::dropping_entry(std::size_t slot) const {
  return (values_.test(slot) ? PageEntry::value(PageState::kDropping, patterns_[slot])
                             : PageEntry::stored(PageState::kDropping, items_[slot].location))
      .with_age(age_of(slot, frozen_at));
}

// demoting -> dropping: from here on the stored copy counts. False when the page was disturbed.
bool DemotionJob::commit(std::size_t slot, PageMap::Changes& changes) {
  PageEntry entry = PageEntry::demoting(ticket_, intervals_[slot]);
  if (!changes.exchange(page(slot), entry, dropping_entry(slot))) return false;
  committed_.set(slot);
  return true;
}

void DemotionJob::cancel() {
  for (std::size_t slot = 0; slot < kPagesPerRegion; ++slot) {
    if (frozen_.test(slot)) give_up(slot);
  }
}

void DemotionJob::abandon() {
  for (std::size_t i = 0; i < runs_.size(); ++i) {
    if (!runs_[i].done) drop_completed(i, ECANCELED);
  }
  cancel();
}

}  // namespace tidepool::daemon
