// Pages on a disk that does to them what it likes.
#include "pool/store/file_store.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/file.h>
#include <unistd.h>

#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "tests/unit/pool/store/store_kit.h"

namespace tidepool::pool::testing {
namespace {

std::string scratch(const std::string& name) {
  return std::string(TIDEPOOL_BINARY_DIR) + "/tests/" + name + "-" + std::to_string(::getpid());
}

template <class Batch>
class Awaited {
 public:
  Awaited(std::span<typename std::remove_reference_t<decltype(Batch::items[0])>> items, Priority priority)
      : batch_{items, priority, [this](Batch&) { tell(); }} {}
  Batch& batch() { return batch_; }
  void await() {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(wake_.wait_for(lock, std::chrono::seconds(60), [this] { return told_; }));
  }

 private:
  void tell() {
    const std::lock_guard lock(mutex_);
    EXPECT_FALSE(told_);
    told_ = true;
    wake_.notify_all();
  }
  std::mutex mutex_;
  std::condition_variable wake_;
  bool told_ = false;
  Batch batch_;
};

class FileStoreTest : public ::testing::Test {
 protected:
  void make(std::uint64_t pages = 1024, bool sealed = true) {
    if (sealed) options_.secret = std::move(*VmSecret::create());
    options_.path = scratch("file-store");
    options_.capacity = Bytes{pages * kPageSize};
    options_.depth = 16;
    auto made = create_file_store(options_);
    ASSERT_TRUE(made) << made.error().message();
    store_ = std::move(*made);
  }

  std::vector<Location> write(std::uint64_t first, std::size_t count) {
    std::vector<Page> pages;
    for (std::size_t i = 0; i < count; ++i) pages.push_back(make_page(first + i));
    std::vector<WriteItem> items(count);
    for (std::size_t i = 0; i < count; ++i) items[i].buffer = pages[i].bytes.data();
    Awaited<WriteBatch> written(items, Priority::kWriteBack);
    store_->submit_write(written.batch());
    written.await();
    std::vector<Location> locations;
    for (const WriteItem& item : items) {
      EXPECT_EQ(item.status, PageStatus::kOk);
      locations.push_back(item.location);
    }
    return locations;
  }

  PageStatus read(Location location, std::uint64_t seed) {
    Page page;
    ReadItem item{.location = location, .buffer = page.bytes.data()};
    Awaited<ReadBatch> answer(std::span(&item, 1), Priority::kDemand);
    store_->submit_read(answer.batch());
    answer.await();
    if (item.status == PageStatus::kOk) {
      EXPECT_EQ(item.page, page.bytes.data());
      EXPECT_EQ(page, make_page(seed)) << "WRONG BYTES";
    }
    return item.status;
  }

  UniqueFd held(const std::string& name) const {
    for (const auto& [known, fd] : store_->held_descriptors())
      if (known == name) return UniqueFd{::fcntl(fd, F_DUPFD_CLOEXEC, 0)};
    return {};
  }
  Page on_disk(Location location) const {
    Page page;
    EXPECT_EQ(::pread(held("store/data").get(), page.bytes.data(), kPageSize,
                      static_cast<off_t>(slot_of(location) * kPageSize)),
              static_cast<ssize_t>(kPageSize));
    return page;
  }
  void put_on_disk(Location location, const Page& page) const {
    EXPECT_EQ(::pwrite(held("store/data").get(), page.bytes.data(), kPageSize,
                       static_cast<off_t>(slot_of(location) * kPageSize)),
              static_cast<ssize_t>(kPageSize));
  }
  static std::uint64_t slot_of(Location location) { return static_cast<std::uint64_t>(location) & 0xffffffffull; }

