// A running tidepool-load in the pager's care, as the agent has its VMs: for trackers that go by the pager.
#pragma once

#include <memory>

#include "base/clock.h"
#include "daemon/agent/tracked_vm.h"
#include "daemon/pager/pager.h"
#include "pool/store/embedded_store.h"
#include "tests/support/watched_load.h"

namespace tidepool::bench {

class ManagedLoad {
 public:
  // Throws std::runtime_error with the reason when it cannot be taken care of. `shared`: the load's memory is a
  // memfd's. The load must outlive this, and gets its memory back when this goes.
  ManagedLoad(test::WatchedLoad& load, bool shared);
  ~ManagedLoad();
  ManagedLoad(const ManagedLoad&) = delete;
  ManagedLoad& operator=(const ManagedLoad&) = delete;

  // Shared memory only: waits until every page is far.
  void demote_all();

 private:
  const SystemClock clock_;
  std::unique_ptr<pool::EmbeddedStore> store_;
  std::unique_ptr<daemon::Pager> pager_;
  std::shared_ptr<daemon::ManagedVm> vm_;
  daemon::TrackedVms tracked_;
};

}  // namespace tidepool::bench
