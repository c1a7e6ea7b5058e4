// The remote store with threads: links that answer on threads of their own, writers, readers and a store that works by
// itself.
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <thread>

#include "tests/unit/pool/client/remote_kit.h"

namespace tidepool::pool::testing {
namespace {

using protocol::ErrorCode;

// A server that keeps pages in this process. Every second of them forgets an answer now and then.
class ThreadedLink final : public Link {
 public:
  ThreadedLink(std::string name, unsigned lose_every) : name_(std::move(name)), lose_every_(lose_every) {}
  ~ThreadedLink() override {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    wake_.notify_all();
    if (thread_.joinable()) thread_.join();
    for (const auto& task : tasks_) task(false);
  }

  const std::string& server() const override { return name_; }
  void listen(LinkEvents events) override {
    events_ = std::move(events);
    thread_ = std::thread([this] { run(); });
  }
  void attach(const Lease&, std::function<void(AttachOutcome, ErrorCode)> done) override {
    queue([done = std::move(done)](bool well) {
      done(well ? AttachOutcome::kCreated : AttachOutcome::kLost, ErrorCode::kOk);
    });
  }
  void release(protocol::SliceId) override {}
  void submit(LinkRequest& request) override {
    queue([this, &request](bool well) {
      if (!well) return request.done(request, LinkOutcome::kLost);
      for (LinkItem& item : request.items) serve(request, item);
      const bool lost = lose_every_ != 0 && request.op == LinkOp::kRead && ++served_ % lose_every_ == 0;
      request.done(request, lost ? LinkOutcome::kLate : LinkOutcome::kAnswered);
    });
  }
  bool cancel(LinkRequest&) override { return false; }
  int answers_descriptor() const override { return -1; }
  void take_answers() override {}
  LinkFigures figures() const override {
    LinkFigures figures;
    figures.slow_read = std::chrono::microseconds(20);
    return figures;
  }

 private:
  void queue(std::function<void(bool)> task) {
    {
      const std::lock_guard lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    wake_.notify_one();
  }
  void run() {
    events_.up(false);
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [this] { return ending_ || !tasks_.empty(); });
      if (ending_) return;
      const auto task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task(true);
      lock.lock();
    }
  }
  void serve(const LinkRequest& request, LinkItem& item) {
    StoredPage& page = pages_[{static_cast<std::uint64_t>(request.slice), item.slot}];
    if (request.op == LinkOp::kRead) {
      item.status = page.length == 0 ? ErrorCode::kEmpty : ErrorCode::kOk;
      item.version = page.version;
      item.length = page.length;
      item.tag = page.tag;
      std::memcpy(item.payload, page.bytes.data(), page.bytes.size());
    } else if (item.version <= page.version) {
      item.status = ErrorCode::kStaleVersion;
    } else {
      item.status = ErrorCode::kOk;
      page = {item.version, item.length, item.tag, {}};
      if (request.op == LinkOp::kWrite) page.bytes.assign(item.payload, item.payload + item.length);
    }
  }

  const std::string name_;
  const unsigned lose_every_;
  std::uint64_t served_ = 0;
  LinkEvents events_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void(bool)>> tasks_;
  bool ending_ = false;
  std::map<std::pair<std::uint64_t, std::uint32_t>, StoredPage> pages_;  // the thread's own
  std::thread thread_;
};

// Waits for a batch that is answered on another thread.
class Answer {
 public:
  void tell() {
    const std::lock_guard lock(mutex_);
    told_ = true;
    wake_.notify_all();
  }
  void await() {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(wake_.wait_for(lock, std::chrono::seconds(60), [this] { return told_; }));
  }

