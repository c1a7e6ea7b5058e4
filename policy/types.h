// What policy sees and what it answers. Values only: no clock, no file, no log. Times are the caller's monotonic clock,
// ratios 0..1.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/units.h"

namespace tidepool::policy {

// A 2 MiB stretch of one memory object of a VM.
struct RegionId {
  std::uint32_t object = 0;
  std::uint64_t region = 0;
  constexpr auto operator<=>(const RegionId&) const = default;
};

// What was seen of a region since the last tick.
struct RegionObservation {
  std::uint16_t resident = 0;  // pages, now
  std::uint16_t far = 0;       // pages, now
  std::uint16_t armed = 0;     // pages whose next access was going to be noticed
  std::uint16_t touches = 0;   // of them, noticed
  std::uint16_t refaults = 0;  // far pages that came back because they were touched
  std::uint16_t incompressible = 0;
};

struct ObjectView {
  std::uint32_t object = 0;
  std::vector<RegionObservation> regions;
};

enum class Mode : std::uint8_t { kObserve, kActive };

struct VmView {
  VmId id;
  std::string name;
  Mode mode = Mode::kObserve;
  bool held = false;  // by an operator, or because it is being moved, saved or released
  Bytes promised;
  Bytes resident;
  Bytes far;
  Bytes guarantee;             // never taken away
  std::optional<Bytes> limit;  // an operator's order: no more resident than this
  double stall = 0;            // measured share of time that its threads wait for far pages
  double stall_budget = 0.01;
  Nanoseconds min_cold_age = std::chrono::minutes(2);
  std::vector<ObjectView> objects;
};

struct HostView {
  Bytes total;
  Bytes available;
  Bytes reserve;  // kept free
  Bytes max_far;  // of all VMs together
  Bytes pool_capacity;
  Bytes pool_used;
  // What a far page takes of the pool on average, 0..1 of its size; 1 before anything is known.
  double pool_ratio = 1.0;
  // The pool is this host's DRAM: what it holds comes free again as pages go home.
  bool pool_is_dram = true;
  bool require_evacuable = true;
  bool frozen = false;
};

struct Snapshot {
  MonoTime now;
  HostView host;
  std::vector<VmView> vms;
};

struct PolicyConfig {
  Bytes demote_per_second{256ull << 20};
  // A far page that is touched within this time of its demotion should not have gone: its region's age limit doubles.
  Nanoseconds regret_window = std::chrono::minutes(5);
  std::uint8_t max_backoff = 6;
  // More of a VM's moves than this coming back within the window pauses its demotion.
  double pingpong_share = 0.05;
  std::uint32_t pingpong_min_regions = 64;
  Nanoseconds pingpong_pause = std::chrono::minutes(1);
  Nanoseconds stall_pause = std::chrono::seconds(10);
  std::uint32_t max_regions_per_tick = 1024;
};

enum class Action : std::uint8_t { kNone, kDemote, kRestore };

// Why. Stable words: they are labels of metrics and documented in docs/policy.md.
enum class Reason : std::uint8_t {
  kCold,            // untouched for longer than its age limit
  kOverLimit,       // the VM is above its local limit
  kHostPressure,    // the host is below its reserve
  kBelowGuarantee,  // resident memory is less than guaranteed
  kNothingCold,     // nothing is cold enough
  kGuarantee,       // taking more would break the guarantee
  kStallBudget,     // its threads wait too much already
  kPingpong,        // too much of what went came back
  kFarCeiling,      // the host's ceiling on far bytes
  kPoolFull,
  kNotEvacuable,  // what is far would not fit back
  kRateLimit,
  kHeld,
  kFrozen,
};
inline constexpr unsigned kReasonCount = 14;

std::string_view word(Action action);
std::string_view word(Reason reason);

// One line of the record: what was decided for a VM in a tick, and the numbers behind it.
struct Decision {
  VmId vm;
  Action action = Action::kNone;
  Reason reason = Reason::kNothingCold;
  std::uint32_t regions = 0;
  Bytes bytes;
  bool would = false;  // observe mode: decided, not done
  std::string detail;
};

struct Move {
  VmId vm;
  RegionId region;
  Reason reason = Reason::kCold;
};

struct Plan {
  std::vector<Move> demotions;  // coldest first
  std::vector<Move> restores;   // hottest first
  std::vector<Decision> decisions;
};

}  // namespace tidepool::policy
