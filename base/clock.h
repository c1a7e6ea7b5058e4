// Time is injected, so that tests and the simulator decide what "now" is.
#pragma once

#include <chrono>

namespace tidepool {

using Nanoseconds = std::chrono::nanoseconds;

// A point on the host's monotonic clock (CLOCK_MONOTONIC, comparable between processes of one boot).
struct MonoTime {
  Nanoseconds since_boot{0};
  constexpr auto operator<=>(const MonoTime&) const = default;
  constexpr MonoTime operator+(Nanoseconds d) const { return MonoTime{since_boot + d}; }
  constexpr MonoTime operator-(Nanoseconds d) const { return MonoTime{since_boot - d}; }
  constexpr Nanoseconds operator-(MonoTime other) const { return since_boot - other.since_boot; }
};

class Clock {
 public:
  virtual ~Clock() = default;
  // Thread-safe.
  virtual MonoTime now() const = 0;
};

class SystemClock final : public Clock {
 public:
  MonoTime now() const override;
};

// The CPU time of the calling thread since it began (CLOCK_THREAD_CPUTIME_ID): what work costs, however long it waits.
class ThreadCpuClock final : public Clock {
 public:
  MonoTime now() const override;
};

// Stands still until it is told to move. Not thread-safe.
class ManualClock final : public Clock {
 public:
  MonoTime now() const override { return now_; }
  void advance(Nanoseconds by) { now_ = now_ + by; }

 private:
  MonoTime now_{std::chrono::hours(1)};
};

}  // namespace tidepool
