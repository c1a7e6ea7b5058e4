// Who may do what to a VM's events at this moment: the fault loop that reads them, or the demotion thread that decides
// on pages whose owner must not change anything in between.
//
// A thread that forks, unmaps or moves memory waits in the kernel until its event has been read. So while nobody reads,
// no new child runs, and the addresses in the VM's tables are what they seem.
//
//   open -> reading   the loop, until the changes that it read are in the VM's tables
//   open -> deciding  the demotion thread, for as long as it looks, commits, and punches or asks the process's ring
//
// Neither waits long for the other: whoever is refused comes back later.
#pragma once

#include <atomic>
#include <thread>

namespace tidepool::daemon {

class EventGate {
 public:
  bool try_close() { return !closed_.test_and_set(std::memory_order_acquire); }
  // For the demotion thread: the loop closes the gate for some microseconds, and that all the time when there are many
  // faults.
  bool try_close_patiently() {
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
      if (try_close()) return true;
      std::this_thread::yield();
    }
    return false;
  }
  void open() { closed_.clear(std::memory_order_release); }

 private:
  static constexpr int kAttempts = 200;
  std::atomic_flag closed_ = ATOMIC_FLAG_INIT;
};

}  // namespace tidepool::daemon
