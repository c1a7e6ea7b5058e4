// Accesses as the processor samples them, with their addresses: loads by Intel's PEBS, loads and stores by AMD's IBS.
// Where neither is to be had (most VMs), page faults, which say nothing of memory that is present. Each event says that
// memory was used; silence says nothing. Costs the watched threads an interrupt per sample, and changes nothing else.
//
// Blind to what a KVM guest does: samples of a guest carry the guest's own addresses, and faults in the second page
// tables are no faults of the thread. The memory of guests is left out.
#pragma once

#include <optional>
#include <vector>

#include "kmod-interfaces/perf_events.h"
#include "telemetry/hotness/cpu_budget.h"
#include "telemetry/hotness/tracker.h"

namespace tidepool::telemetry {

struct PerfConfig {
  std::size_t most_threads = 512;                 // with an event and a ring each, of all processes together
  Nanoseconds refresh = std::chrono::seconds(5);  // how often new threads are looked for
  // What a sample costs the watched thread, and then us.
  Nanoseconds cost_per_sample = std::chrono::microseconds(2);
};

// How many occurrences go to a sample: as few as the budget allows. Powers of two between `shortest` and `longest`.
class PerfPeriod {
 public:
  PerfPeriod(std::uint64_t first, std::uint64_t shortest, std::uint64_t longest)
      : value_(first), shortest_(shortest), longest_(longest) {}

  std::uint64_t value() const { return value_; }
  // After a while with so many samples per second, lost ones included, of which so many can be afforded. `overran`:
  // some were lost, or the kernel paused an event. True when the period is another one now.
  bool steer(double per_second, bool overran, double affordable_per_second);

 private:
  std::uint64_t value_;
  std::uint64_t shortest_;
  std::uint64_t longest_;
};

class PerfTracker final : public Tracker {
 public:
  // `cpu`: CPU time of the thread that calls round(). `clock` must be CLOCK_MONOTONIC, with which the kernel stamps.
  PerfTracker(const PerfConfig& config, const kernel::KernelRoots& roots, const Clock& clock, const Clock& cpu);

  TrackerInfo info() const override;
  Coverage covers(const MemoryList& memory) const override;
  void set_cpu_share(double of_one_core) override;
  void set_memory(const MemoryList& memory) override;
  void round(SampleSink& sink) override;

  // What it goes by; nothing where nothing can be opened.
  std::optional<kernel::PerfMeans> means() const;

 private:
  // One process.
  struct Watched {
    std::shared_ptr<const TrackedMemory> memory;
    std::uint32_t space = 0;
    MonoTime since{};  // what happened before names addresses of an older epoch, or was reported already
    std::optional<kernel::PerfThreads> threads;
    const TrackedSpace& seen_from() const { return memory->spaces[space]; }
  };

  void refresh();
  Result<> refresh_one(Watched& watched, std::size_t most);
  void report(const Watched& watched, const kernel::PerfRecords& records, MonoTime until, SampleSink& sink);
  void steer(std::uint64_t samples, bool overran);

  const PerfConfig config_;
  const kernel::KernelRoots roots_;
  const Clock& clock_;
  const Clock& cpu_;
  CpuBudget budget_;
  const kernel::PerfProbe probe_;
  std::string why_not_;
  std::optional<PerfPeriod> period_;
  std::vector<Watched> watched_;
  MonoTime refreshed_{};         // zero: threads must be looked for now
  MonoTime steered_{};           // zero: not counted yet
  unsigned failures_ = 0;        // to open events, in a row
  unsigned contradictions_ = 0;  // of rings, in rounds in a row
  std::uint64_t samples_ = 0;
  std::uint64_t lost_ = 0;
  std::uint64_t malformed_ = 0;
};

}  // namespace tidepool::telemetry
