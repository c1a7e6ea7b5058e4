// All trackers there are, in the order in which TrackerSet should prefer them.
#pragma once

#include <memory>
#include <vector>

#include "kmod-interfaces/kernel_roots.h"
#include "telemetry/hotness/tracker.h"

namespace tidepool::telemetry {

// What an operator has to allow.
struct TrackerChoice {
  bool soft_dirty = false;  // nobody else on this host goes by soft-dirty bits
};

// What costs nothing first; then what sees reads and writes of all memory without disturbing it, the most exact first;
// then what causes faults; last what gives events only, which never say that memory is idle. Making them changes
// nothing and starts nothing; each says whether it can be used here. `cpu` is the CPU time of the thread that will use
// them; both clocks must outlive them.
std::vector<std::unique_ptr<Tracker>> trackers_by_preference(const TrackerChoice& choice,
                                                             const kernel::KernelRoots& roots, const Clock& clock,
                                                             const Clock& cpu);

}  // namespace tidepool::telemetry
