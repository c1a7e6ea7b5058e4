#include "base/clock.h"

#include <ctime>

namespace tidepool {

MonoTime SystemClock::now() const {
  timespec t{};
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return MonoTime{std::chrono::seconds(t.tv_sec) + Nanoseconds(t.tv_nsec)};
}

}  // namespace tidepool
