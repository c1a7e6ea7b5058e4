// Tells our own drops from the guest's.
//
// When the target's memory is dropped by a ring (MADV_DONTNEED run in the target), its userfaultfd raises EVENT_REMOVE
// exactly as if the guest had given the pages back, and the drop does not complete before that event has been read.
// Each page of an own drop accounts for one such announcement; a second one for the same page is the guest's. Which of
// the two came first does not matter: the drop itself cannot complete before its own was read, and a page announced
// twice ends up released either way.
//
// A drop completes once its announcement has been read, which may be before the fault loop got to look at what it read.
// So an entry is removed on the loop's thread, by a task that the demotion thread posts after the completion: behind
// everything that was read before.
//
// expect() is the demotion thread's, the rest the fault loop's: one short critical section, never across a system call.
#pragma once

#include <algorithm>
#include <bitset>
#include <compare>
#include <cstdint>
#include <map>
#include <mutex>
#include <vector>

#include "base/units.h"
#include "daemon/pager/page_map.h"

namespace tidepool::daemon {

class DropLedger {
 public:
  // By address, so that an announcement finds its drop at once; the number tells apart what is dropped twice.
  struct Id {
    std::uint64_t start = 0;
    std::uint64_t number = 0;
    constexpr auto operator<=>(const Id&) const = default;
  };
  // At most one region per drop.
  Id expect(AddressRange drop);
  void finished(Id id);
  // Splits an announced range: calls `guests(AddressRange)` for every stretch that no outstanding own drop accounts
  // for.
  template <class Callback>
  void match(AddressRange announced, Callback&& guests);
  enum class UnderWay : std::uint8_t { kNone, kUnannounced, kAnnounced };
  // Of the own drops that overlap the range: kAnnounced when the loop has read all that one of them needs to go on.
  UnderWay under_way(AddressRange range);
  bool empty() const;

 private:
  struct Entry {
    AddressRange range;
    std::bitset<kPagesPerRegion> announced;
  };
  using Entries = std::map<Id, Entry>;
  Entries::iterator first_behind(std::uint64_t address);
  // True when an own drop, of those from `entry` on, accounts for the page.
  bool take(Entries::iterator entry, std::uint64_t page_address);

  mutable std::mutex mutex_;
  Entries entries_;
  std::uint64_t next_ = 1;
};

template <class Callback>
void DropLedger::match(AddressRange announced, Callback&& guests) {
  std::vector<AddressRange> found;
  {
    const std::lock_guard lock(mutex_);
    if (entries_.empty()) {
      found.push_back(announced);
    } else {
      // Only stretches that overlap own drops need a look page by page; a guest may announce terabytes at once.
      std::uint64_t at = announced.start;
      while (at < announced.end) {
        const auto own = first_behind(at);
        const bool inside = own != entries_.end() && own->second.range.start <= at;
        const std::uint64_t next_own = own == entries_.end() ? announced.end : own->second.range.start;
        const std::uint64_t end = inside ? at + kPageSize : std::min(announced.end, next_own);
        if (!inside || !take(own, at)) {
          if (!found.empty() && found.back().end == at) {
            found.back().end = end;
          } else {
            found.push_back({at, end});
          }
        }
        at = end;
      }
    }
  }
  for (const AddressRange& range : found) guests(range);
}

}  // namespace tidepool::daemon
