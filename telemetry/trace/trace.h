// What trackers saw of one VM over a while, as a file (docs/trace-format.md): to be replayed where the VM is not.
// Values only; TraceWriter makes such files, TraceReader reads them.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/units.h"
#include "policy/access_sample.h"

namespace tidepool::telemetry {

struct TracedObject {
  std::uint32_t object = 0;  // as in policy::ObjectId
  PageCount pages;
  bool operator==(const TracedObject&) const = default;
};

// Whose trace it is. The objects can change while it is recorded; a trace says so from the round on in which they did.
struct TraceDescription {
  std::string vm;                                    // its name
  std::chrono::system_clock::time_point recorded{};  // when it began, for people
  MonoTime start{};                                  // the same on the clock of the samples
  std::vector<TracedObject> objects;
  bool operator==(const TraceDescription&) const = default;
};

// What was handed to policy in one tick; perhaps nothing.
struct TraceRound {
  MonoTime at{};
  std::vector<policy::AccessSample> samples;
};

// What recording came to.
struct TraceTotals {
  std::uint64_t rounds = 0;
  std::uint64_t samples = 0;
  std::uint64_t lost = 0;  // samples that should be in the trace and are not: they made no sense, or came too fast
  bool operator==(const TraceTotals&) const = default;
};

inline constexpr std::size_t kLongestTracedName = 255;
inline constexpr std::size_t kMostTracedObjects = 1 << 16;
inline constexpr std::size_t kMostSamplesPerRound = 1 << 20;

}  // namespace tidepool::telemetry
