// What is remembered of each 2 MiB region, in one cache line, and of the parts of those whose inside differs.
#pragma once

#include <array>
#include <cstdint>

#include "policy/exposure.h"
#include "policy/snapshot.h"

namespace tidepool::policy {

inline constexpr unsigned kAges = 256;  // in scan periods; the last means "or older"

struct RegionHeat {
  Exposure seen;                 // by trackers, of resident pages
  Exposure far_seen;             // of far pages: their every use is a fault, so nothing is missed
  std::uint32_t updated = 0;     // tenths of a second: until when the evidence is accounted for
  std::uint32_t demoted_at = 0;  // tenths of a second; 0: not within memory
  std::uint32_t evicted_at = 0;  // pages that its VM had given up by then, modulo 2^32
  std::uint16_t resident = 0;    // pages
  std::uint16_t far = 0;
  std::uint16_t stuck = 0;       // resident pages that will not go: incompressible, or home for too short a time
  std::uint16_t moved = 0;       // pages that its last demotion was to take
  std::uint16_t returned = 0;    // of them, came back because they were used
  std::uint16_t last_used = 0;   // scan period, modulo 2^16
  std::uint16_t planned_at = 0;  // seconds, modulo 2^16: when its move under way was planned
  std::uint16_t part = 0;        // 1 + index of what is known of its units; 0: not split
  std::uint8_t age_before = 0;   // its age when it was first used in the period `last_used`
  std::uint8_t backoff = 0;      // its minimum age is doubled this many times
  std::int8_t momentum = 0;      // > 0: warming up, < 0: cooling down
  std::uint8_t flags = 0;
  // Units found used, and found unused, in this window and the one before: whether the inside differs.
  UnitMask used = 0, idle = 0, was_used = 0, was_idle = 0;

  static constexpr std::uint8_t kPending = 1;     // a move of it is under way
  static constexpr std::uint8_t kForced = 2;      // its last demotion was not for coldness
  static constexpr std::uint8_t kCanary = 4;      // its last demotion was of a part, to learn
  static constexpr std::uint8_t kPaper = 8;       // its far pages are far on paper only (dry run)
  static constexpr std::uint8_t kFruitless = 16;  // its last move did nothing
  static constexpr std::uint8_t kWarmer = 32;     // what was seen last was more than was expected
  static constexpr std::uint8_t kCooler = 64;     // or less
  static constexpr std::uint8_t kSparing = 128;   // its last move left pages behind that it was asked for
  bool has(std::uint8_t flag) const { return (flags & flag) != 0; }
  void set(std::uint8_t flag, bool on) { flags = static_cast<std::uint8_t>(on ? flags | flag : flags & ~flag); }
};
static_assert(sizeof(RegionHeat) == 64);

// What is known of the 64 KiB units of a split region.
struct PartHeat {
  std::array<Exposure, kUnits> units;
  UnitMask cold = kAllUnits;  // may go; the rest is the region's hot part
  std::uint8_t alike = 0;     // windows in a row in which no difference was to be seen
  float cold_rate = 0;        // at which a page of it is used
  float hot_rate = 0;         // and of the others
};

// Sixteen regions beside each other: what one region is like says something of its neighbours.
struct Neighbourhood {
  Exposure seen;
  std::uint32_t updated = 0;
};
inline constexpr std::uint32_t kNeighbours = 16;

// The time of a tick, as heat counts it.
struct Moment {
  std::uint32_t tenths = 1;   // since the engine began, never going backwards
  std::uint16_t period = 0;   // scan period
  std::uint16_t seconds = 0;  // modulo 2^16
};

}  // namespace tidepool::policy
