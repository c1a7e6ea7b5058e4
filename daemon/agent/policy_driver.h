// The agent's heartbeat: once per tick it looks, lets policy decide, and acts. One thread.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "base/latency_histogram.h"
#include "daemon/agent/context.h"
#include "daemon/agent/tracked_vm.h"
#include "policy/plan.h"
#include "telemetry/hotness/region_tally.h"
#include "telemetry/hotness/tracker_set.h"
#include "telemetry/metrics/metrics_snapshot.h"

namespace tidepool::daemon {

struct DecisionCount {
  policy::Action action;
  policy::Reason reason;
  std::uint64_t count;
};

class PolicyDriver {
 public:
  // `vm_gone` is called on the driver's thread for a VM whose process ended.
  PolicyDriver(Context& context, std::function<void(const std::shared_ptr<ManagedVm>&)> vm_gone);
  ~PolicyDriver();
  void start();
  void stop();
  // A VM's own memory limit refuses pages: demote something of it now. Any thread; does not block.
  void relieve(VmId vm);

  // As policy sees the host now.
  policy::HostView host_view() const;
  // In order of preference, used or not.
  std::vector<telemetry::TrackerStatus> trackers() const;
  telemetry::DroppedSamples dropped_samples() const;
  std::vector<DecisionCount> decision_counts() const;
  const LatencyHistogram& tick_times() const { return tick_times_; }
  // False when the fault loops or the ticks have stood still for long.
  bool alive() const;

 private:
  void run();
  void tick();
  policy::Snapshot snapshot();
  bool pool_turned_pages_away(const policy::HostView& host, MonoTime now);
  policy::VmView view_of(ManagedVm& vm);
  void update_rates(ManagedVm& vm, MonoTime now) const;
  void act(const policy::Plan& plan);
  void record(const policy::Plan& plan);
  void sample();
  void find_growth();
  void bound_clean_copies();
  void relieve_now();

  Context& context_;
  const std::function<void(const std::shared_ptr<ManagedVm>&)> vm_gone_;
  policy::PolicyState state_;
  const ThreadCpuClock cpu_clock_;
  TrackedVms tracked_;
  telemetry::TrackerSet trackers_;
  telemetry::RegionTally seen_;
  LatencyHistogram tick_times_;
  std::uint64_t ticks_ = 0;
  std::atomic<std::int64_t> last_progress_ns_{0};
  std::uint64_t last_heartbeat_ = 0;
  std::uint64_t pages_turned_away_ = 0;
  MonoTime turned_away_at_{};
  Bytes turned_away_capacity_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<VmId> relieve_;
  std::map<std::pair<policy::Action, policy::Reason>, std::uint64_t> counts_;
  std::vector<telemetry::TrackerStatus> tracker_status_;
  telemetry::DroppedSamples dropped_samples_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace tidepool::daemon
