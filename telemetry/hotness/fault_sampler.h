// Sees accesses by taking the mapping of a few random pages away and counting the faults that follow.
//
// Works on every kernel that the pager works on, for memory that the pager manages. Shared memory: reads and writes.
// Private memory is write-protected instead, so only writes are seen there. Costs the VM one fault (some 15 us) per
// sampled page that it uses, which is charged to the budget beforehand.
#pragma once

#include <map>
#include <random>

#include "telemetry/hotness/cpu_budget.h"
#include "telemetry/hotness/tracker.h"

namespace tidepool::telemetry {

struct FaultSamplerConfig {
  Nanoseconds cost_per_sample = std::chrono::microseconds(20);  // to arm it, and to serve the fault that follows
  std::uint16_t per_region = 2;
  std::uint64_t seed = 1;
};

class FaultSampler final : public Tracker {
 public:
  FaultSampler(const FaultSamplerConfig& config, const Clock& clock);

  TrackerInfo info() const override;
  Coverage covers(const MemoryList& memory) const override;
  void set_cpu_share(double of_one_core) override { budget_.set_share(of_one_core); }
  void set_memory(const MemoryList& memory) override;
  void round(SampleSink& sink) override;

 private:
  struct Target {
    policy::ObjectId id;
    std::shared_ptr<PagedObject> paged;
    std::uint64_t cursor = 0;  // the region to go on with
    MonoTime collected{};
  };
  void collect(Target& target, SampleSink& sink);
  void arm(Target& target, std::uint64_t samples);

  const FaultSamplerConfig config_;
  const Clock& clock_;
  CpuBudget budget_;
  std::mt19937_64 random_;
  std::map<policy::ObjectId, Target> targets_;
  std::uint64_t samples_ = 0;
};

}  // namespace tidepool::telemetry
