#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "pool/store/crc32c.h"
#include "pool/store/file_store_core.h"

namespace tidepool::pool::file {
namespace {

// How long the store's own thread leaves answers to a loop that has just taken some itself.
constexpr auto kLeaveToLoop = std::chrono::milliseconds(2);

}  // namespace

void FileStore::submit_write(WriteBatch& batch) {
  submit(batch, free_writes_, write_states_, write_queue_);
}
void FileStore::submit_read(ReadBatch& batch) {
  submit(batch, free_reads_, read_states_, batch.priority == Priority::kDemand ? demand_queue_ : prefetch_queue_);
}
void FileStore::cancel(WriteBatch& batch) {
  cancel_in(batch, write_states_);
}
void FileStore::cancel(ReadBatch& batch) {
  cancel_in(batch, read_states_);
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

void FileStore::take_answers() {
  taken_at_.store(SystemClock().now().since_boot.count(), std::memory_order_relaxed);
  reap();
}

}  // namespace tidepool::pool::file
