// Sees accesses by taking the mapping of a few random pages away and counting the faults that follow.
//
// Works on every kernel that the pager works on. Shared memory: reads and writes. Private memory is write-protected
// instead, so only writes are seen there; far memory needs no sampling, its every access is a fault. Costs the VM one
// fault (some 15 us) per sampled page that it uses.
#pragma once

#include <memory>
#include <random>
#include <span>
#include <vector>

#include "telemetry/hotness/tracker.h"

namespace tidepool::telemetry {

// Memory that can be sampled; implemented over the pager.
class SampleTarget {
 public:
  virtual ~SampleTarget() = default;
  virtual std::uint64_t regions() const = 0;
  // Resident pages of a region; zero: nothing to sample.
  virtual std::uint16_t resident(std::uint64_t region) const = 0;
  // Pages of a region that are sampled already and have not been touched.
  virtual std::uint16_t waiting(std::uint64_t region) const = 0;
  // Arms pages; returns how many it could.
  virtual std::size_t arm(std::span<const PageIndex> pages) = 0;
};

struct FaultSamplerConfig {
  double cpu_share = 0.01;  // of one core, for arming and for the faults that it causes
  Nanoseconds cost_per_sample = std::chrono::microseconds(20);  // first guess; measured afterwards
  std::uint16_t per_region = 2;
  std::uint64_t seed = 1;
};

class FaultSampler final : public Tracker {
 public:
  FaultSampler(const FaultSamplerConfig& config, const Clock& clock);

  // Which memory to look at from now on.
  void set_targets(std::vector<std::shared_ptr<SampleTarget>> targets);
  TrackerInfo info() const override;
  void scan() override;

 private:
  const FaultSamplerConfig config_;
  const Clock& clock_;
  std::mt19937_64 random_;
  std::vector<std::shared_ptr<SampleTarget>> targets_;
  std::vector<std::uint64_t> cursors_;  // per target: the region to go on with
  MonoTime last_scan_{};
  double tokens_ = 0;  // samples that may be armed
  Nanoseconds cpu_{0};
};

}  // namespace tidepool::telemetry
