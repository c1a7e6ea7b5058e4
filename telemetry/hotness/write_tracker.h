// Writes, page by page, cheaply: PAGEMAP_SCAN takes the pages that were written since it last did and protects them
// anew; the kernel lifts the protection itself at the next write. Blind to reads. Of memory whose mappings are divided
// for trackers (DividedMappings), which the pager's are not: tracking writes is a property of a whole userfaultfd, and
// such a one cannot freeze pages. Linux 6.7.
#pragma once

#include <bitset>
#include <optional>

#include "kmod-interfaces/pagemap.h"
#include "telemetry/hotness/cpu_budget.h"
#include "telemetry/hotness/divided_mappings.h"
#include "telemetry/hotness/scan_plan.h"
#include "telemetry/hotness/self_check.h"
#include "telemetry/hotness/tracker.h"
#include "telemetry/hotness/watched_pagemaps.h"

namespace tidepool::telemetry {

// Of which pages of `range`, 512 at most, the regions tell. Total over any regions: what lies outside of the range, is
// turned round or begins within a page is left out and counted; what overlaps counts once.
std::bitset<kPagesPerHugePage> pages_in(AddressRange range, std::span<const kernel::uapi::page_region> regions,
                                        std::uint64_t& malformed);

class WriteTracker final : public Tracker {
 public:
  // `cpu`: CPU time of the thread that calls round().
  WriteTracker(const ScanWindows& windows, const kernel::KernelRoots& roots, const Clock& clock, const Clock& cpu);

  TrackerInfo info() const override;
  Coverage covers(const MemoryList& memory) const override;
  void set_cpu_share(double of_one_core) override { budget_.set_share(of_one_core); }
  void set_memory(const MemoryList& memory) override;
  void round(SampleSink& sink) override;

 private:
  Result<> open();
  std::optional<double> look(ScanPlan::Slot slot, SampleSink& sink);
  void check_self();

  const kernel::KernelRoots roots_;
  const Clock& clock_;
  const Clock& cpu_;
  CpuBudget budget_;
  ScanPlan plan_;
  std::string why_not_;
  WatchedPagemaps pagemaps_;
  std::vector<MonoTime> since_;  // by slot; zero: not watched yet
  std::optional<kernel::Pagemap> own_pagemap_;
  std::optional<SelfCheck> self_check_;
  std::optional<DividedMappings> own_memory_;  // that of the self-check; goes before it does
  bool self_watched_ = false;
  std::uint64_t samples_ = 0;
  std::uint64_t malformed_ = 0;
};

}  // namespace tidepool::telemetry
