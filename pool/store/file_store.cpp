#include "pool/store/file_store.h"

#include <liburing.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "pool/client/sealer_pool.h"
#include "pool/store/batch_state.h"
#include "pool/store/crc32c.h"
#include "pool/store/direct_file.h"
#include "pool/store/slot_set.h"
#include "pool/store/slot_table.h"

namespace tidepool::pool {
namespace {

constexpr unsigned kEntryWords = 4;  // word, version, tag
constexpr std::uint32_t kPlainForm = 0;
constexpr std::uint32_t kSealedForm = 1;  // StoreHeader::codec
// How long the store's own thread leaves answers to a loop that has just taken some itself.
constexpr auto kLeaveToLoop = std::chrono::milliseconds(2);
constexpr int kIdlePollMs = 100;

using Reads = BatchState<ReadBatch>;
using Writes = BatchState<WriteBatch>;

// One page on its way, with a buffer that the device can reach.
struct Op {
  std::byte* buffer = nullptr;
  int buffer_index = 0;
  Reads* reads = nullptr;    // either this
  Writes* writes = nullptr;  // or this
  ReadItem* read = nullptr;
  WriteItem* write = nullptr;
  std::uint64_t slot = 0;
  SlotWord word{};
  std::uint64_t version = 0;
  protocol::Tag tag{};
  bool ready = false;
  PageStatus status = PageStatus::kPending;
  Op* following = nullptr;
};

struct Told {
  Chain<Reads> reads;
  Chain<Writes> writes;
};

class FileStore final : public EmbeddedStore {
 public:
  FileStore(DirectFile file, SlotTable table, SlotSet free, const FileStoreOptions& options)
      : file_(std::move(file)), table_(std::move(table)), free_(std::move(free)), secret_(options.secret) {}
  ~FileStore() override;

  Result<> start(const FileStoreOptions& options);
  void recover();

  std::string kind() const override { return "file"; }
  bool uses_host_dram() const override { return false; }
  StoreUsage usage() const override;
  void stage(std::span<WriteItem>) override {}
  void unstage(std::span<WriteItem> items) override {
    for (WriteItem& item : items) item = {};
  }
  void submit_write(WriteBatch& batch) override { submit(batch, free_writes_, write_states_, write_queue_); }
  void submit_read(ReadBatch& batch) override {
    submit(batch, free_reads_, read_states_, batch.priority == Priority::kDemand ? demand_queue_ : prefetch_queue_);
  }
  void cancel(WriteBatch& batch) override { cancel_in(batch, write_states_); }
  void cancel(ReadBatch& batch) override { cancel_in(batch, read_states_); }
  int answers_descriptor() const override { return answers_.get(); }
  void take_answers() override {
    taken_at_.store(SystemClock().now().since_boot.count(), std::memory_order_relaxed);
    reap();
  }
  Result<> retain(Location location) override { return table_.retain(location); }
  void release(std::span<const Location> locations) override;

  std::vector<std::pair<std::string, int>> held_descriptors() const override {
    return {{"store/data", file_.fd.get()}, {"store/table", table_.fd()}};
  }
  Result<> set_capacity(Bytes capacity) override;
  bool maintain() override { return false; }
  void for_each_live(const std::function<void(Location, std::uint32_t)>& visit) const override;
  StoreErrors errors() const override;

 private:
  template <class Batch>
  void submit(Batch& batch, std::vector<BatchState<Batch>*>& free, std::vector<std::unique_ptr<BatchState<Batch>>>& all,
              Chain<BatchState<Batch>>& queue);
  template <class Batch>
  void cancel_in(Batch& batch, std::vector<std::unique_ptr<BatchState<Batch>>>& all);
  // Begins what may begin, and goes on until nothing more can.
  void pump(std::unique_lock<std::mutex>& lock, Told& told);
  Op* begin_read(Reads& state, Told& told);
  Op* begin_write(Writes& state, Told& told);
  Op* next_op(Told& told);
  void prepare(Op& op);
  void place(Op& op);
  void reap();
  void judge(Op& op, int result);
  void end(Op& op, Told& told);
  template <class Batch>
  static void answer(BatchState<Batch>& state, PageStatus& status, PageStatus value, Chain<BatchState<Batch>>& told) {
    status = value;
    if (--state.remaining == 0) told.push(&state);
  }
  void tell(Told& told);
  void run();
  SealPlace place_of(const Op& op) const { return {{}, static_cast<std::uint32_t>(op.slot), op.version}; }

