// What the parts of the agent share. Lives as long as the agent; its members outlive all threads that use them.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>

#include "base/clock.h"
#include "daemon/agent/descriptor_clerk.h"
#include "daemon/agent/managed_vm.h"
#include "daemon/agent/record.h"
#include "daemon/control/config.h"
#include "daemon/kernel_tier/swap_mover.h"
#include "daemon/pager/pager.h"
#include "kmod-interfaces/kernel_roots.h"
#include "pool/pool.h"

namespace tidepool::daemon {

struct AdoptionCount {
  std::uint64_t succeeded = 0;
  std::map<std::string, std::uint64_t> refused;  // by the first refusing code
  std::uint64_t failed = 0;
};

struct Context {
  explicit Context(Config initial)
      : config_(std::move(initial)), decisions(config_.policy.decision_history), events(10000) {}

  Config config() const {
    const std::lock_guard lock(mutex_);
    return config_;
  }
  void set_config(Config next) {
    const std::lock_guard lock(mutex_);
    config_ = std::move(next);
  }
  void event(const std::string& vm, std::string kind, std::string message) {
    VmEvent event;
    event.vm = vm;
    event.kind = std::move(kind);
    event.message = std::move(message);
    events.add(std::move(event));
  }

  // A person has not frozen the host, and somebody holds what a crash of ours would lose.
  bool may_move_out() const { return !frozen && clerk->holding(); }

  const SystemClock clock;
  const kernel::KernelRoots roots;

 private:
  mutable std::mutex mutex_;
  Config config_;

 public:
  std::unique_ptr<pool::Pool> pool;
  std::unique_ptr<DescriptorClerk> clerk;
  std::unique_ptr<Pager> pager;
  std::unique_ptr<SwapMover> swap_mover;
  VmRegistry vms;
  Record<Decision> decisions;
  Record<VmEvent> events;
  std::atomic<bool> frozen{false};
  std::atomic<bool> stopping{false};
  std::atomic<bool> reload_ok{true};
  std::atomic<std::uint64_t> holder_losses{0};

  std::mutex adoptions_mutex;
  AdoptionCount adoptions;
  LatencyHistogram adoption_stops;
};

}  // namespace tidepool::daemon
