// Something that sees which memory is used. Trackers differ in what they see, how finely, at what cost and where they
// are blind; each says so itself, keeps within its CPU budget, and checks itself.
//
// Threads: everything of a tracker is called on one thread, once per policy tick. A tracker changes nothing before it
// is given memory, and undoes what it changed in the system and in processes when it is given none, or is destroyed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/units.h"
#include "policy/access_sample.h"
#include "telemetry/hotness/tracked_memory.h"

namespace tidepool::telemetry {

// Which accesses to which memory are noticed; sets are joined with |.
enum class Coverage : std::uint16_t {
  kNone = 0,
  // Resident memory that the pager manages.
  kReadsShared = 1 << 0,
  kWritesShared = 1 << 1,
  kReadsPrivate = 1 << 2,
  kWritesPrivate = 1 << 3,
  // Memory that it does not manage.
  kReadsUnmanaged = 1 << 4,
  kWritesUnmanaged = 1 << 5,
  kFar = 1 << 6,
  // How often, beyond whether: single accesses counted.
  kFrequency = 1 << 7,

  kShared = kReadsShared | kWritesShared,
  kPrivate = kReadsPrivate | kWritesPrivate,
  kUnmanaged = kReadsUnmanaged | kWritesUnmanaged,
  kResident = kShared | kPrivate | kUnmanaged,
};
constexpr Coverage operator|(Coverage a, Coverage b) {
  return static_cast<Coverage>(static_cast<unsigned>(a) | static_cast<unsigned>(b));
}
// What of `wanted` is not in `covered`.
constexpr Coverage lacking(Coverage covered, Coverage wanted) {
  return static_cast<Coverage>(static_cast<unsigned>(wanted) & ~static_cast<unsigned>(covered));
}

enum class Grain : std::uint8_t { kPage, kHugePage, kRegion };

struct TrackerInfo {
  std::string name;  // stable: a label of metrics and a word of the configuration
  bool usable = false;
  std::string why_not;  // one line; empty when usable
  Coverage covers = Coverage::kNone;
  policy::Sees sees = policy::Sees::kReadsAndWrites;
  policy::Evidence evidence = policy::Evidence::kLooks;
  Grain grain = Grain::kPage;
  std::vector<std::string> blind_spots;  // for people
  Nanoseconds cpu{0};                    // spent since start, in this process and on its behalf
  std::uint64_t samples = 0;             // given since start
  std::uint64_t self_checks_failed = 0;
  // Since start: accesses that were noticed and lost for want of room; and what the kernel said that contradicts
  // itself, and was left out.
  std::uint64_t lost = 0;
  std::uint64_t malformed = 0;
};

// Takes what trackers see. Called on the trackers' thread.
class SampleSink {
 public:
  virtual ~SampleSink() = default;
  virtual void add(const policy::AccessSample& sample) = 0;
};

// A tracker whose means fail so often in a row is not usable any more.
inline constexpr unsigned kToleratedFailures = 3;

class Tracker {
 public:
  virtual ~Tracker() = default;
  // What it is and how it fares. A tracker may become unusable as it goes (it failed its self-check, the kernel took
  // its means away); it never becomes usable again.
  virtual TrackerInfo info() const = 0;
  // Of what it covers in general, what it would see of this memory.
  virtual Coverage covers(const MemoryList& memory) const {
    static_cast<void>(memory);
    return info().covers;
  }
  // How much it may spend, as a share of one core. Zero: only what costs nothing.
  virtual void set_cpu_share(double of_one_core) = 0;
  // Which memory to look at from now on. An unchanged VM is passed as the same pointer.
  virtual void set_memory(const MemoryList& memory) = 0;
  // One round of looking, as far as the budget goes; samples of what was found since the last go to `sink`. A full view
  // of the memory may take many rounds.
  virtual void round(SampleSink& sink) = 0;
};

}  // namespace tidepool::telemetry
