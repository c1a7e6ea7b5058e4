#include "pool/store/mapped_store.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <utility>

#include "pool/store/crc32c.h"
#include "pool/store/in_flight.h"
#include "pool/store/medium.h"
#include "pool/store/slot_set.h"
#include "pool/store/slot_table.h"

namespace tidepool::pool {
namespace {

// What the tables of so many pages can cost at most, taken off the capacity so that `used` never exceeds it.
Bytes tables_of(std::uint64_t pages) {
  const std::uint64_t entries = (pages * 8 + kPageSize - 1) / kPageSize * kPageSize;
  return Bytes{kStoreHeaderBytes + entries} + SlotSet::cost(pages) * 2;
}

// How many pages fit into `capacity` beside their tables.
std::uint64_t pages_within(Bytes capacity) {
  const Bytes fixed = tables_of(0) + Bytes{kPageSize};  // and what rounding up to pages may take
  return saturating_sub(capacity, fixed).value * 64 / (kPageSize * 64 + 8ull * 64 + 17);
}

// Punching costs about 3 us a call and 1 us a page; budgets are counted in that.
constexpr std::uint64_t kPunchCall = 3;
constexpr std::uint64_t kMaintainBudget = 2000;

class MappedStore final : public EmbeddedStore {
 public:
  MappedStore(Medium medium, SlotTable table, SlotSet clean, SlotSet dirty, Bytes most_unreturned)
      : medium_(std::move(medium)),
        table_(std::move(table)),
        clean_(std::move(clean)),
        dirty_(std::move(dirty)),
        most_unreturned_(whole_pages(most_unreturned).value) {}

  std::string kind() const override { return "mapped"; }
  bool uses_host_dram() const override { return medium_.can_punch(); }
  StoreUsage usage() const override;
  void stage(std::span<WriteItem> items) override;
  void unstage(std::span<WriteItem> items) override;
  bool lends_places() const override { return true; }
  void submit_write(WriteBatch& batch) override;
  void submit_read(ReadBatch& batch) override;
  void cancel(WriteBatch& batch) override { in_flight_.cancel(&batch); }
  void cancel(ReadBatch& batch) override { in_flight_.cancel(&batch); }
  Result<> retain(Location location) override { return table_.retain(location); }
  void release(std::span<const Location> locations) override;

  std::vector<std::pair<std::string, int>> held_descriptors() const override {
    return {{"store/data", medium_.fd()}, {"store/table", table_.fd()}};
  }
  Result<> set_capacity(Bytes capacity) override;
  bool maintain() override;
  void for_each_live(const std::function<void(Location, std::uint32_t)>& visit) const override;
  StoreErrors errors() const override;

  // Sorts the entries that another process left into live, free and bad. Before the store is shared.
  void recover();

 private:
  std::byte* memory_of(std::uint64_t slot) const { return medium_.data() + slot * kPageSize; }
  std::span<const std::byte> page_of(std::uint64_t slot) const { return {memory_of(slot), kPageSize}; }

  bool reserve(std::atomic<std::uint64_t>& count, std::uint64_t wanted, std::uint64_t& granted) const;
  SlotRun take_slots(std::uint64_t want);
  SlotRun take_slots_once(std::uint64_t want);
  SlotRun take_clean(std::uint64_t want);
  // Marks the slots as being written and gives their locations.
  void lend(SlotRun run, std::span<WriteItem> items);
  void give_back(std::uint64_t slot, SlotWord staged);
  void take_back(SlotRun run);  // of pages that nobody has any more
  PageStatus write(WriteItem& item);
  PageStatus read(ReadItem& item);
  // Asks the processor for a page that will be looked at next; what is no location is left for others to refuse.
  void fetch_ahead(Location location) const {
    if (well_formed(location) && slot_of(location) < table_.slots()) prefetch(page_of(slot_of(location)));
  }
  bool is_ours(const WriteItem& item, SlotWord& staged) const;
  // At most so many slots, at most at this cost in microseconds.
  void return_to_host(std::uint64_t slots, std::uint64_t budget);
  void recover_slot(std::uint64_t slot);

