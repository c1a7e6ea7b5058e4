// What pools at memory servers have in common: a store for each VM with a key of its own, until what it leased has gone
// back. Base of server_pool.cpp and controlled_pool.cpp.
#pragma once

#include <condition_variable>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "pool/client/remote_store.h"
#include "pool/client/vm_secret.h"
#include "pool/pool.h"

namespace tidepool::pool {

// Thread-safe.
class RemotePool : public Pool {
 public:
  bool uses_host_dram() const override { return false; }
  StoreUsage usage() const override;
  StoreErrors errors() const override;
  Bytes whole() const override { return {}; }
  std::vector<std::pair<std::string, int>> held_descriptors() const override { return {}; }
  std::vector<std::pair<std::string, int>> held_descriptors(const std::string& vm) const override;
  Result<std::shared_ptr<PageStore>> open_for(const std::string& vm) override;
  void close_for(const std::string& vm) override;
  std::optional<RemoteFigures> remote() const override { return figures(); }

 protected:
  // `servers`: those that figures speak of from the start.
  RemotePool(Bytes capacity, const std::vector<std::string>& servers);
  // stop_closing() must have been called.
  ~RemotePool() override;

  // A store for the VM. Any thread.
  virtual Result<std::unique_ptr<RemoteStore>> make_store(const std::string& vm, std::shared_ptr<VmSecret> secret) = 0;
  // The VM's slices have gone back, as far as they could. Without the lock.
  virtual void ended(const protocol::HolderId&) {}
  // To be called by the last class's destructor: what is leased for VMs that are no more goes back.
  void stop_closing();

  std::vector<std::shared_ptr<RemoteStore>> stores() const;
  // Those that are not being closed.
  std::vector<std::pair<std::string, std::shared_ptr<RemoteStore>>> stores_by_name() const;
  virtual RemoteFigures figures() const;
  const Clock& clock() const { return clock_; }

 private:
  struct VmStore {
    std::shared_ptr<VmSecret> secret;
    std::shared_ptr<RemoteStore> store;
    MonoTime given_back{};  // MonoTime{}: not yet
  };
  void close_stores(const std::stop_token& stop);
  void end(VmStore& vm);

  const Bytes capacity_;
  SystemClock clock_;
  mutable std::mutex mutex_;
  std::condition_variable_any closing_some_;
  std::map<std::string, VmStore> vms_;
  std::list<std::pair<MonoTime, VmStore>> closing_;  // since when
  RemoteFigures past_;                               // what happened to VMs that are no more
  std::jthread closer_;
};

}  // namespace tidepool::pool
