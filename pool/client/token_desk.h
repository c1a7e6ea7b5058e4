// Where stores ask for tokens, and the thread that talks with the controller takes up what was asked. Thread-safe.
#pragma once

#include <mutex>
#include <utility>
#include <vector>

#include "pool/client/remote_store.h"

namespace tidepool::pool {

class TokenDesk {
 public:
  struct Asked {
    LeaseWish wish;
    LeaseAnswer answer;
  };

  void ask(const LeaseWish& wish, LeaseAnswer answer) {
    {
      const std::lock_guard lock(mutex_);
      if (asked_.size() < kMost) return asked_.push_back({wish, std::move(answer)});
    }
    answer(failure(std::errc::no_buffer_space, "ask for", "a lease", "too many are asked for already"));
  }
  std::vector<Asked> take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(asked_, {});
  }

 private:
  static constexpr std::size_t kMost = 1 << 20;  // slices of a host, by far
  std::mutex mutex_;
  std::vector<Asked> asked_;
};

}  // namespace tidepool::pool
