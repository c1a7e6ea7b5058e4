// Referenced bytes per chunk: the kernel is told that memory is cold (MADV_COLD clears accessed bits), and asked a
// while later how much of each chunk was referenced since (smaps). Sees reads and writes, shared and private, without
// any fault; needs no special kernel, but mappings that are divided for trackers (DividedMappings).
//
// Blind to what a KVM guest does: its accesses leave their mark in the second page tables, which neither step looks at.
// A process that runs one is left out. One look walks the page tables of the whole process, twice (some 30 ms per GiB):
// it is done on a thread of its own, whenever the budget has saved up for it.
#pragma once

#include <future>
#include <map>
#include <optional>

#include "telemetry/hotness/cpu_budget.h"
#include "telemetry/hotness/divided_mappings.h"
#include "telemetry/hotness/scan_plan.h"
#include "telemetry/hotness/self_check.h"
#include "telemetry/hotness/tracker.h"

namespace tidepool::telemetry {

struct ReferencedConfig {
  ScanWindows windows{.often = 0.5, .seldom = 0.05};
};

class ReferencedTracker final : public Tracker {
 public:
  ReferencedTracker(const ReferencedConfig& config, const kernel::KernelRoots& roots, const Clock& clock);
  ~ReferencedTracker() override;

  TrackerInfo info() const override;
  Coverage covers(const MemoryList& memory) const override;
  void set_cpu_share(double of_one_core) override { budget_.set_share(of_one_core); }
  void set_memory(const MemoryList& memory) override;
  void round(SampleSink& sink) override;

 private:
  struct Chunk {
    AddressRange range;
    std::uint64_t resident = 0;  // pages
    std::uint64_t referenced = 0;
  };
  // One process that is watched.
  struct Watched {
    std::shared_ptr<const TrackedMemory> memory;
    std::uint32_t space = 0;
    std::uint8_t level = 0;  // of its window
    MonoTime cold_since{};   // zero: not yet
    double cost = 0;         // nanoseconds of CPU that the last look took
    bool runs_kvm = false;
    const TrackedSpace& seen_from() const { return memory->spaces[space]; }
  };
  MonoTime due(const Watched& watched) const { return watched.cold_since + config_.windows.at(watched.level); }
  struct Look {
    std::vector<Chunk> chunks;
    bool used_seen = false;  // of the self-check
    bool idle_seen = false;
    MonoTime looked{};
    MonoTime cold{};  // when all of it had been made cold
    Nanoseconds cpu{0};
    bool runs_kvm = false;
  };

  Result<> open();
  Result<Look> look(const TrackedSpace& space) const;
  Result<> look_at_self(Look& look) const;
  void take(Watched& watched, const Look& look, SampleSink& sink);
  std::optional<std::size_t> next(MonoTime now);

  const ReferencedConfig config_;
  const kernel::KernelRoots roots_;
  const Clock& clock_;
  CpuBudget budget_;
  std::string why_not_;
  UniqueFd own_pidfd_;
  std::optional<SelfCheck> self_check_;
  std::optional<DividedMappings> own_memory_;  // that of the self-check; goes before it does
  bool self_watched_ = false;
  std::vector<Watched> watched_;
  std::size_t in_hand_ = 0;
  std::future<Result<Look>> looking_;
  unsigned failures_ = 0;
  std::uint64_t samples_ = 0;
};

}  // namespace tidepool::telemetry
