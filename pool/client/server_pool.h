// Memory servers as the pool of a host: each VM has a store of its own there, sealed with a key of its own.
//
// The servers and their keys come from configuration, so this host makes its own tokens (docs/memory-servers.md).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "pool/client/local_server.h"
#include "pool/client/remote_store.h"
#include "pool/pool.h"
#include "pool/protocol/handshake.h"

namespace tidepool::pool {

struct ServerSpec {
  std::string name;
  std::string address;  // "unix:/path", "tcp:host:port"
  std::string domain;   // what fails together; empty: it fails alone
  double weight = 1;
  Bytes capacity{};  // most that a VM leases of it; zero: as much as it gives
  protocol::ServerKey key{};
};

struct ServerPoolOptions {
  std::vector<ServerSpec> servers;
  // Of every VM's store. Its capacity is that of the pool as well: no VM's pages, and not all of them together, take
  // more, each replica counted once.
  RemoteStoreOptions store;
  // Where replicas go while there are too few servers; may be absent.
  std::shared_ptr<LocalServer> spill{};
  Bytes spill_capacity{};
};

Result<std::unique_ptr<Pool>> make_server_pool(ServerPoolOptions options);

}  // namespace tidepool::pool
