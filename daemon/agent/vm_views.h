// What is remembered of each VM for its heatmap and working set. Fed by the policy thread, asked by the API's.
#pragma once

#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "daemon/agent/context.h"
#include "daemon/agent/heat_history.h"
#include "daemon/control/vm_views.h"
#include "policy/vm_heat.h"

namespace tidepool::daemon {

class VmViews {
 public:
  explicit VmViews(Context& context) : context_(context) {}

  // Once per tick for each VM; `heat` is read during the call only.
  void feed(const ManagedVm& vm, const policy::VmHeat& heat, MonoTime now);
  // Forgets the VMs that are not adopted any more.
  void forget_gone();

  Heatmap heatmap(const ManagedVm& vm, Nanoseconds last) const;
  // Without curve and offers, which are of now: working_set_now() has them.
  WorkingSet working_set(const ManagedVm& vm, Nanoseconds last) const;
  Bytes footprint() const;

 private:
  struct WorkingSetColumn {
    std::uint32_t minute = 0, ten_minutes = 0, resident = 0, far = 0;  // pages
  };
  struct WorkingSetSum {
    double minute = 0, ten_minutes = 0, resident = 0, far = 0;
    WorkingSetSum& operator+=(const WorkingSetSum& more);
    WorkingSetColumn column(unsigned count) const;
  };
  struct History {
    History();
    HeatHistory heat;
    CoarseningSeries<WorkingSetSum, WorkingSetColumn> sizes;
    MonoTime next_size{};
  };

  Context& context_;
  mutable std::mutex mutex_;
  std::map<VmId, History> histories_;
};

// What the VM uses now, and what less memory would cost it: from the rates of its regions. `resident` and `far` are
// what the VM has where.
struct MemoryNow {
  Bytes resident;
  Bytes far;
  Nanoseconds fault_cost{0};  // 0: not measured
  unsigned threads = 1;
  double stall_budget = 0;
};
WorkingSet working_set_now(const policy::MissCurve& curve, const MemoryNow& now);

}  // namespace tidepool::daemon
