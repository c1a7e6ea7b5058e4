// Once per tick it looks, lets policy decide, and acts. One thread.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <thread>

#include "base/latency_histogram.h"
#include "daemon/agent/access_recorder.h"
#include "daemon/agent/carried_out.h"
#include "daemon/agent/context.h"
#include "daemon/agent/group_watch.h"
#include "daemon/agent/need_notes.h"
#include "daemon/agent/pin_watch.h"
#include "daemon/agent/policy_view.h"
#include "daemon/agent/tracked_vm.h"
#include "daemon/agent/vm_views.h"
#include "policy/engine.h"
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
  // `vm_gone` is called on the driver's thread for a VM whose process ended. `recorder` is shown all samples.
  PolicyDriver(Context& context, AccessRecorder& recorder,
               std::function<void(const std::shared_ptr<ManagedVm>&)> vm_gone);
  ~PolicyDriver();
  void start();
  void stop();
  // A VM's own memory limit refuses pages: demote something of it now. Any thread; does not block.
  void relieve(VmId vm);

  // How short of memory the host is, as of the last tick.
  policy::Pressure pressure() const;
  // What policy was told since start, and what of it made no sense.
  policy::IntakeCounts intake() const;
  // What a VM in dry-run mode would have far, and what that would cost; nothing for others.
  std::optional<policy::DryRun> dry_run(VmId vm) const;
  // What is remembered of its memory, and what less of it would cost.
  Heatmap heatmap(const ManagedVm& vm, Nanoseconds last) const { return views_.heatmap(vm, last); }
  WorkingSet working_set(const ManagedVm& vm, Nanoseconds last) const;
  // Would one more VM fit? As of the last tick.
  policy::Fit fits(Bytes guaranteed, Bytes oversubscribed) const;
  // In order of preference, used or not.
  std::vector<telemetry::TrackerStatus> trackers() const;
  telemetry::DroppedSamples dropped_samples() const;
  std::vector<DecisionCount> decision_counts() const;
  const LatencyHistogram& tick_times() const { return tick_times_; }
  // False when no tick has ended for much longer than one is due.
  bool alive() const;

 private:
  void run();
  void tick();
  policy::PolicyConfig policy_config() const;
  bool order_out(const ManagedVm& vm, const policy::Move& move);
  bool order_home(const ManagedVm& vm, const policy::Move& move);
  // What is decided is ordered, and recorded as far as it was.
  void carry_out(const policy::Plan& plan);
  void record(const policy::Plan& plan, const CarriedOut& moves);
  void record_pressure(const policy::Pressure& pressure);
  void sample();
  void take_demotion_news();
  void feed_views();
  void find_growth();
  void bound_clean_copies();
  void relieve_now();
  bool may_relieve(const ManagedVm& vm) const;

  Context& context_;
  AccessRecorder& recorder_;
  const std::function<void(const std::shared_ptr<ManagedVm>&)> vm_gone_;
  GroupWatch groups_;
  PinWatch pins_;
  PolicyView view_;
  const ThreadCpuClock cpu_clock_;
  TrackedVms tracked_;
  telemetry::TrackerSet trackers_;
  SampleBuffer seen_;
  VmViews views_;
  NeedNotes needs_;
  LatencyHistogram tick_times_;
  std::uint64_t ticks_ = 0;
  std::atomic<std::int64_t> last_tick_ns_{0};

  mutable std::mutex engine_mutex_;
  policy::Engine engine_;
  policy::Pressure pressure_;
  policy::IntakeCounts intake_;
  std::vector<policy::DryRun> dry_runs_;
  std::atomic<std::uint64_t> samples_dropped_{0};

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<VmId> relieve_;
  std::map<std::pair<policy::Action, policy::Reason>, std::uint64_t> counts_;
  std::vector<telemetry::TrackerStatus> tracker_status_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace tidepool::daemon
