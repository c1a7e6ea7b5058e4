// What policy sees in one tick. Values and views of the caller's memory, which it needs for the length of the call
// only: no clock, no file, no log. Times are the caller's monotonic clock, ratios 0..1.
//
// Nothing in here is trusted: absurd, contradicting or stale input is clamped or dropped, and counted (Plan::intake).
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/units.h"
#include "policy/access_sample.h"

namespace tidepool::policy {

// Memory is judged in regions of 2 MiB, and, where the inside of one differs, in its units of 64 KiB.
inline constexpr std::uint32_t kRegionPages = 512;
inline constexpr std::uint32_t kUnitPages = 16;
inline constexpr std::uint32_t kUnits = kRegionPages / kUnitPages;
using UnitMask = std::uint32_t;  // bit i: pages [16 i, 16 i + 16) of the region
inline constexpr UnitMask kAllUnits = ~UnitMask{0};
static_assert(kUnits == 32);

// A region whose counters differ from what was last reported. A caller may report more than that: it costs time only.
struct RegionNews {
  std::uint32_t region = 0;
  std::uint16_t resident = 0;  // pages, now
  std::uint16_t far = 0;       // pages, now
  std::uint16_t incompressible = 0;
  std::uint16_t shallow = 0;  // pages, now: of the far ones, those in VmView::shallow_tier
};

struct ObjectView {
  std::uint32_t object = 0;
  PageCount pages;  // of address space; may grow
  std::span<const RegionNews> news;
};

enum class Mode : std::uint8_t {
  kObserve,  // watches and says what it would begin with; nothing moves
  kDryRun,   // plays the whole game on paper: what "went" counts as far, its uses as refaults and stall
  kActive,
};

enum class ServiceClass : std::uint8_t { kLatencySensitive, kStandard, kBatch };
inline constexpr unsigned kServiceClasses = 3;

// Bit i: HostView::tiers[i].
using TierMask = std::uint32_t;
inline constexpr TierMask kAllTiers = ~TierMask{0};

// What one VM may put into those tiers together, which others may have no use of: memory that is leased to it.
struct LeasedRoom {
  TierMask tiers = 0;
  Bytes bytes{};
};

struct VmView {
  VmId id;
  Mode mode = Mode::kObserve;
  bool held = false;     // by an operator, or because it is being moved, saved or released
  bool partial = false;  // parts of a region can be demoted (RegionMove::units)
  bool spares = false;   // a demotion of a region leaves pages that came home lately (Plan::holds)
  ServiceClass service_class = ServiceClass::kStandard;
  Bytes promised;
  Bytes resident;  // in DRAM, what is on its way out included
  Bytes leaving;   // of it, what is on its way out
  Bytes far;
  Bytes guarantee;                          // never taken away
  std::optional<Bytes> limit;               // an operator's order: no more resident than this
  double stall = 0;                         // measured share of time that its threads wait for far pages
  std::optional<double> stall_budget;       // absent: its class's
  std::optional<Nanoseconds> min_cold_age;  // absent: its class's
  std::optional<double> weight;             // absent: its class's
  unsigned threads = 1;                     // that can wait at once: vCPUs
  Nanoseconds fault_cost{0};                // measured mean wait for a far page; 0: not yet known
  TierMask tiers = kAllTiers;               // those that its pages can go to
  // A tier from which its far pages can go on to another. What they take there of the host's DRAM, and would not take
  // in another, counts against its limit.
  std::optional<unsigned> shallow_tier;
  Bytes shallow;      // of `far`, what is in it
  LeasedRoom leased;  // of these, those where it has only so much left
  std::span<const ObjectView> objects;
};

// Where a VM's memory is, between two ticks.
struct VmSizes {
  VmId vm;
  Bytes resident{};  // as in VmView
  Bytes leaving{};
  Bytes far{};
};

// A place for far pages. The agent names it; policy knows its costs.
struct TierView {
  std::string name;
  bool usable = true;
  Bytes capacity{};
  Bytes used{};
  Bytes foreign{};        // of it, what others put there: it stays when all that is far has come home
  double ratio = 1;       // bytes that it takes for a byte of far memory, on average
  bool host_dram = true;  // it takes them from this host's DRAM, and gives them back as pages go home
  Nanoseconds fault_cost = std::chrono::microseconds(20);  // measured wait for a page from it
  Nanoseconds store_cost = std::chrono::microseconds(5);   // measured work for a page into it
};

struct HostView {
  Bytes total;
  Bytes available;
  Bytes reserve;  // kept free
  Bytes max_far;  // of all VMs together
  bool require_evacuable = true;
  bool frozen = false;
  bool keeper_away = false;    // nobody would hold what is far if the agent ended
  double memory_pressure = 0;  // PSI "some" of memory over the last tick, the agent's own part subtracted
  std::vector<TierView> tiers;
};

struct Snapshot {
  MonoTime now;
  std::chrono::seconds time_of_day{0};  // since midnight, local: for the windows of the day
  HostView host;
  std::vector<VmView> vms;
  // What trackers saw since the last tick, of all VMs. Refaults are samples of far pages; that the others were not
  // touched goes without saying.
  std::span<const AccessSample> samples;
};

}  // namespace tidepool::policy
