// The etcd store, for those who need more of it than a StateStore has.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "pool/controller/state/etcd_lease.h"
#include "pool/controller/state/etcd_store.h"

namespace tidepool::pool::controller {

class EtcdStore final : public StateStore {
 public:
  EtcdStore(EtcdStoreOptions options, std::unique_ptr<EtcdGateway> gateway);
  ~EtcdStore() override;
  EtcdStore(const EtcdStore&) = delete;
  EtcdStore& operator=(const EtcdStore&) = delete;

  std::string kind() const override { return "etcd"; }
  Result<> lead() override;
  bool lost() const override;
  void resign() override;
  void stop() override;
  std::string leader() const override;
  Result<> load(const std::function<void(std::string_view, std::string_view)>& visit) override;
  std::size_t most_changes() const override;
  Result<> commit(std::span<const StateChange> changes) override;

  // True: leads, whatever state the records are in. False: somebody else does, and leader() says who.
  Result<bool> try_to_lead();
  // For restores.
  std::string record_key(std::string_view key) const { return options_.prefix + "records/" + std::string(key); }
  std::string key(std::string_view name) const { return options_.prefix + std::string(name); }
  // As a commit, with any changes below the prefix.
  Result<> write(std::vector<EtcdChange> changes);

 private:
  Result<> check_schema();
  Result<> wait_for_leader_to_go();
  Failure not_leading(const char* attempted) const;
  void abandon();
  void set_leader(const std::string& name);
  bool pause();  // true: stopped

  const EtcdStoreOptions options_;
  std::unique_ptr<EtcdGateway> gateway_;
  // Set by the store's thread, read by any.
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::shared_ptr<EtcdLease> lease_;
  bool stopped_ = false;
  std::string leader_;

  std::int64_t left_behind_ = 0;      // lease of a leadership that is over; 0: none
  std::int64_t leader_seen_ = 0;      // revision in which the leader that was found had begun
  std::int64_t leader_revision_ = 0;  // of our own leader key
  std::string nonce_;                 // of this leadership
  std::uint64_t commits_ = 0;
  std::string last_commit_;  // what the key `commit` holds, as far as we know
};

}  // namespace tidepool::pool::controller
