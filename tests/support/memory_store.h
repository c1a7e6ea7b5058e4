// A page store for tests: keeps pages in ordinary memory, counts owners, and misbehaves on demand.
#pragma once

#include <array>
#include <atomic>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>

#include "pool/store/page_store.h"

namespace tidepool::tests {

class MemoryStore final : public pool::PageStore {
 public:
  std::string kind() const override { return "test"; }
  bool uses_host_dram() const override { return true; }
  pool::StoreUsage usage() const override {
    const std::lock_guard lock(mutex_);
    pool::StoreUsage usage;
    usage.pages = PageCount{pages_.size()};
    usage.used = Bytes{pages_.size() * kPageSize};
    return usage;
  }
  void stage(std::span<pool::WriteItem>) override {}
  void unstage(std::span<pool::WriteItem> items) override {
    for (auto& item : items) item = {};
  }
  void submit_write(pool::WriteBatch& batch) override {
    {
      const std::lock_guard lock(mutex_);
      for (auto& item : batch.items) {
        if (full) {
          item.status = pool::PageStatus::kFull;
          continue;
        }
        const std::uint64_t key = next_++;
        Page& page = pages_[key];
        page.content = std::make_unique<std::array<std::byte, kPageSize>>();
        std::memcpy(page.content->data(), item.buffer, kPageSize);
        item.location = pool::Location{key};
        item.status = pool::PageStatus::kOk;
      }
    }
    batch.done(batch);
  }
  void submit_read(pool::ReadBatch& batch) override {
    {
      const std::lock_guard lock(mutex_);
      for (auto& item : batch.items) {
        const auto found = pages_.find(static_cast<std::uint64_t>(item.location));
        if (found == pages_.end()) {
          ++reads_of_nothing;
          item.status = pool::PageStatus::kCorrupt;
          continue;
        }
        if (corrupt) {
          item.status = pool::PageStatus::kCorrupt;
          continue;
        }
        if (unavailable > 0) {
          --unavailable;
          item.status = pool::PageStatus::kUnavailable;
          continue;
        }
        std::memcpy(item.buffer, found->second.content->data(), kPageSize);
        item.page = item.buffer;
        item.status = pool::PageStatus::kOk;
      }
    }
    batch.done(batch);
  }
  void cancel(pool::WriteBatch&) override {}
  void cancel(pool::ReadBatch&) override {}
  Result<> retain(pool::Location location) override {
    const std::lock_guard lock(mutex_);
    const auto found = pages_.find(static_cast<std::uint64_t>(location));
    if (found == pages_.end()) return failure(std::errc::no_such_file_or_directory, "retain", "page");
    ++found->second.owners;
    return {};
  }
  void release(std::span<const pool::Location> locations) override {
    const std::lock_guard lock(mutex_);
    for (const pool::Location location : locations) {
      const auto found = pages_.find(static_cast<std::uint64_t>(location));
      if (found == pages_.end()) {
        ++double_releases;
      } else if (--found->second.owners == 0) {
        pages_.erase(found);
      }
    }
  }

  std::atomic<bool> full{false};
  std::atomic<bool> corrupt{false};
  std::atomic<int> unavailable{0};  // this many reads fail, then they work again
  std::atomic<int> double_releases{0};
  std::atomic<int> reads_of_nothing{0};

 private:
  struct Page {
    std::unique_ptr<std::array<std::byte, kPageSize>> content;
    int owners = 1;
  };
  mutable std::mutex mutex_;
  std::map<std::uint64_t, Page> pages_;
  std::uint64_t next_ = 1;
};

}  // namespace tidepool::tests