  DirectFile file_;
  SlotTable table_;
  SlotSet free_;
  std::shared_ptr<VmSecret> secret_;
  std::unique_ptr<SealerPool> sealers_;
  std::atomic<std::uint64_t> limit_{0};  // slots
  std::atomic<Bytes> capacity_{};
  std::atomic<std::uint64_t> occupied_{0};
  std::atomic<std::uint64_t> pages_{0};

  // Guards the ring and the queues. Not held while pages are sealed, opened or copied, nor while the caller is told.
  std::mutex mutex_;
  io_uring ring_{};
  bool ring_made_ = false;
  bool fixed_ = false;  // buffers are registered
  UniqueFd answers_;
  UniqueFd ending_;
  Mapping buffers_;
  std::vector<Op> ops_;
  std::vector<Op*> free_ops_;
  std::size_t writes_under_way_ = 0;
  Chain<Reads> demand_queue_;
  Chain<Reads> prefetch_queue_;
  Chain<Writes> write_queue_;
  std::vector<std::unique_ptr<Reads>> read_states_;
  std::vector<Reads*> free_reads_;
  std::vector<std::unique_ptr<Writes>> write_states_;
  std::vector<Writes*> free_writes_;
  std::atomic<std::int64_t> taken_at_{0};
  std::thread thread_;

