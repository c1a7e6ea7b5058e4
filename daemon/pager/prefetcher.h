// Finds the stream in a sequence of faults. Boyer-Moore majority over the last distances, in a window that grows from a
// quarter of the history to all of it (after Leap, USENIX ATC'20), finds strides; a stream that walks through memory of
// which only some is far has no constant stride, and is known by steps that are short and lead the same way. Neither:
// no prefetch. Pure; one per address space, for the fault loop's use.
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
  // Where a fault says that the stream goes on behind what was fetched: there, or behind some pages that were not far.
  bool expects(std::uint64_t page) const;

 private:
  static constexpr unsigned kHistory = 16;
  static constexpr unsigned kFirstAhead = 16;
  static constexpr std::int64_t kShortStep = 16;  // pages; up to there a step belongs to a walk
  static constexpr std::int64_t kGap = 64;        // pages behind the window that may have been at home
  static constexpr unsigned kMostMissed = 4;      // faults within the window, then it was not fetched

  std::int64_t delta(unsigned back) const { return deltas_[(recorded_ - 1 - back) % kHistory]; }
  void record(std::int64_t delta) { deltas_[recorded_++ % kHistory] = delta; }
  std::optional<std::int64_t> stride() const;
  std::optional<std::int64_t> majority(unsigned length) const;
  std::optional<std::int64_t> walk(unsigned length) const;
  bool within_window(std::uint64_t page) const;

  std::array<std::int64_t, kHistory> deltas_{};
  unsigned recorded_ = 0;
  std::uint64_t last_page_ = 0;
  bool any_ = false;
  // Where a sequential reader will fault next if everything prefetched is used; faulting just there doubles the
  // distance. 0: nothing was advised.
  std::uint64_t expected_next_ = 0;
  std::int64_t stride_ = 0;  // of what was advised
  unsigned ahead_ = kFirstAhead;
  unsigned missed_ = 0;
};

}  // namespace tidepool::daemon
