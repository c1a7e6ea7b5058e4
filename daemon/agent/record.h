// Bounded records of what happened, numbered, oldest dropped first. Thread-safe.
#pragma once

#include <algorithm>
#include <deque>
#include <mutex>
#include <string_view>

#include "daemon/control/agent_service.h"

namespace tidepool::daemon {

template <class T>
class Record {
 public:
  explicit Record(std::size_t capacity) : capacity_(std::max<std::size_t>(1, capacity)) {}

  void add(T item) {
    const std::lock_guard lock(mutex_);
    item.sequence = ++last_;
    item.at = std::chrono::system_clock::now();
    items_.push_back(std::move(item));
    if (items_.size() > capacity_) items_.pop_front();
  }

  // `vm` empty: everything.
  LogPage<T> since(std::string_view vm, std::uint64_t sequence, std::size_t limit) const {
    const std::lock_guard lock(mutex_);
    LogPage<T> page;
    page.last_sequence = last_;
    page.began = began_;
    page.lost = !items_.empty() && sequence != 0 && items_.front().sequence > sequence + 1;
    for (const T& item : items_) {
      if (item.sequence <= sequence || (!vm.empty() && item.vm != vm)) continue;
      if (page.items.size() == limit) break;
      page.items.push_back(item);
    }
    return page;
  }

  // The newest that `matches`.
  template <class Predicate>
  std::optional<T> newest(Predicate&& matches) const {
    const std::lock_guard lock(mutex_);
    const auto found = std::find_if(items_.rbegin(), items_.rend(), matches);
    return found == items_.rend() ? std::nullopt : std::optional<T>(*found);
  }

 private:
  const std::size_t capacity_;
  const std::chrono::system_clock::time_point began_ = std::chrono::system_clock::now();
  mutable std::mutex mutex_;
  std::deque<T> items_;
  std::uint64_t last_ = 0;
};

}  // namespace tidepool::daemon
