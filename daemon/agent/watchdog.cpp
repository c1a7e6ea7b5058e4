#include "daemon/agent/watchdog.h"

#include <pthread.h>

#include <utility>

namespace tidepool::daemon {

Watchdog::Watchdog(std::function<std::uint64_t()> pulse, std::function<void()> feed, const Clock& clock)
    : pulse_(std::move(pulse)),
      feed_(std::move(feed)),
      clock_(clock),
      last_pulse_(pulse_()),
      last_growth_ns_(clock.now().since_boot.count()) {}

Watchdog::~Watchdog() {
  stop();
}

void Watchdog::start() {
  thread_ = std::thread([this] { run(); });
  ::pthread_setname_np(thread_.native_handle(), "watchdog");
}

void Watchdog::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void Watchdog::run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    look();
    wake_.wait_for(lock, kPeriod);
  }
}

void Watchdog::look() {
  const std::uint64_t pulse = pulse_();
  if (pulse == last_pulse_) return;
  last_pulse_ = pulse;
  last_growth_ns_ = clock_.now().since_boot.count();
  feed_();
}

Nanoseconds Watchdog::silence() const {
  return clock_.now().since_boot - Nanoseconds{last_growth_ns_.load()};
}

}  // namespace tidepool::daemon