  std::atomic<std::uint64_t> refused_releases_{0};
  std::atomic<std::uint64_t> refused_writes_{0};
  std::atomic<std::uint64_t> stale_reads_{0};
  std::atomic<std::uint64_t> corrupt_pages_{0};
  std::atomic<std::uint64_t> bad_entries_{0};
};

Result<> FileStore::start(const FileStoreOptions& options) {
  if (secret_ != nullptr) {
    if (secret_->key() == nullptr) {
      if (auto advanced = secret_->advance(); !advanced) return advanced;
    }
    auto sealers = SealerPool::create(*secret_->key());
    if (!sealers) return Failure{sealers.error()};
    sealers_ = std::move(*sealers);
  }
  if (auto set = set_capacity(options.capacity); !set) return set;
  if (const int error = ::io_uring_queue_init(options.depth, &ring_, 0); error != 0)
    return failure_from(-error, "create", "io_uring", "the kernel must offer it: see kernel.io_uring_disabled");
  ring_made_ = true;
  answers_ = UniqueFd{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  ending_ = UniqueFd{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  if (!answers_.valid() || !ending_.valid()) return errno_failure("create", "eventfd");
  if (const int error = ::io_uring_register_eventfd(&ring_, answers_.get()); error != 0)
    return failure_from(-error, "register", "eventfd");
  auto buffers = Mapping::anonymous(Bytes{options.depth * kPageSize});
  if (!buffers) return Failure{buffers.error()};
  buffers_ = std::move(*buffers);
  ops_.resize(options.depth);
  std::vector<iovec> parts(options.depth);
  for (unsigned i = 0; i < options.depth; ++i) {
    ops_[i].buffer = buffers_.data() + i * kPageSize;
    ops_[i].buffer_index = static_cast<int>(i);
    parts[i] = {ops_[i].buffer, kPageSize};
    free_ops_.push_back(&ops_[i]);
  }
  // Saves pinning them for each request; where memory may not be locked, they are pinned each time.
  fixed_ = ::io_uring_register_buffers(&ring_, parts.data(), options.depth) == 0;
  thread_ = std::thread([this] { run(); });
  return {};
}

FileStore::~FileStore() {
  if (thread_.joinable()) {
    const std::uint64_t one = 1;
    static_cast<void>(!::write(ending_.get(), &one, sizeof(one)));
    thread_.join();
  }
  // What is under way writes into the buffers: it is waited for.
  while (ring_made_) {
    {
      const std::lock_guard lock(mutex_);
      if (free_ops_.size() == ops_.size()) break;
    }
    pollfd wait{answers_.get(), POLLIN, 0};
    ::poll(&wait, 1, kIdlePollMs);
    reap();
  }
  if (ring_made_) ::io_uring_queue_exit(&ring_);
}

StoreUsage FileStore::usage() const {
  StoreUsage usage;
  usage.capacity = capacity_.load();
  usage.process_memory = SlotSet::cost(limit_.load()) + Bytes{buffers_.size() + ops_.size() * sizeof(Op)};
  usage.metadata = table_.populated() + usage.process_memory;
  usage.pages = PageCount{pages_.load()};
  usage.used = Bytes{occupied_.load() * kPageSize} + usage.metadata;
  return usage;
}

StoreErrors FileStore::errors() const {
  return {refused_releases_.load(), refused_writes_.load(), stale_reads_.load(), corrupt_pages_.load(),
          bad_entries_.load()};
}

Result<> FileStore::set_capacity(Bytes capacity) {
  const std::uint64_t slots = whole_pages(capacity).value;
  if (slots == 0 || slots > table_.slots())
    return failure(
        std::errc::invalid_argument, "set capacity of", "file store",
        "it must be between a page and the " + std::to_string(table_.slots() * kPageSize) + " bytes that the file has");
  limit_ = slots;
  capacity_ = capacity;
  return {};
}

template <class Batch>
void FileStore::submit(Batch& batch, std::vector<BatchState<Batch>*>& free,
                       std::vector<std::unique_ptr<BatchState<Batch>>>& all, Chain<BatchState<Batch>>& queue) {
  if (batch.items.empty()) {
    if (batch.done) batch.done(batch);
    return;
  }
  for (auto& item : batch.items) item.status = PageStatus::kPending;
  std::unique_lock lock(mutex_);
  if (free.empty()) free.push_back(all.emplace_back(std::make_unique<BatchState<Batch>>()).get());
  BatchState<Batch>* state = free.back();
  free.pop_back();
  *state = {.batch = &batch, .remaining = batch.items.size()};
  queue.push(state);
  Told told;
  pump(lock, told);
  lock.unlock();
  tell(told);
}

template <class Batch>
void FileStore::cancel_in(Batch& batch, std::vector<std::unique_ptr<BatchState<Batch>>>& all) {
  std::unique_lock lock(mutex_);
  const auto state = std::ranges::find_if(all, [&](const auto& each) { return each->batch == &batch; });
  if (state == all.end()) return;
  // What is in the queue is answered there, in its turn.
  (*state)->cancelled = true;
  Told told;
  pump(lock, told);
  lock.unlock();
  tell(told);
}

// The next item of the first batch in the queue that can begin; those that cannot are answered.
Op* FileStore::begin_read(Reads& state, Told& told) {
  ReadItem& item = state.batch->items[state.next++];
  item.page = nullptr;
  Op* op = free_ops_.back();
  if (state.cancelled || item.buffer == nullptr) {
    answer(state, item.status, state.cancelled ? PageStatus::kCancelled : PageStatus::kUnavailable, told.reads);
    return nullptr;
  }
  if (!table_.find_live(item.location, op->word)) {
    ++stale_reads_;
    answer(state, item.status, PageStatus::kCorrupt, told.reads);
    return nullptr;
  }
  free_ops_.pop_back();
  op->reads = &state;
  op->read = &item;
  op->slot = slot_of(item.location);
  op->version = table_.second(op->slot).load(std::memory_order_acquire);
  const std::array<std::uint64_t, 2> tag{table_.other(op->slot, 2).load(std::memory_order_relaxed),
                                         table_.other(op->slot, 3).load(std::memory_order_relaxed)};
  std::memcpy(op->tag.data(), tag.data(), op->tag.size());
  return op;
}

Op* FileStore::begin_write(Writes& state, Told& told) {
  WriteItem& item = state.batch->items[state.next++];
  PageStatus refused = PageStatus::kPending;
  if (state.cancelled) {
    refused = PageStatus::kCancelled;
  } else if (item.buffer == nullptr || item.location != kNoLocation) {
    ++refused_writes_;
    refused = PageStatus::kUnavailable;
  } else if (occupied_.load() >= limit_.load()) {
    refused = PageStatus::kFull;
  }
  const SlotRun run = refused == PageStatus::kPending ? free_.take(1) : SlotRun{};
  if (run.count == 0) {
    item.location = kNoLocation;
    answer(state, item.status, refused == PageStatus::kPending ? PageStatus::kFull : refused, told.writes);
    return nullptr;
  }
  ++occupied_;
  Op* op = free_ops_.back();
  free_ops_.pop_back();
  op->writes = &state;
  op->write = &item;
  op->slot = run.first;
  op->word = {.generation = table_.load(run.first).generation, .state = SlotState::kStaged};
  table_.word(run.first).store(op->word.pack(), std::memory_order_release);
  op->version = secret_ != nullptr ? secret_->next_version() : 0;
  ++writes_under_way_;
  return op;
}

Op* FileStore::next_op(Told& told) {
  while (!free_ops_.empty()) {
    Op* op = nullptr;
    Chain<Reads>& reads = demand_queue_.empty() ? prefetch_queue_ : demand_queue_;
    if (!reads.empty()) {
      // The batch leaves the queue first: its last item's answer may end it.
      Reads* state = reads.first;
      if (state->next + 1 == state->batch->items.size()) reads.pop();
      op = begin_read(*state, told);
    } else if (!write_queue_.empty()) {
      Writes* state = write_queue_.first;
      if (writes_under_way_ >= ops_.size() / 2 && !state->cancelled) return nullptr;
      if (state->next + 1 == state->batch->items.size()) write_queue_.pop();
      op = begin_write(*state, told);
    } else {
      return nullptr;
    }
    if (op != nullptr) return op;
  }
  return nullptr;
}

void FileStore::pump(std::unique_lock<std::mutex>& lock, Told& told) {
  while (true) {
    Chain<Op> begun;
    while (Op* op = next_op(told)) begun.push(op);
    if (begun.empty()) break;
    lock.unlock();
    for (Op* op = begun.first; op != nullptr; op = op->following) prepare(*op);
    lock.lock();
    while (Op* op = begun.pop()) {
      if (op->ready) {
        place(*op);
      } else {
        op->status = PageStatus::kUnavailable;
        end(*op, told);
      }
    }
    // Where the kernel is short of something, the requests stay in the ring and go with the next ones.
    ::io_uring_submit(&ring_);
  }
}

// Without the lock.
void FileStore::prepare(Op& op) {
  op.ready = true;
  if (op.write == nullptr) return;
  const std::span<const std::byte> page{op.write->buffer, kPageSize};
  const Location location = make_location(op.slot, op.word.generation);
  op.word.crc = crc32c(page, checksum_seed(location));
  if (sealers_ != nullptr) {
    op.ready = sealers_->seal(place_of(op), page, op.buffer, op.tag);
  } else {
    std::memcpy(op.buffer, page.data(), kPageSize);
  }
}

void FileStore::place(Op& op) {
  // There are as many entries as operations, and each has one at most.
  io_uring_sqe* entry = ::io_uring_get_sqe(&ring_);
  const std::uint64_t offset = op.slot * kPageSize;
  const int fd = file_.fd.get();
  if (op.write != nullptr && fixed_) {
    ::io_uring_prep_write_fixed(entry, fd, op.buffer, kPageSize, offset, op.buffer_index);
  } else if (op.write != nullptr) {
    ::io_uring_prep_write(entry, fd, op.buffer, kPageSize, offset);
  } else if (fixed_) {
    ::io_uring_prep_read_fixed(entry, fd, op.buffer, kPageSize, offset, op.buffer_index);
  } else {
    ::io_uring_prep_read(entry, fd, op.buffer, kPageSize, offset);
  }
  ::io_uring_sqe_set_data(entry, &op);
}

// Without the lock.
void FileStore::judge(Op& op, int result) {
  if (result != static_cast<int>(kPageSize)) {
    op.status =
        op.write != nullptr && (result == -ENOSPC || result == -EDQUOT) ? PageStatus::kFull : PageStatus::kUnavailable;
    return;
  }
  op.status = PageStatus::kOk;
  if (op.write != nullptr) return;
  const std::span<const std::byte> bytes{op.buffer, kPageSize};
  const bool opened = sealers_ == nullptr || sealers_->open(place_of(op), bytes, op.tag, op.buffer);
  if (!opened || crc32c(bytes, checksum_seed(op.read->location)) != op.word.crc) {
    ++corrupt_pages_;
    op.status = PageStatus::kCorrupt;
    return;
  }
  std::memcpy(op.read->buffer, op.buffer, kPageSize);
}

void FileStore::end(Op& op, Told& told) {
  if (op.write != nullptr) {
    const bool stored = op.status == PageStatus::kOk;
    op.write->location = stored ? make_location(op.slot, op.word.generation) : kNoLocation;
    if (stored) {
      std::array<std::uint64_t, 2> tag{};
      std::memcpy(tag.data(), op.tag.data(), op.tag.size());
      table_.second(op.slot).store(op.version, std::memory_order_relaxed);
      table_.other(op.slot, 2).store(tag[0], std::memory_order_relaxed);
      table_.other(op.slot, 3).store(tag[1], std::memory_order_relaxed);
      op.word.references = 1;
      op.word.state = SlotState::kLive;
      ++pages_;
    } else {
      op.word = {.generation = static_cast<std::uint8_t>(op.word.generation + 1)};
    }
    // Last: whoever finds the word finds all of the entry.
    table_.word(op.slot).store(op.word.pack(), std::memory_order_release);
    if (!stored) {
      free_.give({op.slot, 1});
      --occupied_;
    }
    --writes_under_way_;
    answer(*op.writes, op.write->status, op.status, told.writes);
  } else {
    if (op.status == PageStatus::kOk) op.read->page = op.read->buffer;
    answer(*op.reads, op.read->status, op.status, told.reads);
  }
  op.reads = nullptr;
  op.writes = nullptr;
  op.read = nullptr;
  op.write = nullptr;
  free_ops_.push_back(&op);
}

void FileStore::reap() {
  std::uint64_t count = 0;
  static_cast<void>(!::read(answers_.get(), &count, sizeof(count)));
  constexpr unsigned kAtOnce = 32;
  std::array<io_uring_cqe*, kAtOnce> entries;
  std::array<std::pair<Op*, int>, kAtOnce> ended;
  std::unique_lock lock(mutex_);
  Told told;
  while (const unsigned got = ::io_uring_peek_batch_cqe(&ring_, entries.data(), kAtOnce)) {
    for (unsigned i = 0; i < got; ++i)
      ended[i] = {static_cast<Op*>(::io_uring_cqe_get_data(entries[i])), entries[i]->res};
    ::io_uring_cq_advance(&ring_, got);
    lock.unlock();
    for (const auto& [op, result] : std::span(ended).first(got)) judge(*op, result);
    lock.lock();
    for (const auto& [op, result] : std::span(ended).first(got)) end(*op, told);
    pump(lock, told);
    lock.unlock();
    tell(told);
    told = {};
    lock.lock();
  }
  if (::io_uring_sq_ready(&ring_) != 0) ::io_uring_submit(&ring_);
}

void FileStore::tell(Told& told) {
  while (Reads* state = told.reads.pop()) {
    ReadBatch& batch = *state->batch;
    {
      const std::lock_guard lock(mutex_);
      state->batch = nullptr;
      free_reads_.push_back(state);
    }
    if (batch.done) batch.done(batch);
  }
  while (Writes* state = told.writes.pop()) {
    WriteBatch& batch = *state->batch;
    {
      const std::lock_guard lock(mutex_);
      state->batch = nullptr;
      free_writes_.push_back(state);
    }
    if (batch.done) batch.done(batch);
  }
}

void FileStore::run() {
  const SystemClock clock;
  while (true) {
    std::array<pollfd, 2> wait{{{answers_.get(), POLLIN, 0}, {ending_.get(), POLLIN, 0}}};
    ::poll(wait.data(), wait.size(), kIdlePollMs);
    if ((wait[1].revents & POLLIN) != 0) return;
    const Nanoseconds taken{taken_at_.load(std::memory_order_relaxed)};
    if (clock.now().since_boot - taken < kLeaveToLoop) {
      pollfd end{ending_.get(), POLLIN, 0};
      ::poll(&end, 1, static_cast<int>(kLeaveToLoop.count()));
    }
    reap();
  }
}

void FileStore::release(std::span<const Location> locations) {
  for (const Location location : locations) {
    const DropResult dropped = table_.drop(location, SlotState::kFree);
    if (dropped == DropResult::kRefused) ++refused_releases_;
    if (dropped != DropResult::kLast) continue;
    --pages_;
    free_.give({slot_of(location), 1});
    --occupied_;
  }
}

void FileStore::for_each_live(const std::function<void(Location, std::uint32_t)>& visit) const {
  table_.for_each_touched([&](std::uint64_t first, std::uint64_t end) {
    for (std::uint64_t slot = first; slot < end; ++slot) {
      const SlotWord word = table_.load(slot);
      if (word.state == SlotState::kLive) visit(make_location(slot, word.generation), word.references);
    }
  });
}

// Nobody writes any more what a predecessor had staged: what is under way when a process ends is ended or taken back by
// the kernel before the ring is gone.
void FileStore::recover() {
  table_.for_each_touched([&](std::uint64_t first, std::uint64_t end) {
    for (std::uint64_t slot = first; slot < end; ++slot) {
      SlotWord word = table_.load(slot);
      const std::uint64_t version = table_.second(slot).load(std::memory_order_relaxed);
      const bool possible = secret_ == nullptr ? version == 0 : version != 0 && version <= secret_->highest_inherited();
      if (!word.plausible() || (word.state == SlotState::kLive && !possible)) {
        word = {.state = SlotState::kBad};
      } else if (word.state != SlotState::kLive && word.state != SlotState::kBad) {
        if (word.state == SlotState::kStaged) ++word.generation;
        word = {.generation = word.generation};
      }
      table_.word(slot).store(word.pack(), std::memory_order_relaxed);
      if (word.state == SlotState::kFree) continue;
      free_.take_one(slot);
      ++occupied_;
      ++(word.state == SlotState::kLive ? pages_ : bad_entries_);
    }
  });
}

Result<> check_depth(const FileStoreOptions& options) {
  if (options.depth >= 8 && options.depth <= 1024) return {};
  return failure(std::errc::invalid_argument, "use", "file store", "its depth must be 8 to 1024");
}

Result<std::unique_ptr<FileStore>> assemble(DirectFile file, SlotTable table, const FileStoreOptions& options) {
  auto free = SlotSet::create(table.slots(), SlotSet::Initially::kFull, SlotSet::Order::kLowest);
  if (!free) return Failure{free.error()};
  return std::make_unique<FileStore>(std::move(file), std::move(table), std::move(*free), options);
}

}  // namespace

Result<std::unique_ptr<EmbeddedStore>> create_file_store(const FileStoreOptions& options) {
  if (auto sound = check_depth(options); !sound) return Failure{sound.error()};
  auto file = open_direct(options.path, options.capacity);
  if (!file) return Failure{file.error()};
  const SlotTableSpec spec{.kind = StoreLayoutKind::kFile,
                           .entry_words = kEntryWords,
                           .unit_bytes = kPageSize,
                           .slots = std::min(whole_pages(file->size).value, kMaxSlots),
                           .data_bytes = file->size,
                           .codec = options.secret != nullptr ? kSealedForm : kPlainForm};
  auto table = SlotTable::create(spec, file->fd.get());
  if (!table) return Failure{table.error()};
  auto store = assemble(std::move(*file), std::move(*table), options);
  if (!store) return Failure{store.error()};
  if (auto started = (*store)->start(options); !started) return Failure{started.error()};
  return std::unique_ptr<EmbeddedStore>(std::move(*store));
}

Result<std::unique_ptr<EmbeddedStore>> open_file_store(UniqueFd data, UniqueFd table_fd,
                                                       const FileStoreOptions& options) {
  if (auto sound = check_depth(options); !sound) return Failure{sound.error()};
  auto table = SlotTable::open(StoreLayoutKind::kFile, std::move(table_fd), data.get());
  if (!table) return Failure{table.error()};
  const StoreHeader& header = table->header();
  if (header.unit_bytes != kPageSize || header.slots > header.data_bytes / kPageSize)
    return failure(std::errc::invalid_argument, "open", "page store table", "its geometry makes no sense");
  if ((header.codec == kSealedForm) != (options.secret != nullptr))
    return failure(
        std::errc::invalid_argument, "open", "page store table",
        header.codec == kSealedForm ? "its pages are sealed: their key is needed" : "its pages are not sealed");
  auto store = assemble({std::move(data), Bytes{header.data_bytes}}, std::move(*table), options);
  if (!store) return Failure{store.error()};
  (*store)->recover();
  if (auto started = (*store)->start(options); !started) return Failure{started.error()};
  return std::unique_ptr<EmbeddedStore>(std::move(*store));
}

}  // namespace tidepool::pool
