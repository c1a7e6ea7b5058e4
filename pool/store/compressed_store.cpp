#include "pool/store/compressed_store.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <mutex>
#include <utility>

#include "pool/store/crc32c.h"
#include "pool/store/grace_period.h"
#include "pool/store/in_flight.h"
#include "pool/store/medium.h"
#include "pool/store/slab_arena.h"
#include "pool/store/slot_set.h"
#include "pool/store/slot_table.h"

namespace tidepool::pool {
namespace {

constexpr unsigned kSlabsPerMaintain = 32;
constexpr unsigned kSlabsPerFullWrite = 4;
// A slab's objects never need more of the table than this; kept free, so that the table's growth cannot exceed the
// capacity.
constexpr Bytes kTableMargin{2 * kPageSize + SlabArena::kMostObjects * 16};

// An entry's second word: where the compressed page is.
struct Place {
  static constexpr unsigned kLengthShift = 34;
  static constexpr std::uint64_t kMoving = 1ull << 46;  // somebody copies it to another place
  static constexpr std::uint64_t kDoomed = 1ull << 47;  // released meanwhile: whoever moves it frees it
  static constexpr std::uint64_t kNowhere = 0;

  std::uint64_t offset = 0;
  std::uint32_t length = 0;

  static constexpr Place unpack(std::uint64_t raw) {
    return {(raw & ((1ull << kLengthShift) - 1)) * SlabArena::kGranule,
            static_cast<std::uint32_t>(raw >> kLengthShift) & 0xfff};
  }
  constexpr std::uint64_t pack() const {
    return offset / SlabArena::kGranule | static_cast<std::uint64_t>(length) << kLengthShift;
  }
};

constexpr std::uint64_t kLargestArena = SlabArena::kGranule << Place::kLengthShift;

class CompressedStore final : public EmbeddedStore {
 public:
  CompressedStore(SlotTable table, SlotSet handles, std::unique_ptr<Codec> codec, double least_saving)
      : table_(std::move(table)),
        handles_(std::move(handles)),
        codec_(std::move(codec)),
        most_stored_(
            std::min(static_cast<std::size_t>((1 - least_saving) * kPageSize), std::size_t{SlabArena::kLargest})) {}

  // Second part of construction: the arena asks back.
  Result<> attach(Medium medium) {
    auto arena = SlabArena::create(std::move(medium), [this](Bytes arena_bytes) { return may_grow(arena_bytes); });
    if (!arena) return Failure{arena.error()};
    arena_ = std::move(*arena);
    return {};
  }

  std::string kind() const override { return "compressed"; }
  bool uses_host_dram() const override { return arena_->medium().can_punch(); }
  StoreUsage usage() const override;
  // Compressed pages are never where the caller would write them: the caller's buffers are used.
  void stage(std::span<WriteItem>) override {}
  void unstage(std::span<WriteItem> items) override;
  void submit_write(WriteBatch& batch) override;
  void submit_read(ReadBatch& batch) override;
  void cancel(WriteBatch& batch) override { in_flight_.cancel(&batch); }
  void cancel(ReadBatch& batch) override { in_flight_.cancel(&batch); }
  Result<> retain(Location location) override { return table_.retain(location); }
  void release(std::span<const Location> locations) override;

  std::vector<std::pair<std::string, int>> held_descriptors() const override {
    return {{"store/data", arena_->medium().fd()}, {"store/table", table_.fd()}};
  }
  Result<> set_capacity(Bytes capacity) override;
  bool maintain() override;
  void for_each_live(const std::function<void(Location, std::uint32_t)>& visit) const override;
  StoreErrors errors() const override;

  void recover();

 private:
  Bytes process_memory() const;
  Bytes overhead() const { return table_.populated() + process_memory(); }
  bool may_grow(Bytes arena_bytes) const { return arena_bytes + overhead() + kTableMargin <= capacity_.load(); }
  PageStatus write(WriteItem& item);
  PageStatus store(WriteItem& item, std::span<const std::byte> compressed);
  PageStatus read(ReadItem& item);
  std::optional<std::uint64_t> find_place(std::uint32_t length);
  void give_up_place(std::uint64_t handle);
  // Moves everything out of a few sparse slabs; true when at least one was.
  bool compact(SlabArena::Wanted wanted, unsigned slabs);
  // True when the slab is empty and gone.
  bool evacuate(std::uint32_t slab);
  bool move(SlabArena::Object object);
  bool recover_place(std::uint64_t handle, Place& place) const;

