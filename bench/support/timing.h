// What every benchmark needs: medians, and how long something took, as the clock and as the processor see it.
#pragma once

#include <sys/types.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <vector>

namespace tidepool::bench {

using Seconds = std::chrono::duration<double>;

inline double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

inline Seconds cpu_time() {
  timespec time{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

// Of another process; zero when it is no more.
inline Seconds cpu_time_of(pid_t process) {
  clockid_t clock{};
  timespec time{};
  if (::clock_getcpuclockid(process, &clock) == 0) ::clock_gettime(clock, &time);
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

struct Spent {
  double seconds = 0;
  double cpu_seconds = 0;  // of this process: on a busy machine the steadier figure
};

inline Spent spent_on(const std::function<void()>& work) {
  const Seconds cpu_before = cpu_time();
  const auto before = std::chrono::steady_clock::now();
  work();
  const double elapsed = Seconds(std::chrono::steady_clock::now() - before).count();
  return {elapsed, (cpu_time() - cpu_before).count()};
}

// Something and its floor, round by round: first one, then the other, so that a busy moment of the machine hits both.
class AgainstFloor {
 public:
  void add(Spent floor, Spent ours) {
    floors_.push_back(floor.seconds);
    ours_.push_back(ours.seconds);
    ratios_.push_back(floor.seconds / ours.seconds);
    cpu_ratios_.push_back(floor.cpu_seconds / ours.cpu_seconds);
  }
  double seconds() const { return median(ours_); }
  double floor_seconds() const { return median(floors_); }
  // Of throughputs: 1 is as good as the floor, less is worse. Medians of the rounds' own ratios.
  double ratio() const { return median(ratios_); }
  double cpu_ratio() const { return median(cpu_ratios_); }
  double last_seconds() const { return ours_.back(); }

 private:
  std::vector<double> floors_, ours_, ratios_, cpu_ratios_;
};

}  // namespace tidepool::bench
