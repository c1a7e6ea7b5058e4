// A lease of etcd that a thread keeps alive, and the time until which it is certain to live.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>

#include "pool/controller/state/etcd_gateway.h"

namespace tidepool::pool::controller {

// Counts the time that the machine slept (CLOCK_BOOTTIME), during which etcd's clock went on.
std::chrono::nanoseconds time_since_boot();

class EtcdLease {
 public:
  // `gateway` is this object's own. `lease` was asked for at `asked`.
  EtcdLease(std::unique_ptr<EtcdGateway> gateway, EtcdGateway::Lease lease, std::chrono::nanoseconds asked);
  // Lets it end by itself.
  ~EtcdLease();
  EtcdLease(const EtcdLease&) = delete;
  EtcdLease& operator=(const EtcdLease&) = delete;

  std::int64_t id() const { return lease_.id; }
  // True from some time before the lease can have ended. Any thread.
  bool lost() const;

 private:
  void run();
  void extend(std::chrono::nanoseconds asked, std::chrono::nanoseconds time);

  const EtcdGateway::Lease lease_;
  std::unique_ptr<EtcdGateway> gateway_;
  std::atomic<std::int64_t> until_{0};  // of time_since_boot()
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopped_ = false;
  std::thread thread_;
};

}  // namespace tidepool::pool::controller
