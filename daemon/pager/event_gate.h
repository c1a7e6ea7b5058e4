// Who may do what to a VM's events at this moment: the fault loop that reads them, or the demotion thread that decides
// on pages whose owner must not change anything in between.
//
// A thread that forks, unmaps or moves memory waits in the kernel until its event has been read. So while nobody reads,
// no new child runs, and the addresses in the VM's tables are what they seem.
//
//   open -> reading   the loop, until the changes that it read are in the VM's tables
//   open -> deciding  the demotion thread, for as long as it looks, commits, and punches or asks the process's ring
//
// Neither waits for the other: whoever is refused comes back later.
#pragma once

#include <atomic>

namespace tidepool::daemon {

class EventGate {
 public:
  bool try_close() { return !closed_.test_and_set(std::memory_order_acquire); }
  void open() { closed_.clear(std::memory_order_release); }

 private:
  std::atomic_flag closed_ = ATOMIC_FLAG_INIT;
};

}  // namespace tidepool::daemon
