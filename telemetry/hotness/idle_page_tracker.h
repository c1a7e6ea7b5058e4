// Idle page tracking: page frames of the watched memory are marked idle, and looked at again a while later. Sees reads
// and writes of any memory, managed or not, page by page, and causes no faults. Linux with CONFIG_IDLE_PAGE_TRACKING.
//
// Scans sparsely: a spread-out sample of the pages of each 2 MiB, as large as the CPU budget allows, up to all of them.
// A huge page (or smaller folio) has one mark for all of its pages and is looked at once.
#pragma once

#include <optional>
#include <random>

#include "kmod-interfaces/page_flags.h"
#include "kmod-interfaces/page_idle_bitmap.h"
#include "kmod-interfaces/pagemap.h"
#include "telemetry/hotness/cpu_budget.h"
#include "telemetry/hotness/scan_plan.h"
#include "telemetry/hotness/self_check.h"
#include "telemetry/hotness/tracker.h"
#include "telemetry/hotness/watched_pagemaps.h"

namespace tidepool::telemetry {

struct IdlePageConfig {
  ScanWindows windows{};
  // All memory should be looked at this often; the sample of each 2 MiB is made as large as that leaves room for.
  Nanoseconds pass = std::chrono::seconds(30);
  std::uint32_t fewest_looks = 4;  // of each 2 MiB, whatever it costs: the pass then takes longer
  std::uint64_t seed = 1;
};

class IdlePageTracker final : public Tracker {
 public:
  // `cpu`: CPU time of the thread that calls round().
  IdlePageTracker(const IdlePageConfig& config, const kernel::KernelRoots& roots, const Clock& clock, const Clock& cpu);

  TrackerInfo info() const override;
  void set_cpu_share(double of_one_core) override { budget_.set_share(of_one_core); }
  void set_memory(const MemoryList& memory) override;
  void round(SampleSink& sink) override;

  std::uint32_t looks_per_unit() const { return looks_per_unit_; }

 private:
  // One frame that is watched, and which pages it stands for.
  struct Look {
    std::uint64_t frame = 0;
    std::uint16_t behind_head = 0;  // frames after the first of its compound page, which has the mark
    std::uint16_t offset = 0;       // of its page in the unit
    std::uint16_t pages = 0;
    std::uint64_t head() const { return frame - behind_head; }
  };
  struct Watch {
    MonoTime since;
    std::vector<Look> looks;  // by head
  };

  Result<> open();
  bool read_entries(const ScanUnit& unit);
  // Share of looks that found use; nothing when there was nothing to look at. False results end the round.
  Result<std::optional<double>> check(ScanPlan::Slot slot, SampleSink& sink);
  Result<> mark(ScanPlan::Slot slot);
  void choose_looks(const ScanUnit& unit, std::vector<Look>& looks);
  std::optional<Look> look_at(std::size_t offset);
  void report(const ScanUnit& unit, const Watch& watch, SampleSink& sink);
  std::optional<std::uint64_t> own_frame(AddressRange page) const;
  Result<> check_self();
  void steer(Nanoseconds spent);

  const IdlePageConfig config_;
  const kernel::KernelRoots roots_;
  const Clock& clock_;
  const Clock& cpu_;
  CpuBudget budget_;
  ScanPlan plan_;
  std::mt19937_64 random_;
  std::string why_not_;
  std::optional<kernel::PageIdleBitmap> bitmap_;
  std::optional<kernel::PageFlagsTable> flags_;
  std::optional<kernel::Pagemap> own_pagemap_;
  std::optional<SelfCheck> self_check_;
  std::optional<std::pair<std::uint64_t, std::uint64_t>> self_marked_;  // frames of the self-check: used, idle
  WatchedPagemaps pagemaps_;
  std::vector<Watch> watches_;  // by slot
  std::uint32_t looks_per_unit_ = 16;
  double cost_per_look_ = 2000;  // nanoseconds, of marking and checking; first guess, measured afterwards
  std::uint64_t looks_this_round_ = 0;
  unsigned failures_in_a_row_ = 0;
  std::uint64_t samples_ = 0;

  // Of the unit at hand, kept to spare allocations.
  std::vector<kernel::PagemapEntry> entries_;
  std::vector<std::uint64_t> frames_;
  std::vector<std::uint8_t> idle_;
};

}  // namespace tidepool::telemetry
