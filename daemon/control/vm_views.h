// A VM's memory over time, for people and pictures: documents of the admin API (docs/api.md).
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/units.h"

namespace tidepool::daemon {

inline constexpr std::chrono::milliseconds kShortestView = std::chrono::minutes(1);
inline constexpr std::chrono::milliseconds kLongestView = std::chrono::hours(24 * 7);
inline constexpr std::chrono::milliseconds kUsualView = std::chrono::hours(1);

// Heat by address and time. Means over a stretch of memory and a column's time.
struct Heatmap {
  // A stretch of one memory object, which may be mapped at several places or at none now. Of a VM with very many
  // objects the last stretch stands for several whole ones, `object` and those behind it.
  struct Stretch {
    std::uint32_t object = 0;
    std::uint32_t objects = 1;
    Bytes offset;  // within the object
    Bytes size;
    std::optional<std::uint64_t> address;  // of its begin in the VM's process, where it is mapped
  };
  struct Cell {
    double uses = 0;  // of one of its pages per second; to half an octave
    double far = 0;   // share of its memory
  };
  struct Column {
    std::chrono::system_clock::time_point start;
    std::vector<std::optional<Cell>> cells;  // as many as stretches; absent: no memory was there
  };
  std::string vm;
  std::chrono::milliseconds period{0};  // that a column covers
  std::chrono::system_clock::time_point from;
  std::chrono::system_clock::time_point until;
  std::vector<Stretch> stretches;  // in order of objects and offsets
  std::vector<Column> columns;     // oldest first; none for times that nobody watched
};

// What a VM uses, what it would cost it to have less, and how that was.
struct WorkingSet {
  struct Point {
    Bytes local;
    double best = 0;  // faults per second when what is used most stays
    double lru = 0;   // with the least recently used going first
  };
  struct Offer {
    double slowdown = 0;  // share of its threads' time that would go into waiting for far pages
    Bytes local;          // what it needs at least
    Bytes gives;          // of what is resident now
    double faults = 0;    // per second
  };
  struct Sample {
    std::chrono::system_clock::time_point start;
    Bytes minute;       // used within a minute
    Bytes ten_minutes;  // used within ten
    Bytes resident;
    Bytes far;
  };
  std::string vm;
  Bytes resident;
  Bytes far;
  Bytes minute;
  Bytes ten_minutes;
  double uses = 0;  // of pages per second, altogether: of a page that is used all the time, as often as can be told
  std::chrono::nanoseconds fault_cost{0};
  bool fault_cost_measured = false;  // else what is assumed
  unsigned threads = 1;              // that can wait at once
  double stall_budget = 0;
  std::vector<Point> curve;   // from nothing local to all
  std::vector<Offer> offers;  // by rising slowdown
  std::chrono::milliseconds period{0};
  std::vector<Sample> samples;  // oldest first
};

}  // namespace tidepool::daemon
