// What policy answers: what moves where, why, and what the host should tell its operator.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "policy/snapshot.h"

namespace tidepool::policy {

enum class Action : std::uint8_t { kNone, kDemote, kRestore };

// Why. Stable words: they are labels of metrics and documented in docs/policy.md.
enum class Reason : std::uint8_t {
  kCold,            // untouched for longer than its age limit, and its VM can afford it
  kCanary,          // nothing is known of its reads: a small part goes and is watched
  kOverLimit,       // the VM is above its local limit
  kHostPressure,    // the host is below its reserve
  kBelowGuarantee,  // resident memory is less than guaranteed
  kPromoteBack,     // its threads wait too much: what is missed most comes home
  kNothingCold,     // nothing is cold enough
  kGuarantee,       // taking more would break the guarantee
  kStallBudget,     // its threads wait too much already
  kFaultBudget,     // more would be expected to cost more faults than the stall budget allows
  kPingpong,        // too much of what went came back
  kFarCeiling,      // the host's ceiling on far bytes
  kPoolFull,        // no tier has room
  kNotEvacuable,    // what is far would not fit back
  kRateLimit,       // the bandwidth for moves, or the number of moves in a tick, is used up
  kNoMemory,        // the host has no free memory for what should come home
  kHeld,
  kFrozen,
  kKeeperAway,  // what is far could not be found again, should the agent end
  kDeeper,      // far in a tier that takes DRAM, and used too seldom to be worth it: goes on to one that takes less
  kGroupLimit,  // the memory control group of its process has no room for what it touches
};
inline constexpr unsigned kReasonCount = 21;

std::string_view word(Action action);
std::string_view word(Reason reason);

struct RegionId {
  std::uint32_t object = 0;
  std::uint32_t region = 0;
  constexpr auto operator<=>(const RegionId&) const = default;
};

struct Move {
  VmId vm;
  RegionId region;
  UnitMask units = kAllUnits;  // the part of the region that is meant
  std::uint16_t pages = 0;     // expected to move
  std::uint8_t tier = 0;       // index into HostView::tiers; of a restore: not used
  Reason reason = Reason::kCold;
  float rate = 0;       // expected uses of one of its pages per second
  bool spares = false;  // a demotion leaves pages that are used more than others of the region (policy/page_age.h)
  bool operator==(const Move&) const = default;
};

// One line of the record: what was decided for a VM in a tick, and the numbers behind it.
struct Decision {
  VmId vm;
  Action action = Action::kNone;
  Reason reason = Reason::kNothingCold;
  std::uint32_t regions = 0;
  Bytes bytes;
  bool would = false;  // observe or dry-run mode: decided, not done
  std::string detail;
  bool operator==(const Decision&) const = default;
};

// How short the host is, and what is done about it; each level includes the ones before.
enum class PressureLevel : std::uint8_t { kNone, kTrimCold, kExtendPool, kMigrate, kRefuseVms };
std::string_view word(PressureLevel level);

struct Pressure {
  PressureLevel level = PressureLevel::kNone;
  bool changed = false;  // in this tick
  Bytes shortage;        // what is missing to the reserve, now or in the near future
  std::string detail;
  // Level kExtendPool and above: pool capacity that would help.
  Bytes pool_wanted;
  // Level kMigrate and above: the VM whose departure costs least for what it frees.
  std::optional<VmId> migrate;
  bool operator==(const Pressure&) const = default;
};

// What became of the input.
struct IntakeCounts {
  std::uint64_t news = 0;
  std::uint64_t samples = 0;
  std::uint64_t samples_stale = 0;   // of memory that is not there (any more), or is far
  std::uint64_t samples_absurd = 0;  // more used than watched, no time, not a number, beyond the object
  std::uint64_t news_absurd = 0;     // regions beyond the object, more pages than a region has
  std::uint64_t values_absurd = 0;   // of VMs and host: not a number, negative, out of range
  std::uint64_t duplicate_vms = 0;
  std::uint64_t clock_jumps = 0;  // time went backwards or leapt
  IntakeCounts& operator+=(const IntakeCounts& other);
  bool operator==(const IntakeCounts&) const = default;
};

// A VM in dry-run mode: what its life would be like.
struct DryRun {
  VmId vm;
  Bytes far;          // what would be far
  double faults = 0;  // expected, per second
  double stall = 0;   // share of its threads' time
  bool operator==(const DryRun&) const = default;
};

// For how long a page that came home is spared at first, in VMs that spare pages.
struct Hold {
  VmId vm;
  float seconds = 0;
  bool operator==(const Hold&) const = default;
};

struct Plan {
  std::vector<Move> demotions;  // coldest first within a VM
  std::vector<Move> restores;   // most missed first within a VM
  std::vector<Decision> decisions;
  std::vector<DryRun> dry_runs;
  std::vector<Hold> holds;
  Pressure pressure;
  IntakeCounts intake;
  bool operator==(const Plan&) const = default;
};

}  // namespace tidepool::policy
