#include "bench/load/foreground.h"

#include <malloc.h>
#include <pthread.h>

#include <algorithm>
#include <cstdio>
#include <ctime>

namespace tidepool::load {

void print(const std::string& text) {
  std::fputs(text.c_str(), stdout);
  std::fflush(stdout);
}

SignalWaiter::SignalWaiter() {
  ::sigemptyset(&set_);
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1, SIGUSR2}) ::sigaddset(&set_, signal);
  ::pthread_sigmask(SIG_BLOCK, &set_, nullptr);
}

int SignalWaiter::wait(std::chrono::nanoseconds limit) const {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(limit);
  const timespec time{.tv_sec = seconds.count(), .tv_nsec = (limit - seconds).count()};
  const int signal = ::sigtimedwait(&set_, nullptr, &time);
  return signal > 0 ? signal : 0;
}

void SignalWaiter::restore_defaults() const {
  ::pthread_sigmask(SIG_UNBLOCK, &set_, nullptr);
}

void keep_bookkeeping_small() {
  ::mallopt(M_ARENA_MAX, 1);
  pthread_attr_t attributes;
  if (::pthread_attr_init(&attributes) != 0) return;
  constexpr std::size_t kStack = std::size_t{960} << 10;
  ::pthread_attr_setstacksize(&attributes, kStack);
  ::pthread_setattr_default_np(&attributes);
  ::pthread_attr_destroy(&attributes);
}

bool wait_for(std::chrono::nanoseconds limit, bool unlimited, const SignalWaiter& signals, Reporter& reporter,
              const std::function<void()>& check) {
  using SteadyClock = std::chrono::steady_clock;
  const auto end = SteadyClock::now() + limit;
  constexpr std::chrono::nanoseconds kLongest = std::chrono::seconds(1);
  for (;;) {
    const auto left = unlimited ? kLongest : std::chrono::nanoseconds(end - SteadyClock::now());
    if (left.count() <= 0) return true;
    const int signal = signals.wait(std::min(left, kLongest));
    if (signal == SIGUSR1) print(reporter.interim());
    if (signal == SIGUSR2 && check) check();
    if (signal == SIGINT || signal == SIGTERM) return false;
  }
}

}  // namespace tidepool::load
