// A memory server, and the store that the agent has for a VM's pages there: one replica, everything sealed and tagged.
#pragma once

#include <memory>
#include <string>

#include "bench/pool/memd_process.h"
#include "pool/pool.h"
#include "pool/store/page_store.h"

namespace tidepool::bench {

class ServedStore {
 public:
  // Takes pages when this returns. `port` and `share` as for MemdProcess. Throws when it cannot be had. Starts threads:
  // whoever forks does so before.
  explicit ServedStore(int port, bool share = false);
  ~ServedStore();
  ServedStore(const ServedStore&) = delete;
  ServedStore& operator=(const ServedStore&) = delete;

  const std::shared_ptr<pool::PageStore>& store() const { return store_; }
  pid_t server() const { return server_.pid(); }

 private:
  void lease();

  MemdProcess server_;
  std::unique_ptr<pool::Pool> pool_;
  std::shared_ptr<pool::PageStore> store_;
};

}  // namespace tidepool::bench