  FileStoreOptions options_;
  std::unique_ptr<EmbeddedStore> store_;
};

TEST_F(FileStoreTest, GivesBackWhatWasStoredAndLeavesNoFile) {
  make();
  EXPECT_FALSE(std::filesystem::exists(options_.path));
  const auto locations = write(0, 500);
  for (std::uint64_t i = 0; i < 500; ++i) ASSERT_EQ(read(locations[i], i), PageStatus::kOk);
  EXPECT_EQ(store_->usage().pages, PageCount{500});
  EXPECT_EQ(std::set(locations.begin(), locations.end()).size(), 500u);
}

TEST_F(FileStoreTest, NobodyCanReadADisk) {
  make();
  const auto locations = write(0, 20);
  for (std::uint64_t i = 0; i < 20; ++i) {
    const Page stored = on_disk(locations[i]);
    const Page plain = make_page(i);
    for (std::size_t at = 0; at + 16 <= kPageSize; at += 16)
      ASSERT_NE(std::memcmp(stored.bytes.data() + at, plain.bytes.data() + at, 16), 0);
  }
}

TEST_F(FileStoreTest, WhatChangedMovedOrGrewOldIsFound) {
  for (const bool sealed : {true, false}) {
    options_ = {};
    make(1024, sealed);
    const auto first = write(0, 30);
    std::map<std::uint64_t, Page> old;
    for (const Location location : first) old[slot_of(location)] = on_disk(location);
    store_->release(first);
    const auto locations = write(100, 30);
    for (std::uint64_t i = 0; i < 30; ++i) {
      const Page right = on_disk(locations[i]);
      Page wrong = right;
      wrong.bytes[i * 131 % kPageSize] ^= std::byte{1};
      put_on_disk(locations[i], wrong);
      EXPECT_EQ(read(locations[i], 100 + i), PageStatus::kCorrupt);
      put_on_disk(locations[i], on_disk(locations[(i + 1) % 30]));
      EXPECT_EQ(read(locations[i], 100 + i), PageStatus::kCorrupt);
      ASSERT_TRUE(old.contains(slot_of(locations[i])));
      put_on_disk(locations[i], old[slot_of(locations[i])]);
      EXPECT_EQ(read(locations[i], 100 + i), PageStatus::kCorrupt);
      put_on_disk(locations[i], right);
      EXPECT_EQ(read(locations[i], 100 + i), PageStatus::kOk);
    }
    EXPECT_EQ(store_->errors().corrupt_pages, 90u);
  }
}

TEST_F(FileStoreTest, IsFullAtItsCapacityAndHasRoomAgain) {
  make(64);
  const auto locations = write(0, 64);
  Page page;
  WriteItem item{.buffer = page.bytes.data()};
  Awaited<WriteBatch> full(std::span(&item, 1), Priority::kWriteBack);
  store_->submit_write(full.batch());
  full.await();
  EXPECT_EQ(item.status, PageStatus::kFull);
  EXPECT_EQ(item.location, kNoLocation);
  store_->release(std::span(locations).first(1));
  EXPECT_EQ(read(locations[0], 0), PageStatus::kCorrupt);
  const auto again = write(7, 1);
  EXPECT_EQ(read(again[0], 7), PageStatus::kOk);
  EXPECT_FALSE(store_->set_capacity(Bytes{65 * kPageSize}));
}

TEST_F(FileStoreTest, ASuccessorHasEveryPage) {
  make();
  const auto locations = write(0, 100);
  ASSERT_TRUE(store_->retain(locations[1]));
  store_->release(std::span(locations).first(1));
  UniqueFd data = held("store/data");
  UniqueFd table = held("store/table");
  const UniqueFd key{::fcntl(options_.secret->fd(), F_DUPFD_CLOEXEC, 0)};
  store_.reset();
  options_.secret.reset();
  EXPECT_FALSE(open_file_store(UniqueFd{::dup(data.get())}, UniqueFd{::dup(table.get())}, options_));
  options_.secret = std::move(*VmSecret::open(UniqueFd{::dup(key.get())}));
  auto opened = open_file_store(std::move(data), std::move(table), options_);
  ASSERT_TRUE(opened) << opened.error().message();
  store_ = std::move(*opened);
  std::map<Location, std::uint32_t> live;
  store_->for_each_live([&](Location location, std::uint32_t owners) { live[location] = owners; });
  EXPECT_EQ(live.size(), 99u);
  EXPECT_EQ(live[locations[1]], 2u);
  for (std::uint64_t i = 1; i < 100; ++i) ASSERT_EQ(read(locations[i], i), PageStatus::kOk);
  const auto more = write(500, 100);
  for (std::uint64_t i = 0; i < 100; ++i) ASSERT_EQ(read(more[i], 500 + i), PageStatus::kOk);
  for (std::uint64_t i = 1; i < 100; ++i) ASSERT_EQ(read(locations[i], i), PageStatus::kOk);
}

TEST_F(FileStoreTest, ALoopTakesAnswersItself) {
  make();
  const auto locations = write(0, 8);
  ASSERT_GE(store_->answers_descriptor(), 0);
  for (std::uint64_t i = 0; i < 200; ++i) {
    Page page;
    ReadItem item{.location = locations[i % 8], .buffer = page.bytes.data()};
    std::atomic<bool> done{false};
    ReadBatch batch{std::span(&item, 1), Priority::kDemand, [&](ReadBatch&) { done = true; }};
    store_->submit_read(batch);
    for (int tries = 0; !done && tries < 60'000; ++tries) {
      pollfd wait{store_->answers_descriptor(), POLLIN, 0};
      ::poll(&wait, 1, 1);
      store_->take_answers();
    }
    ASSERT_TRUE(done);
    ASSERT_EQ(page, make_page(i % 8));
  }
}

TEST_F(FileStoreTest, CancelAnswersEveryItemOnce) {
  make(4096);
  std::vector<Page> pages(2000);
  std::vector<WriteItem> items(pages.size());
  for (std::size_t i = 0; i < items.size(); ++i) items[i].buffer = pages[i].bytes.data();
  Awaited<WriteBatch> written(items, Priority::kWriteBack);
  store_->submit_write(written.batch());
  store_->cancel(written.batch());
  written.await();
  std::uint64_t stored = 0;
  for (const WriteItem& item : items) {
    EXPECT_TRUE(item.status == PageStatus::kOk || item.status == PageStatus::kCancelled);
    stored += item.status == PageStatus::kOk;
  }
  EXPECT_EQ(store_->usage().pages, PageCount{stored});
}

TEST_F(FileStoreTest, ManyThreadsReadWriteAndRelease) {
  make(4096);
  std::vector<std::jthread> threads;
  for (std::uint64_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([this, thread] {
      for (std::uint64_t round = 0; round < 20; ++round) {
        const std::uint64_t first = thread << 32 | round << 8;
        const auto locations = write(first, 20);
        for (std::uint64_t i = 0; i < 20; ++i) ASSERT_EQ(read(locations[i], first + i), PageStatus::kOk);
        store_->release(locations);
      }
    });
  }
  threads.clear();
  EXPECT_EQ(store_->usage().pages, PageCount{0});
}

TEST_F(FileStoreTest, RefusesWhatIsNotItsOwn) {
  options_.capacity = Bytes{1 << 20};
  options_.path = scratch("file-with-data");
  std::ofstream(options_.path) << "somebody's";
  EXPECT_FALSE(create_file_store(options_));
  EXPECT_EQ(std::filesystem::file_size(options_.path), 10u);
  std::filesystem::resize_file(options_.path, 0);
  {
    const UniqueFd other{::open(options_.path.c_str(), O_RDWR | O_CLOEXEC)};
    ASSERT_EQ(::flock(other.get(), LOCK_EX | LOCK_NB), 0);
    EXPECT_FALSE(create_file_store(options_));
  }
  EXPECT_TRUE(create_file_store(options_));
  std::filesystem::remove(options_.path);
  for (const char* path : {"/", "/dev/null", "/nowhere/at/all", "/proc/self/status"}) {
    options_.path = path;
    EXPECT_FALSE(create_file_store(options_)) << path;
  }
}

}  // namespace
}  // namespace tidepool::pool::testing
