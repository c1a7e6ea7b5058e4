// The refault stream: every access to a far page is a fault that the pager serves anyway. Free, exact, and blind to
// everything that is resident.
#pragma once

#include "telemetry/hotness/tracker.h"

namespace tidepool::telemetry {

class RefaultTracker final : public Tracker {
 public:
  explicit RefaultTracker(const Clock& clock) : clock_(clock) {}

  TrackerInfo info() const override;
  void set_cpu_share(double) override {}
  void set_memory(const MemoryList& memory) override { memory_ = memory; }
  void round(SampleSink& sink) override;

 private:
  const Clock& clock_;
  MemoryList memory_;
  MonoTime last_round_{};
  std::uint64_t samples_ = 0;
};

}  // namespace tidepool::telemetry
