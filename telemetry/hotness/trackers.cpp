#include "telemetry/hotness/trackers.h"

#include "telemetry/hotness/damon_tracker.h"
#include "telemetry/hotness/fault_sampler.h"
#include "telemetry/hotness/idle_page_tracker.h"
#include "telemetry/hotness/perf_tracker.h"
#include "telemetry/hotness/refault_tracker.h"
#include "telemetry/hotness/referenced_tracker.h"
#include "telemetry/hotness/write_tracker.h"

namespace tidepool::telemetry {

std::vector<std::unique_ptr<Tracker>> trackers_by_preference(const kernel::KernelRoots& roots, const Clock& clock,
                                                             const Clock& cpu) {
  std::vector<std::unique_ptr<Tracker>> trackers;
  trackers.push_back(std::make_unique<RefaultTracker>(clock));
  trackers.push_back(std::make_unique<IdlePageTracker>(IdlePageConfig{}, roots, clock, cpu));
  trackers.push_back(std::make_unique<ReferencedTracker>(ReferencedConfig{}, roots, clock));
  trackers.push_back(std::make_unique<DamonTracker>(DamonConfig{}, roots, clock));
  trackers.push_back(std::make_unique<FaultSampler>(FaultSamplerConfig{}, clock));
  trackers.push_back(std::make_unique<WriteTracker>(ScanWindows{}, roots, clock, cpu));
  trackers.push_back(std::make_unique<PerfTracker>(PerfConfig{}, roots, clock, cpu));
  return trackers;
}

}  // namespace tidepool::telemetry