 private:
  std::mutex mutex_;
  std::condition_variable wake_;
  bool told_ = false;
};

void work_on(RemoteStore& store, std::uint64_t thread, unsigned rounds) {
  for (unsigned round = 0; round < rounds; ++round) {
    constexpr std::size_t kPages = 24;
    std::vector<Page> pages;
    std::vector<WriteItem> items(kPages);
    for (std::size_t i = 0; i < kPages; ++i) pages.push_back(quick_page(thread << 32 | round << 8 | i));
    for (std::size_t i = 0; i < kPages; ++i) items[i].buffer = pages[i].bytes.data();
    Answer written;
    WriteBatch write{items, Priority::kWriteBack, [&](WriteBatch&) { written.tell(); }};
    store.submit_write(write);
    if (round % 7 == 0) store.cancel(write);
    written.await();
    std::vector<Location> locations;
    for (std::size_t i = 0; i < kPages; ++i) {
      if (items[i].status != PageStatus::kOk) continue;
      locations.push_back(items[i].location);
      Page page;
      ReadItem item{.location = items[i].location, .buffer = page.bytes.data()};
      while (item.status != PageStatus::kOk) {
        Answer read;
        ReadBatch batch{std::span(&item, 1), i % 2 == 0 ? Priority::kDemand : Priority::kPrefetch,
                        [&](ReadBatch&) { read.tell(); }};
        store.submit_read(batch);
        if (i % 5 == 0) store.cancel(batch);
        read.await();
        if (item.status == PageStatus::kOk) {
          ASSERT_EQ(page, pages[i]);
        }
        ASSERT_NE(item.status, PageStatus::kCorrupt);
        if (item.status == PageStatus::kCancelled) break;
      }
    }
    store.release(locations);
  }
}

TEST(RemoteStoreThreads, ManyThreadsReadWriteReleaseAndCancel) {
  RemoteStoreOptions options;
  options.capacity = Bytes{64ull << 20};
  options.slice = Bytes{2ull << 20};
  options.most_in_flight = Bytes{512ull << 10};
  options.most_reads = 8;
  options.hedge_least = std::chrono::microseconds(1);
  std::vector<RemoteServer> servers;
  for (unsigned i = 0; i < 3; ++i) {
    servers.emplace_back();
    servers.back().link = std::make_unique<ThreadedLink>("server-" + std::to_string(i), i == 1 ? 3 : 0);
  }
  auto made = create_remote_store(std::move(servers), any_lease, std::move(*VmSecret::create()), options);
  ASSERT_TRUE(made) << made.error().message();
  for (int tries = 0; (*made)->figures().servers[0].up + (*made)->figures().servers[1].up < 2 && tries < 10'000;
       ++tries)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  {
    std::vector<std::jthread> threads;
    for (std::uint64_t thread = 1; thread <= 4; ++thread)
      threads.emplace_back([&store = **made, thread] { work_on(store, thread, 40); });
    threads.emplace_back([&store = **made] {
      for (int i = 0; i < 200; ++i) {
        static_cast<void>(store.figures());
        static_cast<void>(store.usage());
        store.take_answers();
        std::this_thread::yield();
      }
    });
  }
  EXPECT_EQ((*made)->usage().pages, PageCount{0});
}

TEST(RemoteStoreThreads, EndsWhileThereIsWorkUnderWay) {
  for (int round = 0; round < 20; ++round) {
    RemoteStoreOptions options;
    options.capacity = Bytes{8ull << 20};
    options.slice = Bytes{2ull << 20};
    std::vector<RemoteServer> servers;
    for (unsigned i = 0; i < 2; ++i) {
      servers.emplace_back();
      servers.back().link = std::make_unique<ThreadedLink>("server-" + std::to_string(i), 0);
    }
    auto made = create_remote_store(std::move(servers), any_lease, std::move(*VmSecret::create()), options);
    ASSERT_TRUE(made);
    std::vector<Page> pages(100);
    std::vector<WriteItem> items(100);
    for (std::size_t i = 0; i < items.size(); ++i) items[i].buffer = pages[i].bytes.data();
    std::atomic<bool> done{false};
    WriteBatch batch{items, Priority::kWriteBack, [&](WriteBatch&) { done = true; }};
    (*made)->submit_write(batch);
    made->reset();
    EXPECT_TRUE(done) << "a batch was forgotten";
  }
}

}  // namespace
}  // namespace tidepool::pool::testing
