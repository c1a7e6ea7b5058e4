// What the agent tells policy in a tick: the host, every VM, and of their memory what changed since the last tick.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <vector>

#include "daemon/agent/context.h"
#include "policy/snapshot.h"
#include "telemetry/hotness/tracker.h"

namespace tidepool::daemon {

// Collects what trackers see in a tick. What goes beyond its bound is dropped and counted: the next look sees it again.
class SampleBuffer final : public telemetry::SampleSink {
 public:
  void add(const policy::AccessSample& sample) override {
    samples_.size() < kMostSamples ? samples_.push_back(sample) : static_cast<void>(++dropped_);
  }
  void clear() { samples_.clear(); }
  const std::vector<policy::AccessSample>& samples() const { return samples_; }
  std::uint64_t dropped() const { return dropped_; }

 private:
  static constexpr std::size_t kMostSamples = 1 << 20;
  std::vector<policy::AccessSample> samples_;
  std::uint64_t dropped_ = 0;
};

// Positions in policy::HostView::tiers.
inline constexpr unsigned kPoolTier = 0;
inline constexpr unsigned kKernelTier = 1;

// The host as policy sees it. Any thread.
policy::HostView host_view_of(const Context& context);

// Threads of it that can wait for a far page at once: its stall is a share of the time of each.
unsigned fault_threads_of(const ManagedVm& vm);

// Where its memory is now. Any thread.
policy::VmSizes sizes_of(const ManagedVm& vm);

// One thread. What it answers is valid until it is asked again.
class PolicyView {
 public:
  explicit PolicyView(Context& context) : context_(context) {}

  policy::Snapshot snapshot(const SampleBuffer& samples);

 private:
  // Of one memory object: what was reported of each region, and what is news.
  struct Object {
    std::vector<std::uint64_t> reported;  // resident, far, incompressible and shallow pages, ten bits each
    std::vector<policy::RegionNews> news;

    void begin(std::uint64_t regions);
    void report(const policy::RegionNews& region);
  };
  struct Vm {
    std::vector<Object> objects;
    std::vector<policy::ObjectView> views;
    bool seen = false;
  };

  policy::VmView view_of(ManagedVm& vm);
  void update_rates(ManagedVm& vm, MonoTime now) const;
  double memory_pressure(MonoTime now);
  void price_pool(policy::TierView& pool, MonoTime now);
  bool pool_turned_pages_away(const policy::TierView& pool, MonoTime now);
  void look_at(const ManagedVm& vm, Vm& known, policy::VmView& view) const;
  static void look_at(const Workload& workload, Vm& known, policy::VmView& view);
  // `beside`: the same memory in the kernel's account, or null.
  static void find_news(PageMap& map, const SwapRegions* beside, Object& object);
  static void find_news(const SwapRegions& regions, Object& object);

  Context& context_;
  std::map<VmId, Vm> vms_;
  std::chrono::microseconds pressure_total_{0};
  MonoTime pressure_at_{};
  VmRates pool_rates_;  // of all VMs' waits for the pool together
  std::uint64_t pages_turned_away_ = 0;
  MonoTime turned_away_at_{};
  Bytes turned_away_capacity_;
};

}  // namespace tidepool::daemon
