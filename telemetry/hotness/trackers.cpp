#include "telemetry/hotness/trackers.h"

#include <utility>

#include "telemetry/hotness/damon_tracker.h"
#include "telemetry/hotness/fault_sampler.h"
#include "telemetry/hotness/idle_page_tracker.h"
#include "telemetry/hotness/perf_tracker.h"
#include "telemetry/hotness/refault_tracker.h"
#include "telemetry/hotness/referenced_tracker.h"
#include "telemetry/hotness/soft_dirty_tracker.h"
#include "telemetry/hotness/write_tracker.h"

namespace tidepool::telemetry {

std::vector<std::unique_ptr<Tracker>> trackers_by_preference(const TrackerChoice& choice,
                                                             const kernel::KernelRoots& roots, const Clock& clock,
                                                             const Clock& cpu) {
  auto written_pages = std::make_unique<WriteTracker>(ScanWindows{}, roots, clock, cpu);
  SoftDirtyConfig soft_dirty;
  soft_dirty.allowed = choice.soft_dirty;
  // A kernel that can track writes for a userfaultfd has the better means, and write protection is what the pager does.
  soft_dirty.managed = !written_pages->info().usable;
  std::vector<std::unique_ptr<Tracker>> trackers;
  trackers.push_back(std::make_unique<RefaultTracker>(clock));
  trackers.push_back(std::make_unique<IdlePageTracker>(IdlePageConfig{}, roots, clock, cpu));
  trackers.push_back(std::make_unique<ReferencedTracker>(ReferencedConfig{}, roots, clock));
  trackers.push_back(std::make_unique<DamonTracker>(DamonConfig{}, roots, clock));
  trackers.push_back(std::move(written_pages));
  trackers.push_back(std::make_unique<SoftDirtyTracker>(soft_dirty, roots, clock, cpu));
  trackers.push_back(std::make_unique<FaultSampler>(FaultSamplerConfig{}, clock));
  trackers.push_back(std::make_unique<PerfTracker>(PerfConfig{}, roots, clock, cpu));
  return trackers;
}

}  // namespace tidepool::telemetry
