// DAMON through sysfs: a kernel thread of our own that watches address ranges by sampling accessed bits.
// Documentation/admin-guide/mm/damon/usage.rst; filters by target need Linux 6.6.
//
// There is one set of kdamonds for the whole machine, and changing its number destroys those that do not run. So a
// session begins only where there are none, and touches nothing otherwise; what it made it takes away again at its end,
// unless somebody else has put something in its place. Not thread-safe.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "base/units.h"
#include "kmod-interfaces/kernel_roots.h"

namespace tidepool::kernel {

enum class DamonSpace : std::uint8_t {
  kVirtual,       // "vaddr": whatever a process has mapped, followed as it changes
  kFixedVirtual,  // "fvaddr": ranges of a process's addresses
  kPhysical,      // "paddr": ranges of physical addresses
};

struct DamonTarget {
  pid_t pid = 0;                     // not for kPhysical
  std::vector<AddressRange> ranges;  // not for kVirtual; ascending, without overlaps, multiples of the page size
};

struct DamonIntervals {
  std::chrono::microseconds sample{100'000};  // one look at one page of each region
  std::chrono::microseconds aggregation{2'000'000};
  std::uint64_t looks() const { return sample.count() > 0 ? static_cast<std::uint64_t>(aggregation / sample) : 0; }
};

struct DamonSettings {
  DamonSpace space = DamonSpace::kFixedVirtual;
  DamonIntervals intervals;
  std::uint64_t min_regions = 10;
  std::uint64_t max_regions = 1000;
  std::vector<DamonTarget> targets;  // at most kMaxDamonTargets
};
inline constexpr std::size_t kMaxDamonTargets = 64;
inline constexpr std::size_t kMaxDamonRegions = 20000;  // read of one target

struct DamonRegion {
  AddressRange range;
  std::uint64_t accesses = 0;  // looks of the last aggregation that found one
  std::uint64_t age = 0;       // aggregations for which that has not changed much
};

// Why no session could begin here: DAMON is not in this kernel, or it is somebody else's. Reads only.
std::optional<std::string> damon_unavailable(const KernelRoots& roots);

class DamonSession {
 public:
  // Errors: ENOENT not in this kernel; EBUSY somebody else's; ESRCH a target is gone; else what the kernel refused.
  // Nothing is left behind.
  static Result<DamonSession> start(const KernelRoots& roots, const DamonSettings& settings);
  DamonSession(DamonSession&& other) noexcept;
  DamonSession& operator=(DamonSession&& other) noexcept;
  ~DamonSession() { stop(); }

  // Has the kernel write down what it found; waits for its thread, for about two sampling intervals.
  Result<> update();
  // What it wrote down for a target. Entries that make no sense (an empty range, more accesses than looks, text that is
  // no number; of several that overlap all but one) are left out and counted.
  Result<std::vector<DamonRegion>> regions(std::size_t target);
  std::uint64_t malformed() const { return malformed_; }
  Result<> set_intervals(const DamonIntervals& intervals);
  const DamonIntervals& intervals() const { return intervals_; }

  // CPU time of the kernel's thread since it began; nothing when it is gone.
  std::optional<Nanoseconds> cpu() const;
  // False when the kernel's thread ended (its targets did) or is somebody else's.
  bool running() const;
  void stop();

 private:
  DamonSession(KernelRoots roots, std::string folder) : roots_(std::move(roots)), folder_(std::move(folder)) {}
  Result<> configure(const DamonSettings& settings);
  Result<> configure_target(std::size_t number, const DamonTarget& target, DamonSpace space);
  Result<> configure_scheme(std::size_t number);
  Result<> write_intervals(const DamonIntervals& intervals);
  Result<> write(const std::string& file, const std::string& text) const;

  KernelRoots roots_;
  std::string folder_;  // of all kdamonds; empty: nothing to take away
  DamonIntervals intervals_;
  std::optional<std::uint64_t> kdamond_;  // its pid
  std::uint64_t malformed_ = 0;
};

}  // namespace tidepool::kernel
