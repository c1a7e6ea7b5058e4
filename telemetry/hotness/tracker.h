// Something that sees which memory is used. Trackers differ in what they see and what that costs; each says so itself.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"

namespace tidepool::telemetry {

enum class Sees : std::uint8_t { kReads, kWrites, kReadsAndWrites };

struct TrackerInfo {
  std::string name;
  bool usable = false;
  std::string why_not;                   // empty when usable
  Sees sees = Sees::kReadsAndWrites;     // of the memory at hand
  std::vector<std::string> blind_spots;  // for people
  Nanoseconds cpu{0};                    // spent since start
};

class Tracker {
 public:
  virtual ~Tracker() = default;
  virtual TrackerInfo info() const = 0;
  // One round of looking; called once per policy tick, on the policy's thread. What was seen goes to the region
  // counters of the memory.
  virtual void scan() = 0;
};

}  // namespace tidepool::telemetry
