// A page store of this host in the place of a memory server: where replicas go while there are too few servers.
//
// What it has of a slice, and in which version, stands in this process's memory: to a successor it is a server that
// came back without its pages, which nothing is believed of. It needs no tokens, and is always up.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <utility>

#include "base/units.h"
#include "pool/client/link.h"
#include "pool/store/page_store.h"

namespace tidepool::pool {

// Shared by those who have a link to it. Thread-safe.
class LocalServer {
 public:
  // Pages come sealed: the store needs no key.
  LocalServer(std::string name, std::unique_ptr<PageStore> store) : name_(std::move(name)), store_(std::move(store)) {}

  const std::string& name() const { return name_; }
  PageStore& store() const { return *store_; }
  // What the links' tables take of this process's memory.
  Bytes tables() const { return Bytes{table_bytes_.load()}; }

 private:
  friend class LocalLink;
  const std::string name_;
  const std::unique_ptr<PageStore> store_;
  std::atomic<std::uint64_t> table_bytes_{0};
};

// Its slices are its own, and end with it. The end waits for the store to answer what is under way.
std::unique_ptr<Link> make_local_link(std::shared_ptr<LocalServer> server);

}  // namespace tidepool::pool
