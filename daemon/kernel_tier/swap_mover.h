// Moves workloads' pages to the kernel's tier and back, and keeps the account of where they are: one thread, which
// waits for nobody but the kernel.
//
// Out: process_madvise(MADV_PAGEOUT), region by region. What did not leave (locked, pinned, shared with a forked child,
// used meanwhile, no room in swap) shows when the page tables are looked at again, and is told. Back: the pages are
// read from outside, one byte each (process_vm_readv): that is what brings them home. MADV_WILLNEED only fills the swap
// cache: the memory is taken, the page stays in swap as well, and the process faults all the same (tried on 6.18).
// Looking: PAGEMAP_SCAN in slices, within a budget of CPU time.
#pragma once

#include <bitset>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/latency_histogram.h"
#include "daemon/kernel_tier/fault_probe.h"
#include "daemon/kernel_tier/workload.h"
#include "kmod-interfaces/kernel_tier.h"
#include "telemetry/hotness/cpu_budget.h"

namespace tidepool::daemon {

// What the host's tier is and costs. `probed`: when its costs were measured; MonoTime{}: never yet.
struct TierState {
  kernel::KernelTier kernel;
  Nanoseconds fault_cost{0};
  Nanoseconds store_cost{0};
  MonoTime probed{};
  std::string probe_trouble;  // why it could not be measured; empty when it could, or was not tried
};

struct SwapMoverHooks {
  // Whether this process may join a workload of a control group. Called on the mover's thread.
  std::function<bool(const kernel::ProcessId&)> may_join;
  // Moves stop between regions while it says so. Any thread.
  std::function<bool()> frozen;
  // How much of one core looking may cost for every 100 GiB (limits.tracker_cpu).
  std::function<double()> cpu_per_100_gib;
};

class SwapMover {
 public:
  static constexpr std::size_t kMostQueued = 4096;     // regions, of all workloads
  static constexpr std::size_t kMostProcesses = 1024;  // of one workload
  static constexpr std::uint32_t kRegionsAtOnce = 64;  // looked at in one call of the kernel
  using RegionPages = std::bitset<policy::kRegionPages>;
  using Then = std::function<void(const RegionPages&)>;

  SwapMover(const kernel::KernelRoots& roots, SwapMoverHooks hooks);
  ~SwapMover();
  SwapMover(const SwapMover&) = delete;
  SwapMover& operator=(const SwapMover&) = delete;
  void start();
  void stop();

  // Takes it into care: looks at all of it once, on the caller's thread. The first of `pids` joins whatever may_join
  // says, which the caller has judged. ESRCH: none of its processes is there (any
  // more). From here on it is looked at and may be moved.
  Result<std::shared_ptr<Workload>> adopt(const std::vector<pid_t>& pids, std::string cgroup,
                                          Workload::Members members);
  // The private memory that the pager manages of one process, as a second place for its pages. `number` is the VM's.
  Result<std::shared_ptr<Workload>> adopt_beside(VmId number, pid_t pid, BesidePager beside);
  // Nothing of it is touched any more when this returns.
  void forget(const std::shared_ptr<Workload>& workload);

  // False when nothing more is taken on now.
  bool demote(const std::shared_ptr<Workload>& workload, policy::RegionId region, policy::UnitMask units);
  // `then`, unless it is empty, runs on the mover's thread when what could be brought is home, with these pages; never
  // after forget.
  bool restore(const std::shared_ptr<Workload>& workload, policy::RegionId region, policy::UnitMask units,
               Then then = {});
  // All of it, on the caller's thread; returns the bytes that are still far. `go_on` is asked between regions.
  Bytes bring_home(const std::shared_ptr<Workload>& workload, const std::function<bool(Bytes left)>& go_on);

  TierState tier() const;
  // The waits that were measured.
  const LatencyHistogram& fault_times() const { return fault_times_; }
  // CPU time that looking took since start.
  Nanoseconds cpu() const;

 private:
  struct Order {
    std::shared_ptr<Workload> workload;
    policy::RegionId region;
    policy::UnitMask units;
    bool home = false;
    Then then;
  };
  // Of a process, what is needed to act on it without holding its workload's lock.
  struct Grip {
    kernel::ProcessId id;
    std::shared_ptr<const UniqueFd> pidfd;
    std::shared_ptr<const kernel::Pagemap> pagemap;
    std::vector<SwapPiece> parts;
    std::uint64_t first = 0;  // page of the region
    std::uint32_t place = 0;  // of the process in its workload
  };

  void run();
  bool carry_out_next();
  void carry_out(const Order& order);
  void move_out(Workload& workload, const Order& order, const Grip& grip);
  RegionPages move_home(Workload& workload, policy::RegionId region, const Grip& grip);
  std::optional<Grip> grip_of(Workload& workload, policy::RegionId region, policy::UnitMask units) const;
  // Looks at a run of regions and puts it into the account.
  void look(Workload& workload, std::uint32_t object, std::uint32_t first, std::uint32_t count);
  void look_at_all(Workload& workload);
  void take_into_care(const std::shared_ptr<Workload>& workload);
  bool worth_a_look(const Workload& workload) const;
  void look_around();
  bool look_further(Workload& workload, telemetry::Spending& spending);
  void refresh();
  void refresh(Workload& workload);
  bool refresh(Workload& workload, std::uint32_t object);
  // `judged`: somebody has found already that it may.
  void join(Workload& workload, pid_t pid, bool judged);
  // What counts of a process's memory, given its mappings. True when that is news.
  static bool set_memory(const Workload& workload, SwapRegions& regions, std::vector<AddressRange> mappings,
                         SharedLayout layout);
  void probe();
  std::vector<std::shared_ptr<Workload>> workloads() const;

  const kernel::KernelRoots roots_;
  const SwapMoverHooks hooks_;
  const SystemClock clock_;
  const ThreadCpuClock cpu_clock_;
  telemetry::CpuBudget budget_;
  LatencyHistogram fault_times_;
  std::atomic<std::uint32_t> next_id_{1u << 31};  // the pager counts from one

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Order> orders_;
  std::vector<std::shared_ptr<Workload>> workloads_;
  TierState tier_;
  Nanoseconds cpu_{0};
  bool stopping_ = false;
  std::mutex work_mutex_;  // held while one workload is worked on; before mutex_
  std::optional<FaultProbe> probe_;
  MonoTime refreshed_{};
  MonoTime probed_{};
  MonoTime pass_began_{};
  std::size_t pass_at_ = 0;
  std::thread thread_;
};

}  // namespace tidepool::daemon
