#include "base/clock.h"

#include <ctime>

namespace tidepool {

namespace {

MonoTime read(clockid_t clock) {
  timespec t{};
  ::clock_gettime(clock, &t);
  return MonoTime{std::chrono::seconds(t.tv_sec) + Nanoseconds(t.tv_nsec)};
}

}  // namespace

MonoTime SystemClock::now() const {
  return read(CLOCK_MONOTONIC);
}

MonoTime ThreadCpuClock::now() const {
  return read(CLOCK_THREAD_CPUTIME_ID);
}

}  // namespace tidepool
