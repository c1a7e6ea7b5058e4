#include "pool/controller/state/etcd_lease.h"

#include <time.h>

#include <utility>

namespace tidepool::pool::controller {
namespace {

// Of the lease's time: how much earlier than etcd we take it for ended. Clocks do not differ that much in speed.
constexpr int kMarginShare = 10;
constexpr int kRenewalsPerTerm = 4;
constexpr auto kPauseAfterFailure = std::chrono::milliseconds(100);

}  // namespace

std::chrono::nanoseconds time_since_boot() {
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

EtcdLease::EtcdLease(std::unique_ptr<EtcdGateway> gateway, EtcdGateway::Lease lease, std::chrono::nanoseconds asked)
    : lease_(lease), gateway_(std::move(gateway)) {
  extend(asked, lease.time);
  thread_ = std::thread([this] { run(); });
}

EtcdLease::~EtcdLease() {
  {
    const std::scoped_lock guard(mutex_);
    stopped_ = true;
  }
  wake_.notify_all();
  gateway_->stop();
  thread_.join();
}

bool EtcdLease::lost() const {
  return time_since_boot().count() >= until_;
}

// etcd counts from when it has the request, which is not before it was sent.
void EtcdLease::extend(std::chrono::nanoseconds asked, std::chrono::nanoseconds time) {
  until_ = (asked + time - time / kMarginShare).count();
}

void EtcdLease::run() {
  std::chrono::nanoseconds pause = lease_.time / kRenewalsPerTerm;
  std::unique_lock guard(mutex_);
  while (!wake_.wait_for(guard, pause, [this] { return stopped_; })) {
    guard.unlock();
    const std::chrono::nanoseconds asked = time_since_boot();
    const Result<std::chrono::seconds> left = gateway_->keep_alive(lease_.id);
    guard.lock();
    pause = left ? std::chrono::nanoseconds(lease_.time) / kRenewalsPerTerm : kPauseAfterFailure;
    if (left && left->count() <= 0) {
      until_ = 0;
      return;
    }
    if (left) extend(asked, *left);
  }
}

}  // namespace tidepool::pool::controller
