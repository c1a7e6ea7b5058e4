// Tells the service manager that faults are being answered, and keeps silent when they are not: then the agent is
// killed, and its VMs' threads wait. Fed by the fault loops' progress, not by a timer, and by nothing else: a policy
// that is slow, or is asked seldom, endangers nobody. A thread of its own.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>

#include "base/clock.h"

namespace tidepool::daemon {

class Watchdog {
 public:
  static constexpr Nanoseconds kPeriod = std::chrono::seconds(1);

  // `pulse` grows while every fault loop goes round, which they do at least twice a second. `feed` is called after it
  // has grown.
  Watchdog(std::function<std::uint64_t()> pulse, std::function<void()> feed, const Clock& clock);
  ~Watchdog();  // stops
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;
  void start();
  void stop();

  // One look, as the thread takes one each period.
  void look();
  // For how long nothing has grown.
  Nanoseconds silence() const;

 private:
  void run();

  const std::function<std::uint64_t()> pulse_;
  const std::function<void()> feed_;
  const Clock& clock_;
  std::uint64_t last_pulse_ = 0;
  std::atomic<std::int64_t> last_growth_ns_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace tidepool::daemon
