// Writes, page by page, by the kernel's soft-dirty bits: cleared for a whole process at once, looked at a window later
// in as many regions as the budget affords. Blind to reads. Needs no userfaultfd, but CONFIG_MEM_SOFT_DIRTY, and
// somebody's word that nobody else goes by these bits: there is one set of them (SoftDirtyConfig::allowed).
//
// Clearing cannot be divided: it stops the process's page faults while it lasts. A process for which that takes too
// long is left out.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "kmod-interfaces/soft_dirty.h"
#include "telemetry/hotness/cpu_budget.h"
#include "telemetry/hotness/scan_plan.h"
#include "telemetry/hotness/self_check.h"
#include "telemetry/hotness/tracker.h"

namespace tidepool::telemetry {

struct SoftDirtyConfig {
  bool allowed = false;  // to clear bits that others (CRIU) may go by
  // Memory that the pager manages, too: where write protection cannot be tracked by the kernel itself (before 6.7).
  bool managed = false;
  ScanWindows windows{};
  Nanoseconds longest_stall = std::chrono::milliseconds(100);  // that clearing may cause in a process
  // What the first write to a page after a clearing costs the process.
  Nanoseconds cost_per_write = std::chrono::microseconds(1);
  Nanoseconds self_check = std::chrono::seconds(60);  // how often: it write-protects all of our own memory, too
};

class SoftDirtyTracker final : public Tracker {
 public:
  using Open = std::function<Result<std::unique_ptr<kernel::SoftDirtyProcess>>(const kernel::KernelRoots&,
                                                                               const kernel::ProcessId&)>;

  // `cpu`: CPU time of the thread that calls round().
  SoftDirtyTracker(const SoftDirtyConfig& config, const kernel::KernelRoots& roots, const Clock& clock,
                   const Clock& cpu, Open open = kernel::open_soft_dirty);

  TrackerInfo info() const override;
  Coverage covers(const MemoryList& memory) const override;
  void set_cpu_share(double of_one_core) override { budget_.set_share(of_one_core); }
  void set_memory(const MemoryList& memory) override;
  void round(SampleSink& sink) override;

 private:
  // One process.
  struct Watched {
    std::shared_ptr<const TrackedMemory> memory;
    std::uint32_t space = 0;
    std::vector<ScanUnit> units;
    std::size_t next_unit = 0;  // where the next look goes on
    std::unique_ptr<kernel::SoftDirtyProcess> process;
    std::uint8_t level = 0;  // of its window
    MonoTime due{};
    MonoTime cleared{};         // zero: not yet
    Nanoseconds clear_cost{0};  // of CPU; a guess until it was done once
    bool left_out = false;      // clearing takes too long
  };
  struct Seen {
    std::uint64_t resident = 0;  // pages
    std::uint64_t written = 0;
    std::size_t units = 0;
  };

  Result<> open();
  Coverage all_that_is_seen() const;
  bool sees(const TrackedSpace& space, const TrackedObject& object) const;
  Watched watch(const std::shared_ptr<const TrackedMemory>& memory, std::uint32_t space) const;
  Watched* next(MonoTime now, Nanoseconds affordable);
  Result<> look(Watched& watched, const Spending& spending, SampleSink& sink);
  Result<Seen> read(Watched& watched, const Spending& spending, SampleSink& sink);
  Seen report(const ScanUnit& unit, std::span<const kernel::PagemapEntry> entries, MonoTime since, SampleSink& sink);
  Result<> clear(Watched& watched);
  Result<> check_self(MonoTime now);
  std::optional<bool> own_page_written(AddressRange page) const;

  const SoftDirtyConfig config_;
  const kernel::KernelRoots roots_;
  const Clock& clock_;
  const Clock& cpu_;
  const Open open_;
  CpuBudget budget_;
  std::string why_not_;
  std::vector<Watched> watched_;
  std::unique_ptr<kernel::SoftDirtyProcess> self_;
  std::optional<SelfCheck> self_check_;
  MonoTime self_checked_{};  // zero: not yet
  unsigned failures_ = 0;    // in a row
  std::uint64_t samples_ = 0;
};

}  // namespace tidepool::telemetry
