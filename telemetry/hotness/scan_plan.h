// Which stretch of memory a scanning tracker looks at next: whatever has been due for longest.
//
// A look that finds everything used says as little as one that finds nothing: each stretch has a window of its own,
// which is halved where most of it was found used and doubled where little was. Hot memory is told from hotter, and
// cold memory costs little. When the budget does not suffice for all that is due, windows simply become longer, evenly.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <queue>
#include <vector>

#include "telemetry/hotness/tracked_memory.h"

namespace tidepool::telemetry {

// At most one region of 2 MiB of an object, as one address space shows it.
struct ScanUnit {
  std::shared_ptr<const TrackedMemory> memory;  // empty: not in use
  std::uint32_t space = 0;                      // position in memory->spaces
  std::uint32_t object = 0;                     // position in memory->objects
  AddressRange addresses;
  PageRun pages;

  const TrackedSpace& seen_from() const { return memory->spaces[space]; }
  const TrackedObject& of() const { return memory->objects[object]; }
};

// Cuts all of a VM's memory into units: every page that some address space shows is in exactly one.
std::vector<ScanUnit> scan_units(const std::shared_ptr<const TrackedMemory>& memory);

struct ScanWindows {
  Nanoseconds shortest = std::chrono::seconds(1);
  std::uint8_t doublings = 6;  // the longest is shortest << doublings
  double often = 0.6;          // halved where more than this share was found used
  double seldom = 0.15;        // doubled where less was

  Nanoseconds at(std::uint8_t level) const { return shortest * (1 << level); }
  Nanoseconds longest() const { return at(doublings); }
  // Of the window after one of `level` in which so much was found used.
  std::uint8_t next(std::uint8_t level, double share) const;
};

class ScanPlan {
 public:
  // Names a unit until it is freed.
  using Slot = std::uint32_t;

  explicit ScanPlan(const ScanWindows& windows) : windows_(windows) {}

  // Units of new memory are due at once. Returns the slots of memory that is gone, or that changed and has new ones.
  std::vector<Slot> set_memory(const MemoryList& memory, MonoTime now);
  const ScanUnit& unit(Slot slot) const { return units_[slot].unit; }
  std::size_t size() const { return in_use_; }
  std::size_t slots() const { return units_.size(); }

  // Takes the unit that has been due for longest, if any is. Give it back with one of the others.
  std::optional<Slot> next(MonoTime now);
  // It is being watched from now on. `share`: how much of it was found used in the window that ended, if one did.
  void watch(Slot slot, MonoTime now, std::optional<double> share);

  Nanoseconds window(Slot slot) const { return windows_.at(units_[slot].level); }

 private:
  struct Entry {
    ScanUnit unit;
    std::uint32_t generation = 0;  // so that what is queued of a former user of the slot is told apart
    std::uint8_t level = 0;
  };
  struct Due {
    MonoTime at;
    Slot slot = 0;
    std::uint32_t generation = 0;
    bool operator>(const Due& other) const { return at != other.at ? at > other.at : slot > other.slot; }
  };
  void add(ScanUnit unit, MonoTime now);

  const ScanWindows windows_;
  MemoryList memory_;
  std::vector<Entry> units_;
  std::vector<Slot> free_;
  std::size_t in_use_ = 0;
  std::priority_queue<Due, std::vector<Due>, std::greater<>> due_;
};

}  // namespace tidepool::telemetry
