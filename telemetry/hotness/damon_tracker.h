// DAMON: a thread of the kernel looks at one page of each of some hundred regions at a time, and makes regions finer
// where accesses differ. Sees reads and writes of any memory, managed or not; estimates; causes no faults. Uses one
// kdamond of its own and none where somebody else has any.
//
// The kernel's thread is part of the CPU budget: its sampling interval grows until it fits, and grows as well where
// looks are too short to find anything.
#pragma once

#include <future>
#include <optional>

#include "kmod-interfaces/damon_sysfs.h"
#include "telemetry/hotness/cpu_budget.h"
#include "telemetry/hotness/self_check.h"
#include "telemetry/hotness/tracker.h"

namespace tidepool::telemetry {

struct DamonConfig {
  std::chrono::microseconds first_sample{100'000};
  std::chrono::microseconds shortest_sample{50'000};
  std::chrono::microseconds longest_sample{500'000};
  std::uint32_t looks = 20;  // of each region in an aggregation
};

class DamonTracker final : public Tracker {
 public:
  DamonTracker(const DamonConfig& config, const kernel::KernelRoots& roots, const Clock& clock);

  TrackerInfo info() const override;
  void set_cpu_share(double of_one_core) override { budget_.set_share(of_one_core); }
  void set_memory(const MemoryList& memory) override;
  void round(SampleSink& sink) override;

  std::chrono::microseconds sampling_interval() const { return intervals_.sample; }

 private:
  // Which space each of DAMON's targets is; the last target is this process, for the self-check.
  struct Watched {
    std::shared_ptr<const TrackedMemory> memory;
    std::uint32_t space = 0;
  };
  struct Reading {
    std::vector<std::vector<kernel::DamonRegion>> regions;  // by target
    kernel::DamonIntervals intervals;                       // in which they were found
    std::uint64_t malformed = 0;                            // regions that were left out
    Nanoseconds cpu{0};                                     // of reading
  };

  void start();
  void stop();
  static Result<Reading> read(kernel::DamonSession& session, std::size_t targets, kernel::DamonIntervals wanted);
  void take(const Reading& reading, SampleSink& sink);
  void report(const Watched& watched, const kernel::DamonRegion& region, const Reading& reading, SampleSink& sink);
  void judge(const std::vector<kernel::DamonRegion>& own);
  void charge(const Reading& reading);
  void steer(const Reading& reading);

  const DamonConfig config_;
  const kernel::KernelRoots roots_;
  const Clock& clock_;
  CpuBudget budget_;
  std::string why_not_;
  std::optional<SelfCheck> self_check_;
  MemoryList memory_;
  std::vector<Watched> watched_;
  kernel::DamonIntervals intervals_;
  // A session is used by the reading thread while there is a reading under way, and by nobody else.
  std::optional<kernel::DamonSession> session_;
  std::future<Result<Reading>> reading_;
  MonoTime settled_{};  // from when on what is found was found with the intervals and the memory of now
  MonoTime next_reading_{};
  Nanoseconds kernel_cpu_{0};
  MonoTime charged_{};
  double kernel_share_ = 0;  // of a core, that the kernel's thread used lately
  unsigned failures_ = 0;
  std::uint64_t samples_ = 0;
  std::uint64_t malformed_ = 0;
};

}  // namespace tidepool::telemetry
