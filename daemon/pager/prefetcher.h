// Finds the stride in a sequence of faults: Boyer-Moore majority over the last deltas, in a window that grows from a
// quarter of the history to all of it (after Leap, USENIX ATC'20). No majority: no prefetch. Pure; one per address
// space, for the fault loop's use.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

namespace tidepool::daemon {

struct PrefetchAdvice {
  std::int64_t stride = 0;  // pages
  unsigned pages = 0;       // how many to fetch ahead
};

class Prefetcher {
 public:
  // Tells of a demand fault on `page`; answers what to fetch behind it, at most so many pages.
  std::optional<PrefetchAdvice> on_fault(std::uint64_t page, unsigned max_pages);
  // Where a fault says that the stream goes on behind what was fetched.
  bool expects(std::uint64_t page) const { return any_ && expected_next_ != 0 && page == expected_next_; }

 private:
  static constexpr unsigned kHistory = 16;
  static constexpr unsigned kFirstAhead = 16;

  std::optional<std::int64_t> majority() const;

  std::array<std::int64_t, kHistory> deltas_{};
  unsigned recorded_ = 0;
  std::uint64_t last_page_ = 0;
  bool any_ = false;
  // Where a sequential reader will fault next if everything prefetched is used; faulting just there doubles the
  // distance.
  std::uint64_t expected_next_ = 0;
  unsigned ahead_ = kFirstAhead;
};

}  // namespace tidepool::daemon
