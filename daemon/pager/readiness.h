// Which of a fault loop's descriptors have something to say.
//
// To be watched by epoll costs whoever faults: its thread runs epoll's call-back before it goes to sleep, and where
// several threads of a process share a processor they fault one after the other, so each waits for that time of all
// others. So what is busy while the loop polls anyway is asked directly instead, and watched again when polling ends.
//
// For use by one thread.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace tidepool::daemon {

class Readiness {
 public:
  static constexpr std::size_t kMaxReady = 64;
  static constexpr std::size_t kMaxAskedDirectly = 16;

  Result<> open();
  // `key` is what ready() answers for it. 0 or errno.
  int watch(int fd, void* key);
  void forget(int fd, void* key);
  // Whether it is looked at; what it has to say is not lost meanwhile.
  void listen(int fd, void* key, bool on);
  // It is busy: asked directly until the next call of wait().
  void ask_directly(int fd, void* key);

  // Keys of those that have something to say, at most kMaxReady; valid until the next call. Polls, or waits.
  std::span<void* const> poll();
  std::span<void* const> wait(Nanoseconds timeout);

 private:
  struct Direct {
    int fd;
    void* key;
  };
  int control(int operation, int fd, void* key, bool on) const;
  bool no_longer_directly(void* key);
  void take_watched(Nanoseconds timeout);

  UniqueFd epoll_;
  std::vector<Direct> direct_;
  std::array<void*, kMaxReady> keys_{};
  std::size_t ready_ = 0;
};

}  // namespace tidepool::daemon
