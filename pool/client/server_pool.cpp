#include "pool/client/server_pool.h"

#include <map>
#include <utility>

#include "pool/client/remote_pool.h"
#include "pool/client/server_link.h"

namespace tidepool::pool {
namespace {

std::vector<std::string> names_of(const ServerPoolOptions& options) {
  std::vector<std::string> names;
  for (const ServerSpec& server : options.servers) names.push_back(server.name);
  if (options.spill != nullptr) names.push_back(options.spill->name());
  return names;
}

class ServerPool final : public RemotePool {
 public:
  explicit ServerPool(ServerPoolOptions options)
      : RemotePool(options.store.capacity, names_of(options)), options_(std::move(options)) {
    for (const ServerSpec& server : options_.servers) keys_[server.name] = server.key;
  }
  ~ServerPool() override { stop_closing(); }

  std::string kind() const override { return "servers"; }
  std::string backing() const override {
    const std::size_t count = options_.servers.size();
    return std::to_string(count) + (count == 1 ? " memory server" : " memory servers") +
           (options_.spill != nullptr ? ", spill file" : "");
  }
  StoreUsage usage() const override {
    StoreUsage sum = RemotePool::usage();
    if (options_.spill == nullptr) return sum;
    const StoreUsage spill = options_.spill->store().usage();
    const Bytes tables = options_.spill->tables();
    sum.used += spill.metadata + tables;
    sum.metadata += spill.metadata + tables;
    sum.process_memory += spill.process_memory + tables;
    return sum;
  }
  Result<> set_capacity(Bytes capacity) override {
    if (capacity == options_.store.capacity) return {};
    return failure(std::errc::operation_not_supported, "set capacity of", "memory servers",
                   "change pool.servers.capacity and restart the agent");
  }

 private:
  Result<std::unique_ptr<RemoteStore>> make_store(const std::string& vm, std::shared_ptr<VmSecret> secret) override;
  Result<std::vector<RemoteServer>> connect() const;

  const ServerPoolOptions options_;
  std::map<std::string, protocol::ServerKey> keys_;
};

Result<std::vector<RemoteServer>> ServerPool::connect() const {
  std::vector<RemoteServer> servers;
  for (const ServerSpec& spec : options_.servers) {
    ServerLinkOptions link;
    link.name = spec.name;
    link.address = spec.address;
    link.authenticate_unix = true;
    auto made = make_server_link(std::move(link));
    if (!made) return Failure{made.error()};
    servers.push_back({std::move(*made), spec.weight, spec.domain, spec.capacity});
  }
  if (options_.spill != nullptr)
    servers.push_back({make_local_link(options_.spill), 1, {}, options_.spill_capacity, true});
  return servers;
}

Result<std::unique_ptr<RemoteStore>> ServerPool::make_store(const std::string&, std::shared_ptr<VmSecret> secret) {
  auto servers = connect();
  if (!servers) return Failure{servers.error()};
  const LeaseSource leases = [keys = keys_, spill = options_.spill](const LeaseWish& wish, const LeaseAnswer& answer) {
    if (spill != nullptr && wish.server == spill->name()) return answer(Lease{wish.claims, {}});
    const auto key = keys.find(wish.server);
    if (key == keys.end()) return answer(failure(std::errc::no_such_file_or_directory, "find the key of", wish.server));
    answer(Lease{wish.claims, protocol::lease_secret(key->second, wish.claims)});
  };
  return create_remote_store(std::move(*servers), leases, std::move(secret), options_.store);
}

}  // namespace

Result<std::unique_ptr<Pool>> make_server_pool(ServerPoolOptions options) {
  if (options.servers.empty() || options.servers.size() + (options.spill != nullptr) < options.store.replicas)
    return failure(std::errc::invalid_argument, "use", std::to_string(options.servers.size()) + " memory servers",
                   "each page is to be on " + std::to_string(options.store.replicas) +
                       " of them: name more servers, or lower pool.servers.replicas");
  return std::make_unique<ServerPool>(std::move(options));
}

}  // namespace tidepool::pool
