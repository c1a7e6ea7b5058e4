// A page store for tests that answers later: another one behind a queue, as if it were far away.
#pragma once

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <variant>
#include <vector>

#include "base/unique_fd.h"
#include "pool/store/page_store.h"

namespace tidepool::tests {

class LaterStore final : public pool::PageStore {
 public:
  // Who brings the answers to reads: a thread of the store's, or whoever watches answers_descriptor() and asks.
  enum class Answers { kByThread, kWhenAsked };

  LaterStore(pool::PageStore& behind, Answers answers, std::chrono::microseconds slowest, std::uint64_t seed,
             bool lends = true)
      : behind_(behind), answers_(answers), lends_(lends), slowest_(slowest), random_(seed) {
    if (answers == Answers::kWhenAsked) event_ = UniqueFd{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    thread_ = std::thread([this] { work(); });
  }
  ~LaterStore() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      hold_ = false;
    }
    wake_.notify_all();
    thread_.join();
    take_answers();
  }

  // Nothing is answered until it ends; what is cancelled is.
  void hold(bool on) {
    {
      const std::lock_guard lock(mutex_);
      hold_ = on;
    }
    wake_.notify_all();
  }
  std::size_t waiting_writes() const { return count<pool::WriteBatch>(); }
  std::size_t waiting_reads() const { return count<pool::ReadBatch>(); }

  std::string kind() const override { return "later"; }
  bool uses_host_dram() const override { return behind_.uses_host_dram(); }
  pool::StoreUsage usage() const override { return behind_.usage(); }
  void stage(std::span<pool::WriteItem> items) override {
    if (!lends_) return;
    const std::lock_guard lock(mutex_);
    for (auto& item : items) {
      if (item.buffer != nullptr) continue;
      places_.push_back(std::make_unique<Place>());
      item.buffer = places_.back()->data();
    }
  }
  void unstage(std::span<pool::WriteItem> items) override {
    for (auto& item : items) {
      take_place(item.buffer);
      item = {};
    }
  }
  bool lends_places() const override { return lends_; }
  bool answers_later() const override { return true; }
  void submit_write(pool::WriteBatch& batch) override { queue(&batch); }
  void submit_read(pool::ReadBatch& batch) override { queue(&batch); }
  int answers_descriptor() const override { return event_.valid() ? event_.get() : -1; }
  void take_answers() override {
    std::uint64_t ignored;
    if (event_.valid() && ::read(event_.get(), &ignored, sizeof ignored) < 0 && errno != EAGAIN) std::abort();
    std::vector<pool::ReadBatch*> ready;
    {
      const std::lock_guard lock(mutex_);
      ready.swap(ready_);
    }
    for (pool::ReadBatch* batch : ready) batch->done(*batch);
  }
  void cancel(pool::WriteBatch& batch) override { cancel_queued(batch); }
  void cancel(pool::ReadBatch& batch) override { cancel_queued(batch); }
  Result<> retain(pool::Location location) override { return behind_.retain(location); }
  void release(std::span<const pool::Location> locations) override { behind_.release(locations); }

 private:
  using Place = std::array<std::byte, kPageSize>;
  using Queued = std::variant<pool::WriteBatch*, pool::ReadBatch*>;

  template <class Batch>
  std::size_t count() const {
    const std::lock_guard lock(mutex_);
    return static_cast<std::size_t>(std::count_if(
        queue_.begin(), queue_.end(), [](const Queued& queued) { return std::holds_alternative<Batch*>(queued); }));
  }
  void queue(Queued batch) {
    {
      const std::lock_guard lock(mutex_);
      queue_.push_back(batch);
    }
    wake_.notify_all();
  }
  template <class Batch>
  void cancel_queued(Batch& batch) {
    {
      const std::lock_guard lock(mutex_);
      const auto found = std::find(queue_.begin(), queue_.end(), Queued{&batch});
      if (found == queue_.end()) return;
      queue_.erase(found);
    }
    for (auto& item : batch.items) item.status = pool::PageStatus::kCancelled;
    finish(batch);
  }
  void take_place(const std::byte* buffer) {
    const std::lock_guard lock(mutex_);
    std::erase_if(places_, [&](const auto& place) { return place->data() == buffer; });
  }
  // As stores do: what was lent for a page that is not stored is the store's again; the bytes of one that is stay
  // readable for the comparison.
  void finish(pool::WriteBatch& batch) { batch.done(batch); }
  void finish(pool::ReadBatch& batch) {
    if (answers_ == Answers::kByThread) return batch.done(batch);
    {
      const std::lock_guard lock(mutex_);
      ready_.push_back(&batch);
    }
    const std::uint64_t one = 1;
    if (::write(event_.get(), &one, sizeof one) < 0) std::abort();
  }
  // Runs the batch in the store behind, and answers in its place.
  template <class Batch>
  void answer(Batch& batch) {
    const auto done = std::move(batch.done);
    batch.done = [](Batch&) {};
    if constexpr (std::is_same_v<Batch, pool::WriteBatch>) {
      behind_.submit_write(batch);
    } else {
      behind_.submit_read(batch);
    }
    batch.done = done;
    finish(batch);
  }
  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return stopping_ || (!hold_ && !queue_.empty()); });
      if (queue_.empty() && stopping_) return;
      const auto pause = std::chrono::microseconds(random_() % static_cast<std::uint64_t>(slowest_.count() + 1));
      wake_.wait_for(lock, pause, [&] { return stopping_; });
      if (queue_.empty() || hold_) continue;
      // Out of order, as over a network.
      const std::size_t which = random_() % queue_.size();
      const Queued next = queue_[which];
      queue_.erase(queue_.begin() + static_cast<std::ptrdiff_t>(which));
      lock.unlock();
      std::visit([&](auto* batch) { answer(*batch); }, next);
      lock.lock();
    }
  }

  pool::PageStore& behind_;
  const Answers answers_;
  const bool lends_;
  const std::chrono::microseconds slowest_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::mt19937_64 random_;
  std::deque<Queued> queue_;
  std::vector<pool::ReadBatch*> ready_;
  std::vector<std::unique_ptr<Place>> places_;
  UniqueFd event_;
  bool hold_ = false;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace tidepool::tests
