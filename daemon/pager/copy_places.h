// Memory for pages on their way out: a place for the copies of each region that is being stored, where the store lends
// none, and one for the second reading. Stores in local memory and those that answer later have places apart, so that
// the one never waits for the other; the latter get theirs when they are first needed. The demotion thread's own, but
// for size().
#pragma once

#include <atomic>
#include <cstring>
#include <vector>

#include "base/mapping.h"
#include "daemon/pager/demotion_job.h"

namespace tidepool::daemon {

class CopyPlaces {
 public:
  Result<> prepare() {
    if (auto near = near_.make(kPlaces, DemotionJob::kSecondReading); !near) return near;
    size_ = near_.memory.size();
    return {};
  }
  bool any(const pool::PageStore& store) { return !of(store).free.empty(); }
  // Only when there is any.
  std::byte* take(const pool::PageStore& store) {
    std::byte* const place = of(store).free.back();
    of(store).free.pop_back();
    return place;
  }
  void give(const pool::PageStore& store, std::byte* place) { of(store).free.push_back(place); }
  std::byte* second_reading() { return near_.memory.data() + kPlaces * DemotionJob::kCopies.value; }
  Bytes size() const { return Bytes{size_}; }

 private:
  static constexpr std::size_t kPlaces = 2;
  static constexpr std::size_t kPlacesForLater = 8;

  struct Places {
    Mapping memory;
    std::vector<std::byte*> free;

    Result<> make(std::size_t count, Bytes more) {
      auto mapped = Mapping::anonymous(DemotionJob::kCopies * count + more);
      if (!mapped) return Failure{mapped.error()};
      memory = std::move(*mapped);
      // Touched now: demotion must not need memory at the moment when there is none left.
      std::memset(memory.data(), 0, memory.size());
      for (std::size_t i = 0; i < count; ++i) free.push_back(memory.data() + i * DemotionJob::kCopies.value);
      return {};
    }
  };

  Places& of(const pool::PageStore& store) {
    if (!store.answers_later()) return near_;
    // Without memory for them, those VMs wait.
    if (later_.memory.size() == 0 && later_.make(kPlacesForLater, Bytes{})) size_ += later_.memory.size();
    return later_;
  }

  Places near_;
  Places later_;
  std::atomic<std::size_t> size_{0};
};

}  // namespace tidepool::daemon
