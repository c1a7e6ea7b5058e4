// A pool of the size that the controller is made for: servers, hosts and VMs that ask its core directly, and a store in
// memory. For the benchmark and for tests.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "pool/controller/core/core.h"
#include "pool/controller/core/spread.h"

namespace tidepool::pool::controller {

struct LargePoolShape {
  unsigned servers = 1000;
  unsigned domains = 50;
  unsigned hosts = 1000;
  unsigned vms_per_host = 10;
  unsigned tenants = 8;
  std::uint64_t slices_per_server = 2000;
  std::uint64_t most_wanted = 300;  // slices, of a VM; at random up to that
};

class LargePool {
 public:
  explicit LargePool(const LargePoolShape& shape, std::uint64_t seed = 1);

  // Each VM leases so many slices and confirms them.
  void fill(std::uint32_t slices_per_vm);
  void heartbeat(unsigned server);        // and what it is told to free, it has freed
  std::vector<Task> sync(unsigned host);  // as it was, with the reports of the tasks that were done
  void finish(unsigned host, const Task& task);
  void advance(std::chrono::milliseconds by) { context_.now = context_.now + by; }
  std::size_t renew(unsigned host);  // all leases of all its VMs: how many
  bool tick();
  void distribute() { core_->distribute(context_); }
  Answer ask(const Request& request);

  Core& core() { return *core_; }
  const Context& context() const { return context_; }
  const std::map<std::string, std::string>& records() const { return records_; }
  const CoreConfig& config() const { return config_; }

 private:
  SyncHost sync_of(unsigned host);
  void commit(std::vector<StateChange> changes);

  LargePoolShape shape_;
  CoreConfig config_;
  Random random_;
  Context context_;
  std::map<std::string, std::string> records_;
  std::unique_ptr<Core> core_;
  std::vector<std::uint64_t> epochs_;
  std::vector<std::uint64_t> wanted_;  // by VM
  std::vector<std::vector<TaskReport>> reports_;
  std::vector<std::vector<FreeCommand>> freed_;
};

// A core made from records; null: they were refused.
std::unique_ptr<Core> load(const std::map<std::string, std::string>& records, const CoreConfig& config,
                           const Context& context);

}  // namespace tidepool::pool::controller