  Medium medium_;
  SlotTable table_;
  SlotSet clean_;  // read as zeros and, where memory can be given back, cost nothing
  SlotSet dirty_;  // populated, hold a former page
  const std::uint64_t most_unreturned_;
  std::atomic<std::uint64_t> limit_{0};  // slots
  std::atomic<Bytes> capacity_{};
  std::atomic<std::uint64_t> occupied_{0};   // lent or live
  std::atomic<std::uint64_t> populated_{0};  // and dirty
  std::atomic<std::uint64_t> pages_{0};
  // Dirty slots that nobody has wanted since maintain() last looked.
  std::atomic<std::uint64_t> idle_{0};
  std::mutex returning_;  // one thread at a time gives memory back
  InFlight in_flight_;

  std::atomic<std::uint64_t> refused_releases_{0};
  std::atomic<std::uint64_t> refused_writes_{0};
  std::atomic<std::uint64_t> stale_reads_{0};
  std::atomic<std::uint64_t> corrupt_pages_{0};
  std::atomic<std::uint64_t> bad_entries_{0};
};

StoreUsage MappedStore::usage() const {
  StoreUsage usage;
  usage.capacity = capacity_.load();
  usage.process_memory = SlotSet::cost(limit_.load()) * 2;
  usage.metadata = table_.populated() + usage.process_memory;
  usage.used = Bytes{populated_.load() * kPageSize} + usage.metadata;
  usage.set_aside = medium_.set_aside();
  usage.pages = PageCount{pages_.load()};
  return usage;
}

StoreErrors MappedStore::errors() const {
  return {refused_releases_.load(), refused_writes_.load(), stale_reads_.load(), corrupt_pages_.load(),
          bad_entries_.load()};
}

Result<> MappedStore::set_capacity(Bytes capacity) {
  if (capacity == Bytes{})
    return failure(std::errc::invalid_argument, "set capacity of", "page store", "it must not be zero");
  const Bytes most = medium_.size() + tables_of(table_.slots());
  if (capacity > most)
    return failure(std::errc::invalid_argument, "set capacity of", "page store",
                   "its medium holds at most " + std::to_string(medium_.size().value) + " bytes");
  const std::uint64_t pages = std::min(pages_within(capacity), table_.slots());
  if (pages == 0)
    return failure(std::errc::invalid_argument, "set capacity of", "page store", "it holds not even one page");
  capacity_ = capacity;
  limit_ = pages;
  clean_.set_bound(pages);
  return {};
}

// Counts up to `wanted` more against the limit.
bool MappedStore::reserve(std::atomic<std::uint64_t>& count, std::uint64_t wanted, std::uint64_t& granted) const {
  const std::uint64_t limit = limit_.load(std::memory_order_relaxed);
  std::uint64_t now = count.load(std::memory_order_relaxed);
  do {
    granted = now >= limit ? 0 : std::min(wanted, limit - now);
    if (granted == 0) return false;
  } while (!count.compare_exchange_weak(now, now + granted, std::memory_order_relaxed));
  return true;
}

SlotRun MappedStore::take_clean(std::uint64_t want) {
  std::uint64_t granted = want;
  if (medium_.can_punch() && !reserve(populated_, want, granted)) return {};
  SlotRun run = clean_.take(granted);
  if (!medium_.can_punch()) {
    populated_ += run.count;
    return run;
  }
  populated_ -= granted - run.count;
  if (run.count != 0 && !medium_.populate(Bytes{run.first * kPageSize}, Bytes{run.count * kPageSize})) {
    // The host has no memory left. Part of the run may have come: give that back as well.
    if (medium_.punch(Bytes{run.first * kPageSize}, Bytes{run.count * kPageSize})) {
      populated_ -= run.count;
      clean_.give(run);
    } else {
      dirty_.give(run);
    }
    return {};
  }
  return run;
}

SlotRun MappedStore::take_slots_once(std::uint64_t want) {
  std::uint64_t granted = 0;
  if (!reserve(occupied_, want, granted)) return {};
  // Memory that we still hold costs nothing; fresh memory costs the host 1.5 us a page, and giving it back another.
  SlotRun run = dirty_.take(granted);
  if (run.count != 0) {
    const std::uint64_t left = dirty_.count();
    if (left < idle_.load(std::memory_order_relaxed)) idle_.store(left, std::memory_order_relaxed);
  } else {
    run = take_clean(granted);
  }
  occupied_ -= granted - run.count;
  return run;
}

SlotRun MappedStore::take_slots(std::uint64_t want) {
  want = std::min(want, SlotSet::kMaxRun);
  SlotRun run = take_slots_once(want);
  if (run.count != 0 || occupied_.load(std::memory_order_relaxed) >= limit_.load(std::memory_order_relaxed)) return run;
  // There is room, but it is on its way back to the host: wait for that.
  const std::lock_guard lock(returning_);
  return take_slots_once(want);
}

void MappedStore::lend(SlotRun run, std::span<WriteItem> items) {
  for (std::uint64_t i = 0; i < run.count; ++i) {
    const std::uint64_t slot = run.first + i;
    SlotWord word = table_.load(slot);
    word.state = SlotState::kStaged;
    word.references = 0;
    table_.word(slot).store(word.pack(), std::memory_order_release);
    items[i].buffer = memory_of(slot);
    items[i].location = make_location(slot, word.generation);
  }
}

void MappedStore::stage(std::span<WriteItem> items) {
  for (std::size_t i = 0; i < items.size();) {
    std::size_t end = i;
    while (end < items.size() && items[end].buffer == nullptr) ++end;
    while (i < end) {
      const SlotRun run = take_slots(end - i);
      if (run.count == 0) return;
      lend(run, items.subspan(i, run.count));
      i += run.count;
    }
    i = std::max(i, end) + (end < items.size() ? 1 : 0);
  }
}

bool MappedStore::is_ours(const WriteItem& item, SlotWord& staged) const {
  if (item.location == kNoLocation || !well_formed(item.location) || slot_of(item.location) >= table_.slots())
    return false;
  staged = table_.load(slot_of(item.location));
  return staged.state == SlotState::kStaged && staged.generation == generation_of(item.location) &&
         item.buffer == memory_of(slot_of(item.location));
}

void MappedStore::give_back(std::uint64_t slot, SlotWord staged) {
  staged.state = SlotState::kDirty;
  ++staged.generation;
  table_.word(slot).store(staged.pack(), std::memory_order_release);
  if (medium_.can_punch()) {
    dirty_.give({slot, 1});
  } else {
    --populated_;
    clean_.give({slot, 1});
  }
  --occupied_;
}

void MappedStore::unstage(std::span<WriteItem> items) {
  for (WriteItem& item : items) {
    SlotWord staged;
    if (is_ours(item, staged)) give_back(slot_of(item.location), staged);
    item.buffer = nullptr;
    item.location = kNoLocation;
  }
}

PageStatus MappedStore::write(WriteItem& item) {
  SlotWord staged;
  if (!is_ours(item, staged)) {
    if (item.buffer == nullptr || item.location != kNoLocation) {
      ++refused_writes_;
      return PageStatus::kUnavailable;
    }
    WriteItem own;
    const SlotRun run = take_slots(1);
    if (run.count == 0) return PageStatus::kFull;
    lend(run, std::span(&own, 1));
    std::memcpy(own.buffer, item.buffer, kPageSize);
    item.location = own.location;
    staged = table_.load(run.first);
  }
  const std::uint64_t slot = slot_of(item.location);
  staged.crc = crc32c(page_of(slot), checksum_seed(item.location));
  staged.references = 1;
  staged.state = SlotState::kLive;
  table_.word(slot).store(staged.pack(), std::memory_order_release);
  pages_.fetch_add(1, std::memory_order_relaxed);
  return PageStatus::kOk;
}

void MappedStore::submit_write(WriteBatch& batch) {
  {
    const InFlight::Entry entry(in_flight_, &batch);
    for (WriteItem& item : batch.items) {
      if (!entry.cancelled()) {
        item.status = write(item);
      } else {
        SlotWord staged;
        if (is_ours(item, staged)) give_back(slot_of(item.location), staged);
        item.status = PageStatus::kCancelled;
      }
      if (item.status != PageStatus::kOk) item.location = kNoLocation;
    }
  }
  if (batch.done) batch.done(batch);
}

PageStatus MappedStore::read(ReadItem& item) {
  SlotWord live;
  if (!table_.find_live(item.location, live)) {
    ++stale_reads_;
    return PageStatus::kCorrupt;
  }
  const std::uint64_t slot = slot_of(item.location);
  if (crc32c(page_of(slot), checksum_seed(item.location)) != live.crc) {
    ++corrupt_pages_;
    return PageStatus::kCorrupt;
  }
  item.page = memory_of(slot);
  return PageStatus::kOk;
}

void MappedStore::submit_read(ReadBatch& batch) {
  {
    const InFlight::Entry entry(in_flight_, &batch);
    if (!batch.items.empty()) fetch_ahead(batch.items.front().location);
    for (std::size_t i = 0; i < batch.items.size(); ++i) {
      if (i + 1 < batch.items.size()) fetch_ahead(batch.items[i + 1].location);
      ReadItem& item = batch.items[i];
      item.page = nullptr;
      item.status = entry.cancelled() ? PageStatus::kCancelled : read(item);
    }
  }
  if (batch.done) batch.done(batch);
}

void MappedStore::take_back(SlotRun run) {
  if (run.count == 0) return;
  pages_.fetch_sub(run.count, std::memory_order_relaxed);
  if (medium_.can_punch()) {
    dirty_.give(run);
  } else {
    populated_ -= run.count;
    clean_.give(run);
  }
  occupied_ -= run.count;
}

void MappedStore::release(std::span<const Location> locations) {
  // Pages that left together lie together, and come back together.
  SlotRun run;
  for (const Location location : locations) {
    const DropResult dropped = table_.drop(location, SlotState::kDirty);
    if (dropped == DropResult::kRefused) ++refused_releases_;
    if (dropped != DropResult::kLast) continue;
    const std::uint64_t slot = slot_of(location);
    if (run.count == 0 || slot != run.end()) {
      take_back(run);
      run = {slot, 0};
    }
    ++run.count;
  }
  take_back(run);
  // Many pages going home at once need the host's memory soon, but a fault may be waiting for whoever releases here:
  // the work is maintain()'s unless that cannot keep up. Whoever comes second leaves it to the first.
  if (dirty_.count() <= 2 * most_unreturned_) return;
  const std::unique_lock lock(returning_, std::try_to_lock);
  if (lock.owns_lock())
    return_to_host(SlotSet::kMaxRun + locations.size(), (kPunchCall + 1) * (SlotSet::kMaxRun + locations.size()));
}

void MappedStore::return_to_host(std::uint64_t slots, std::uint64_t budget) {
  for (std::uint64_t spent = 0; slots > 0 && spent < budget;) {
    const SlotRun run = dirty_.take(std::min(slots, SlotSet::kMaxRun));
    if (run.count == 0) return;
    slots -= run.count;
    spent += kPunchCall + run.count;
    if (!medium_.punch(Bytes{run.first * kPageSize}, Bytes{run.count * kPageSize})) {
      dirty_.give(run);
      return;
    }
    for (std::uint64_t slot = run.first; slot < run.end(); ++slot) {
      SlotWord word = table_.load(slot);
      word.state = SlotState::kFree;
      table_.word(slot).store(word.pack(), std::memory_order_release);
    }
    populated_ -= run.count;
    clean_.give(run);
  }
}

bool MappedStore::maintain() {
  if (!medium_.can_punch()) return false;
  const std::lock_guard lock(returning_);
  const std::uint64_t before = dirty_.count();
  const std::uint64_t wanted = std::max(idle_.load(), before - std::min(before, most_unreturned_));
  return_to_host(wanted, kMaintainBudget);
  const std::uint64_t returned = before - std::min(before, dirty_.count());
  if (returned != 0 && returned < wanted) {
    idle_ -= std::min(returned, idle_.load());
    return true;
  }
  idle_ = dirty_.count();
  return false;
}

void MappedStore::for_each_live(const std::function<void(Location, std::uint32_t)>& visit) const {
  table_.for_each_touched([&](std::uint64_t first, std::uint64_t end) {
    for (std::uint64_t slot = first; slot < end; ++slot) {
      const SlotWord word = table_.load(slot);
      if (word.state == SlotState::kLive) visit(make_location(slot, word.generation), word.references);
    }
  });
}

void MappedStore::recover_slot(std::uint64_t slot) {
  SlotWord word = table_.load(slot);
  if (!word.plausible()) word = {.state = SlotState::kBad};
  switch (word.state) {
    case SlotState::kLive:
      ++pages_;
      break;
    case SlotState::kBad:
      ++bad_entries_;
      break;
    case SlotState::kStaged:
      ++word.generation;
      [[fallthrough]];
    case SlotState::kFree:
    case SlotState::kDirty:
      word = {.generation = word.generation};
      break;
  }
  table_.word(slot).store(word.pack(), std::memory_order_relaxed);
  if (word.state == SlotState::kFree) return;
  clean_.take_one(slot);
  ++populated_;
  ++occupied_;
}

void MappedStore::recover() {
  table_.for_each_touched([&](std::uint64_t first, std::uint64_t end) {
    for (std::uint64_t slot = first; slot < end; ++slot) recover_slot(slot);
  });
  if (!medium_.can_punch()) return;
  // Whatever is populated and belongs to no page goes back to the host, and reads as zeros.
  for_each_extent(medium_.fd(), medium_.size(), [&](Bytes first, Bytes end) {
    std::uint64_t run = first.value / kPageSize;
    const std::uint64_t last = std::min(end.value / kPageSize, table_.slots());
    const auto flush = [&](std::uint64_t up_to) {
      if (run < up_to) static_cast<void>(medium_.punch(Bytes{run * kPageSize}, Bytes{(up_to - run) * kPageSize}));
      run = up_to + 1;
    };
    for (std::uint64_t slot = run; slot < last; ++slot)
      if (table_.load(slot).state != SlotState::kFree) flush(slot);
    flush(last);
  });
}

Result<std::unique_ptr<MappedStore>> assemble(Medium medium, SlotTable table, const MappedStoreOptions& options) {
  auto clean = SlotSet::create(table.slots(), SlotSet::Initially::kFull, SlotSet::Order::kSpread);
  if (!clean) return Failure{clean.error()};
  auto dirty = SlotSet::create(table.slots(), SlotSet::Initially::kEmpty, SlotSet::Order::kSpread);
  if (!dirty) return Failure{dirty.error()};
  auto store = std::make_unique<MappedStore>(std::move(medium), std::move(table), std::move(*clean), std::move(*dirty),
                                             options.most_unreturned);
  if (auto set = store->set_capacity(options.capacity); !set) return Failure{set.error()};
  return store;
}

}  // namespace

Result<std::unique_ptr<EmbeddedStore>> create_mapped_store(const MappedStoreOptions& options) {
  const Bytes host{static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) * kPageSize};
  if (options.path.empty() && options.capacity > host)
    return failure(std::errc::invalid_argument, "create", "page store", "its capacity is more than this host's memory");
  const Bytes maximum = options.maximum == Bytes{} ? host : options.maximum;
  auto medium = Medium::create(options.path, {options.capacity, std::max(options.capacity, maximum)}, options.roots);
  if (!medium) return Failure{medium.error()};
  const SlotTableSpec spec{.kind = StoreLayoutKind::kMapped,
                           .entry_words = 1,
                           .unit_bytes = kPageSize,
                           .slots = std::min(whole_pages(medium->size()).value, kMaxSlots),
                           .data_bytes = medium->size()};
  if (spec.slots == 0) return failure(std::errc::invalid_argument, "use", options.path, "it is smaller than a page");
  auto table = SlotTable::create(spec, medium->fd());
  if (!table) return Failure{table.error()};
  auto store = assemble(std::move(*medium), std::move(*table), options);
  if (!store) return Failure{store.error()};
  return std::unique_ptr<EmbeddedStore>(std::move(*store));
}

Result<std::unique_ptr<EmbeddedStore>> open_mapped_store(UniqueFd data, UniqueFd table_fd,
                                                         const MappedStoreOptions& options) {
  auto table = SlotTable::open(StoreLayoutKind::kMapped, std::move(table_fd), data.get());
  if (!table) return Failure{table.error()};
  const StoreHeader& header = table->header();
  if (header.unit_bytes != kPageSize || header.slots * kPageSize > header.data_bytes)
    return failure(std::errc::invalid_argument, "open", "page store table", "its geometry makes no sense");
  auto medium = Medium::adopt(std::move(data), Bytes{header.data_bytes}, options.roots);
  if (!medium) return Failure{medium.error()};
  auto store = assemble(std::move(*medium), std::move(*table), options);
  if (!store) return Failure{store.error()};
  (*store)->recover();
  return std::unique_ptr<EmbeddedStore>(std::move(*store));
}

}  // namespace tidepool::pool