  SlotTable table_;
  SlotSet handles_;
  std::unique_ptr<Codec> codec_;
  const std::size_t most_stored_;
  std::unique_ptr<SlabArena> arena_;
  std::atomic<Bytes> capacity_{};
  std::atomic<std::uint64_t> peak_handle_{0};
  std::atomic<std::uint64_t> pages_{0};
  std::atomic<std::uint64_t> incompressible_{0};
  GracePeriod grace_;
  std::mutex compacting_;
  InFlight in_flight_;

  std::atomic<std::uint64_t> refused_releases_{0};
  std::atomic<std::uint64_t> refused_writes_{0};
  std::atomic<std::uint64_t> stale_reads_{0};
  std::atomic<std::uint64_t> corrupt_pages_{0};
  std::atomic<std::uint64_t> bad_entries_{0};
};

Bytes CompressedStore::process_memory() const {
  return arena_->bookkeeping() + SlotSet::cost(peak_handle_.load()) + codec_->memory();
}

StoreUsage CompressedStore::usage() const {
  StoreUsage usage;
  usage.capacity = capacity_.load();
  usage.process_memory = process_memory();
  usage.metadata = table_.populated() + usage.process_memory;
  usage.used = arena_->populated() + usage.metadata;
  usage.pages = PageCount{pages_.load()};
  usage.incompressible = incompressible_.load();
  return usage;
}

StoreErrors CompressedStore::errors() const {
  return {refused_releases_.load(), refused_writes_.load(), stale_reads_.load(), corrupt_pages_.load(),
          bad_entries_.load()};
}

Result<> CompressedStore::set_capacity(Bytes capacity) {
  if (capacity == Bytes{})
    return failure(std::errc::invalid_argument, "set capacity of", "page store", "it must not be zero");
  // What is not compressed bytes adds at most a few percent to a full medium.
  const Bytes most = arena_->medium().size() + Bytes{arena_->medium().size().value / 8} + codec_->memory();
  if (capacity > most)
    return failure(std::errc::invalid_argument, "set capacity of", "page store",
                   "its medium holds at most " + std::to_string(arena_->medium().size().value) + " bytes");
  const Bytes least = Bytes{SlabArena::kSlabBytes} + overhead() + kTableMargin;
  if (capacity < least && pages_.load() == 0)
    return failure(std::errc::invalid_argument, "set capacity of", "page store",
                   "it needs at least " + std::to_string(least.value) + " bytes");
  capacity_ = capacity;
  return {};
}

void CompressedStore::unstage(std::span<WriteItem> items) {
  for (WriteItem& item : items) {
    item.buffer = nullptr;
    item.location = kNoLocation;
  }
}

std::optional<std::uint64_t> CompressedStore::find_place(std::uint32_t length) {
  auto offset = arena_->allocate(length, SlabArena::Growth::kAllowed);
  // Full, as it seems. Places of other sizes may be free in such numbers that whole slabs of them can go.
  if (!offset && compact(SlabArena::Wanted::kAny, kSlabsPerFullWrite))
    offset = arena_->allocate(length, SlabArena::Growth::kAllowed);
  return offset;
}

PageStatus CompressedStore::store(WriteItem& item, std::span<const std::byte> compressed) {
  const auto length = static_cast<std::uint32_t>(compressed.size());
  const auto offset = find_place(length);
  if (!offset) return PageStatus::kFull;
  const SlotRun handle = handles_.take(1);
  if (handle.count == 0) {
    arena_->free(*offset);
    return PageStatus::kFull;
  }
  std::uint64_t peak = peak_handle_.load(std::memory_order_relaxed);
  while (peak <= handle.first && !peak_handle_.compare_exchange_weak(peak, handle.first + 1)) {
  }
  SlotWord word = table_.load(handle.first);
  item.location = make_location(handle.first, word.generation);
  word.crc = crc32c({item.buffer, kPageSize}, checksum_seed(item.location));
  word.references = 1;
  word.state = SlotState::kLive;
  std::memcpy(arena_->at(*offset), compressed.data(), compressed.size());
  // The place before the word, the word before the owner: whoever finds the entry finds all of it.
  table_.second(handle.first).store(Place{*offset, length}.pack(), std::memory_order_release);
  table_.word(handle.first).store(word.pack(), std::memory_order_release);
  arena_->set_owner(*offset, static_cast<std::uint32_t>(handle.first));
  pages_.fetch_add(1, std::memory_order_relaxed);
  return PageStatus::kOk;
}

PageStatus CompressedStore::write(WriteItem& item) {
  if (item.buffer == nullptr || item.location != kNoLocation) {
    ++refused_writes_;
    return PageStatus::kUnavailable;
  }
  std::array<std::byte, SlabArena::kLargest> compressed;
  const std::size_t size = codec_->compress(item.buffer, std::span(compressed).first(most_stored_));
  if (size == 0) {
    incompressible_.fetch_add(1, std::memory_order_relaxed);
    return PageStatus::kIncompressible;
  }
  return store(item, std::span(compressed).first(size));
}

void CompressedStore::submit_write(WriteBatch& batch) {
  {
    const InFlight::Entry entry(in_flight_, &batch);
    for (WriteItem& item : batch.items) {
      item.status = entry.cancelled() ? PageStatus::kCancelled : write(item);
      if (item.status != PageStatus::kOk) item.location = kNoLocation;
    }
  }
  if (batch.done) batch.done(batch);
}

PageStatus CompressedStore::read(ReadItem& item) {
  if (item.buffer == nullptr) return PageStatus::kUnavailable;
  std::array<std::byte, SlabArena::kLargest> compressed;
  SlotWord live;
  Place place;
  {
    // The bytes are copied before they are decoded: whatever a caller does with a page that it has released already,
    // the decoder's input does not change under it.
    const GracePeriod::Reader reader(grace_);
    if (!table_.find_live(item.location, live)) {
      ++stale_reads_;
      return PageStatus::kCorrupt;
    }
    place = Place::unpack(table_.second(slot_of(item.location)).load(std::memory_order_acquire));
    // Checked here and not only when the store is opened: the table is shared memory.
    if (place.length == 0 || place.length > compressed.size() || place.offset + place.length > arena_->size()) {
      ++corrupt_pages_;
      return PageStatus::kCorrupt;
    }
    std::memcpy(compressed.data(), arena_->at(place.offset), place.length);
  }
  if (!codec_->decompress(std::span(compressed).first(place.length), item.buffer) ||
      crc32c({item.buffer, kPageSize}, checksum_seed(item.location)) != live.crc) {
    ++corrupt_pages_;
    return PageStatus::kCorrupt;
  }
  item.page = item.buffer;
  return PageStatus::kOk;
}

void CompressedStore::submit_read(ReadBatch& batch) {
  {
    const InFlight::Entry entry(in_flight_, &batch);
    for (ReadItem& item : batch.items) {
      item.page = nullptr;
      item.status = entry.cancelled() ? PageStatus::kCancelled : read(item);
    }
  }
  if (batch.done) batch.done(batch);
}

// The entry is no longer live and its handle not yet free, so only a move can interfere.
void CompressedStore::give_up_place(std::uint64_t handle) {
  auto word = table_.second(handle);
  std::uint64_t seen = word.load(std::memory_order_acquire);
  while (true) {
    const bool moving = (seen & Place::kMoving) != 0;
    const std::uint64_t next = moving ? seen | Place::kDoomed : Place::kNowhere;
    if (!word.compare_exchange_weak(seen, next, std::memory_order_acq_rel)) continue;
    if (moving) return;  // the mover sees it, and does the rest
    arena_->free(Place::unpack(seen).offset);
    handles_.give({handle, 1});
    return;
  }
}

void CompressedStore::release(std::span<const Location> locations) {
  for (const Location location : locations) {
    const DropResult dropped = table_.drop(location, SlotState::kFree);
    if (dropped == DropResult::kRefused) ++refused_releases_;
    if (dropped != DropResult::kLast) continue;
    pages_.fetch_sub(1, std::memory_order_relaxed);
    give_up_place(slot_of(location));
  }
}

// True when the object's old place is no longer anybody's, and may be freed once readers have left.
bool CompressedStore::move(SlabArena::Object object) {
  auto word = table_.second(object.owner);
  std::uint64_t seen = word.load(std::memory_order_acquire);
  const Place old = Place::unpack(seen);
  if ((seen & Place::kMoving) != 0 || old.length == 0 || old.offset != object.offset) return false;  // being released
  const auto fresh = arena_->allocate(old.length, SlabArena::Growth::kForbidden);
  if (!fresh) return false;
  if (!word.compare_exchange_strong(seen, seen | Place::kMoving, std::memory_order_acq_rel)) {
    arena_->free(*fresh);
    return false;
  }
  std::memcpy(arena_->at(*fresh), arena_->at(old.offset), old.length);
  // Named first: once the word says so, a release may free the place, and the next tenant's name must not be
  // overwritten.
  arena_->set_owner(*fresh, object.owner);
  seen |= Place::kMoving;
  if (word.compare_exchange_strong(seen, Place{*fresh, old.length}.pack(), std::memory_order_acq_rel)) return true;
  word.store(Place::kNowhere, std::memory_order_release);
  arena_->free(*fresh);
  handles_.give({object.owner, 1});
  return true;
}

bool CompressedStore::evacuate(std::uint32_t slab) {
  std::vector<std::uint64_t> moved;
  for (const SlabArena::Object object : arena_->objects_of(slab))
    if (move(object)) moved.push_back(object.offset);
  if (!moved.empty()) grace_.wait_for_readers();
  for (const std::uint64_t offset : moved) arena_->free(offset);
  return arena_->end_isolation(slab);
}

bool CompressedStore::compact(SlabArena::Wanted wanted, unsigned slabs) {
  const std::lock_guard lock(compacting_);
  bool any = false;
  for (unsigned i = 0; i < slabs; ++i) {
    const auto slab = arena_->isolate(wanted);
    // One that could not be emptied is being written to at this moment, or its class has just filled up: not worth
    // insisting.
    if (!slab || !evacuate(*slab)) return any;
    any = true;
  }
  return any;
}

bool CompressedStore::maintain() {
  const bool compacted = compact(SlabArena::Wanted::kSparse, kSlabsPerMaintain);
  arena_->trim();
  return compacted;
}

void CompressedStore::for_each_live(const std::function<void(Location, std::uint32_t)>& visit) const {
  table_.for_each_touched([&](std::uint64_t first, std::uint64_t end) {
    for (std::uint64_t handle = first; handle < end; ++handle) {
      const SlotWord word = table_.load(handle);
      if (word.state == SlotState::kLive) visit(make_location(handle, word.generation), word.references);
    }
  });
}

bool CompressedStore::recover_place(std::uint64_t handle, Place& place) const {
  // A move that did not end left the old place, which is still whole.
  const std::uint64_t raw = table_.second(handle).load(std::memory_order_relaxed) & ~Place::kMoving;
  place = Place::unpack(raw);
  return place.pack() == raw && table_.load(handle).plausible();
}

void CompressedStore::recover() {
  Place place;
  table_.for_each_touched([&](std::uint64_t first, std::uint64_t end) {
    for (std::uint64_t handle = first; handle < end; ++handle)
      if (table_.load(handle).state == SlotState::kLive && recover_place(handle, place))
        arena_->vote(place.offset, place.length);
  });
  table_.for_each_touched([&](std::uint64_t first, std::uint64_t end) {
    peak_handle_ = end;
    for (std::uint64_t handle = first; handle < end; ++handle) {
      SlotWord word = table_.load(handle);
      const bool live = word.state == SlotState::kLive && recover_place(handle, place) &&
                        arena_->restore(place.offset, place.length, static_cast<std::uint32_t>(handle));
      if (live) {
        ++pages_;
      } else {
        const bool bad = word.state == SlotState::kLive || word.state == SlotState::kBad || !word.plausible();
        word = {.generation = word.generation, .state = bad ? SlotState::kBad : SlotState::kFree};
        place = {};
        if (bad) ++bad_entries_;
      }
      table_.word(handle).store(word.pack(), std::memory_order_relaxed);
      table_.second(handle).store(place.pack(), std::memory_order_relaxed);
      if (word.state != SlotState::kFree) handles_.take_one(handle);
    }
  });
  arena_->finish_restore();
}

Result<std::unique_ptr<CompressedStore>> assemble(Medium medium, SlotTable table,
                                                  const CompressedStoreOptions& options) {
  if (!(options.least_saving >= 0.16 && options.least_saving <= 0.95))
    return failure(std::errc::invalid_argument, "use", "least saving", "it is a share from 0.16 to 0.95");
  auto codec = Codec::create(options.codec, options.level);
  if (!codec) return Failure{codec.error()};
  auto handles = SlotSet::create(table.slots(), SlotSet::Initially::kFull, SlotSet::Order::kLowest);
  if (!handles) return Failure{handles.error()};
  auto store =
      std::make_unique<CompressedStore>(std::move(table), std::move(*handles), std::move(*codec), options.least_saving);
  if (auto attached = store->attach(std::move(medium)); !attached) return Failure{attached.error()};
  return store;
}

}  // namespace

Result<std::unique_ptr<EmbeddedStore>> create_compressed_store(const CompressedStoreOptions& options) {
  const Bytes host{static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) * kPageSize};
  if (options.capacity > host)
    return failure(std::errc::invalid_argument, "create", "page store", "its capacity is more than this host's memory");
  const Bytes maximum = std::max(options.capacity, options.maximum == Bytes{} ? host : options.maximum);
  const std::uint64_t wanted = std::min(maximum.value, kLargestArena);
  const Bytes size{(wanted + SlabArena::kSlabBytes - 1) / SlabArena::kSlabBytes * SlabArena::kSlabBytes};
  auto medium = Medium::create({}, {size, size}, options.roots);
  if (!medium) return Failure{medium.error()};
  const std::uint64_t slabs = std::min(medium->size().value, kLargestArena) / SlabArena::kSlabBytes;
  const SlotTableSpec spec{.kind = StoreLayoutKind::kCompressed,
                           .entry_words = 2,
                           .unit_bytes = SlabArena::kSlabBytes,
                           .slots = std::min(slabs * SlabArena::kMostObjects, kMaxSlots - 2),
                           .data_bytes = medium->size(),
                           .codec = static_cast<std::uint32_t>(options.codec)};
  auto table = SlotTable::create(spec, medium->fd());
  if (!table) return Failure{table.error()};
  auto store = assemble(std::move(*medium), std::move(*table), options);
  if (!store) return Failure{store.error()};
  if (auto set = (*store)->set_capacity(options.capacity); !set) return Failure{set.error()};
  return std::unique_ptr<EmbeddedStore>(std::move(*store));
}

Result<std::unique_ptr<EmbeddedStore>> open_compressed_store(UniqueFd data, UniqueFd table_fd,
                                                             const CompressedStoreOptions& options) {
  auto table = SlotTable::open(StoreLayoutKind::kCompressed, std::move(table_fd), data.get());
  if (!table) return Failure{table.error()};
  const StoreHeader header = table->header();
  if (header.unit_bytes != SlabArena::kSlabBytes || header.data_bytes > kLargestArena || header.slots > kMaxSlots - 2)
    return failure(std::errc::invalid_argument, "open", "page store table", "its geometry makes no sense");
  if (header.codec != static_cast<std::uint32_t>(options.codec))
    return failure(std::errc::invalid_argument, "open", "page store table",
                   "its pages were written with another codec");
  auto medium = Medium::adopt(std::move(data), Bytes{header.data_bytes}, options.roots);
  if (!medium) return Failure{medium.error()};
  auto store = assemble(std::move(*medium), std::move(*table), options);
  if (!store) return Failure{store.error()};
  (*store)->recover();
  if (auto set = (*store)->set_capacity(options.capacity); !set) return Failure{set.error()};
  return std::unique_ptr<EmbeddedStore>(std::move(*store));
}

}  // namespace tidepool::pool
