// A recorded trace as a tracker: what was seen of a VM then is reported when its time has come. So whoever takes
// trackers' samples, the agent's policy included, runs on recorded accesses without knowing it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "telemetry/hotness/tracker.h"
#include "telemetry/trace/trace_reader.h"

namespace tidepool::telemetry {

class ReplayTracker final : public Tracker {
 public:
  // All times of the trace are moved by `shift`, as far as they stay times since boot; nothing: by as much as makes its
  // first round due now. `clock` must outlive the tracker. Nothing is read beyond the round that is due next.
  ReplayTracker(std::unique_ptr<TraceReader> trace, const Clock& clock,
                std::optional<Nanoseconds> shift = std::nullopt);

  // Usable until all of the trace was reported, or it turns out to be damaged.
  TrackerInfo info() const override;
  void set_cpu_share(double) override {}  // costs no more than what reading costs
  // Samples of other memory than this are left out and counted.
  void set_memory(const MemoryList& memory) override { memory_ = memory; }
  // Reports every round of the trace that is due; while there is no memory they pass unreported.
  void round(SampleSink& sink) override;

  // When the trace goes on; never before what was already reported, whatever the trace says. Nothing: at its end.
  std::optional<MonoTime> next() const;
  // The trace is damaged from here on.
  const std::optional<Error>& error() const { return error_; }
  const TraceReader& trace() const { return *trace_; }
  std::uint64_t strays() const { return strays_; }      // samples of memory that there is not (any more)
  std::uint64_t backward() const { return backward_; }  // rounds that would have been before the one before

 private:
  void read_on();
  MonoTime moved(MonoTime time) const;
  bool is_watched(const policy::AccessSample& sample) const;

  std::unique_ptr<TraceReader> trace_;
  const Clock& clock_;
  Nanoseconds shift_{0};
  std::optional<TraceRound> round_;  // that is due next
  MonoTime due_{};
  std::optional<Error> error_;
  MemoryList memory_;
  std::uint64_t samples_ = 0;
  std::uint64_t strays_ = 0;
  std::uint64_t backward_ = 0;
};

}  // namespace tidepool::telemetry
