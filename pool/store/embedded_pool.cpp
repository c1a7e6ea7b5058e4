#include "pool/pool.h"

namespace tidepool::pool {
namespace {

class EmbeddedPool final : public Pool {
 public:
  EmbeddedPool(RunningStore store, std::string backing, Bytes whole)
      : store_(std::make_shared<RunningStore>(std::move(store))), backing_(std::move(backing)), whole_(whole) {}

  std::string kind() const override { return store_->store->kind(); }
  std::string backing() const override { return backing_; }
  bool uses_host_dram() const override { return store_->store->uses_host_dram(); }
  StoreUsage usage() const override { return store_->store->usage(); }
  StoreErrors errors() const override { return store_->store->errors(); }
  Bytes whole() const override { return whole_; }
  Result<> set_capacity(Bytes capacity) override { return store_->store->set_capacity(capacity); }
  std::vector<std::pair<std::string, int>> held_descriptors() const override {
    return store_->store->held_descriptors();
  }
  Result<std::shared_ptr<PageStore>> open_for(const std::string&) override {
    return std::shared_ptr<PageStore>(store_, store_->store.get());
  }
  std::vector<std::pair<std::string, int>> held_descriptors(const std::string&) const override { return {}; }
  void close_for(const std::string&) override {}

 private:
  const std::shared_ptr<RunningStore> store_;
  const std::string backing_;
  const Bytes whole_;
};

}  // namespace

std::unique_ptr<Pool> make_embedded_pool(RunningStore store, std::string backing, Bytes whole) {
  return std::make_unique<EmbeddedPool>(std::move(store), std::move(backing), whole);
}

}  // namespace tidepool::pool
