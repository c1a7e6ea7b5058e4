// For answers that may come when whoever asked is gone: they pass while it is there, and it goes when none is inside.
// Thread-safe; who is inside may enter again.
#pragma once

#include <condition_variable>
#include <mutex>

namespace tidepool::pool {

class CallGate {
 public:
  bool enter() {
    const std::lock_guard lock(mutex_);
    if (!closed_) ++inside_;
    return !closed_;
  }
  void leave() {
    const std::lock_guard lock(mutex_);
    if (--inside_ == 0) left_.notify_all();
  }
  // Nobody is inside when this returns, nor will be. Not from inside.
  void close() {
    std::unique_lock lock(mutex_);
    closed_ = true;
    left_.wait(lock, [this] { return inside_ == 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable left_;
  unsigned inside_ = 0;
  bool closed_ = false;
};

}  // namespace tidepool::pool
