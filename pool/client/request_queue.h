// Requests that wait for the server's credit or for the socket: demand first, then prefetch, then write-back; in order
// within each. Bounded. Not thread-safe: its connection's lock guards it.
#pragma once

#include <array>
#include <cstddef>
#include <deque>

#include "pool/client/link.h"

namespace tidepool::pool {

class RequestQueue {
 public:
  static constexpr std::size_t kMost = 4096;

  bool empty() const { return size_ == 0; }
  std::size_t size() const { return size_; }
  // False when there is no room.
  bool push(LinkRequest& request) {
    if (size_ == kMost) return false;
    lane(request.priority).push_back(&request);
    ++size_;
    return true;
  }
  // The next one; not empty.
  LinkRequest& front() {
    for (auto& requests : lanes_) {
      if (!requests.empty()) return *requests.front();
    }
    __builtin_unreachable();
  }
  void pop() {
    for (auto& requests : lanes_) {
      if (requests.empty()) continue;
      requests.pop_front();
      --size_;
      return;
    }
  }
  // Whether one of this priority would be the next to go.
  bool lets_pass(Priority priority) const {
    for (std::size_t i = 0; i <= static_cast<std::size_t>(priority); ++i) {
      if (!lanes_[i].empty()) return false;
    }
    return true;
  }
  bool remove(const LinkRequest& request) {
    return remove_if([&](const LinkRequest& one) { return &one == &request; }, [](LinkRequest&) {}) != 0;
  }
  // Takes out those for which `which` is true, and gives them to `out`.
  template <class Which, class Out>
  std::size_t remove_if(Which which, Out out) {
    std::size_t removed = 0;
    for (auto& requests : lanes_) {
      removed += std::erase_if(requests, [&](LinkRequest* request) {
        if (!which(*request)) return false;
        out(*request);
        return true;
      });
    }
    size_ -= removed;
    return removed;
  }

 private:
  std::deque<LinkRequest*>& lane(Priority priority) { return lanes_[static_cast<std::size_t>(priority)]; }

  std::array<std::deque<LinkRequest*>, 3> lanes_;  // by Priority
  std::size_t size_ = 0;
};

}  // namespace tidepool::pool
