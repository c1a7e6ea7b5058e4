#include "telemetry/hotness/fault_sampler.h"

#include <algorithm>

#include "base/units.h"

namespace tidepool::telemetry {
namespace {

constexpr std::size_t kMaxPerScan = 8192;

}  // namespace

FaultSampler::FaultSampler(const FaultSamplerConfig& config, const Clock& clock)
    : config_(config), clock_(clock), random_(config.seed) {}

void FaultSampler::set_targets(std::vector<std::shared_ptr<SampleTarget>> targets) {
  std::vector<std::uint64_t> cursors(targets.size(), 0);
  for (std::size_t i = 0; i < targets.size(); ++i) {
    const auto known = std::find(targets_.begin(), targets_.end(), targets[i]);
    if (known != targets_.end()) cursors[i] = cursors_[static_cast<std::size_t>(known - targets_.begin())];
  }
  targets_ = std::move(targets);
  cursors_ = std::move(cursors);
}

TrackerInfo FaultSampler::info() const {
  TrackerInfo info;
  info.name = "fault-sampling";
  info.usable = true;
  info.sees = Sees::kReadsAndWrites;
  info.blind_spots = {"private memory: reads are not seen while it is resident",
                      "a region is looked at as often as the CPU budget allows"};
  info.cpu = cpu_;
  return info;
}

void FaultSampler::scan() {
  const MonoTime start = clock_.now();
  const double passed = last_scan_ == MonoTime{} ? 1.0 : std::chrono::duration<double>(start - last_scan_).count();
  last_scan_ = start;
  const double rate = config_.cpu_share / std::chrono::duration<double>(config_.cost_per_sample).count();
  tokens_ = std::min(tokens_ + rate * std::min(passed, 5.0), static_cast<double>(kMaxPerScan));
  if (targets_.empty()) return;
  std::uint64_t regions = 0;
  for (const auto& target : targets_) regions += target->regions();
  for (std::size_t i = 0; i < targets_.size() && regions > 0; ++i) {
    // Everybody's share of the budget is its share of the memory.
    const double share = static_cast<double>(targets_[i]->regions()) / static_cast<double>(regions);
    const auto budget = static_cast<std::uint64_t>(tokens_ * share);
    std::uint64_t left = budget;
    std::vector<PageIndex> pages;
    const std::uint64_t count = targets_[i]->regions();
    for (std::uint64_t seen = 0; seen < count && left >= config_.per_region; ++seen) {
      const std::uint64_t region = cursors_[i]++ % count;
      if (targets_[i]->resident(region) == 0 || targets_[i]->waiting(region) >= config_.per_region) continue;
      for (std::uint16_t k = 0; k < config_.per_region; ++k) {
        pages.push_back(PageIndex{region * kPagesPerHugePage + random_() % kPagesPerHugePage});
      }
      left -= config_.per_region;
    }
    if (!pages.empty()) targets_[i]->arm(pages);
    tokens_ -= static_cast<double>(pages.size());
  }
  cpu_ += clock_.now() - start;
}

}  // namespace tidepool::telemetry
