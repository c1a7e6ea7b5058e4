// Decides what moves in one tick. Deterministic: engines that were given the same snapshots and configuration answer
// with the same plans.
//
// The order of precedence, highest first: a frozen host or a held VM moves nothing; a VM whose memory control group is
// full gives up what is coldest; a guarantee is never broken otherwise, and is restored when it is; the host's need is
// met with what is worth least; a VM that waits more than its budget loses nothing more, and what it misses most comes
// back; an operator's limit is met with what is coldest, cold or not; otherwise what has proved cold goes, as far as
// the budget allows. All of it within the bandwidth, the tiers' capacity, the ceiling on far bytes and what could still
// be brought home (docs/policy.md). Not thread-safe.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "policy/admission.h"
#include "policy/config.h"
#include "policy/plan.h"
#include "policy/vm_heat.h"

namespace tidepool::policy {

struct VmState;

class Engine {
 public:
  Engine();
  ~Engine();
  Engine(Engine&&) noexcept;
  Engine& operator=(Engine&&) noexcept;

  Plan tick(const Snapshot& snapshot, const PolicyConfig& config);
  // Between two ticks: the memory control group of a VM's process has no room for what it touches, and the kernel would
  // kill. Its coldest regions go, some at a time. `sizes`: of all VMs, now; all else is as of the last tick.
  Plan relieve(VmId vm, std::span<const VmSizes> sizes, const PolicyConfig& config);

  // A planned demotion has begun, and is of so many pages.
  void begun(VmId vm, RegionId region, std::uint32_t pages);
  // It is over: so many pages went, and so many were asked for and left alone (as incompressible, or home for too short
  // a time, or refused by the pool): to ask for them again soon is no use. Nor is it where nothing went.
  void ended(VmId vm, RegionId region, std::uint32_t pages, std::uint32_t spared = 0);
  // A planned move that nobody could begin: it is not waited for.
  void not_taken(const Move& move);

  // What is known of a VM's memory; nothing for one that is not there. Valid until the next tick.
  const VmHeat* heat_of(VmId vm) const;

  // Would a VM with so much guaranteed, and up to so much more, fit? By the state of the last tick.
  Fit fits(Bytes guaranteed, Bytes oversubscribed) const;

  // A VM's history of need, to be kept over restarts. Giving it back to a VM that is not known yet waits for it. False:
  // the text is none.
  std::string history_of(VmId vm) const;
  bool give_history(VmId vm, std::string_view text);

  // All that is remembered, in bytes.
  Bytes footprint() const;

 private:
  VmState& state_of(VmId vm);
  VmState* find(VmId vm) const;
  Moment advance_clock(MonoTime now, const PolicyConfig& config, IntakeCounts& counts);
  void take_samples(const Snapshot& snapshot, IntakeCounts& counts);
  void settle_tick(VmState& vm, const Moment& now, std::chrono::seconds time_of_day, const PolicyConfig& config);
  Pressure measure_pressure(const std::vector<VmState*>& vms, const Moment& now, const PolicyConfig& config);

  struct Host;
  std::unique_ptr<Host> host_;
  std::vector<std::unique_ptr<VmState>> vms_;  // by id
  std::vector<std::pair<VmId, Utilisation>> waiting_histories_;
};

}  // namespace tidepool::policy
