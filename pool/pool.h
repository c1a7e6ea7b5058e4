// The pooled memory of a host, as its agent sees it: what there is of it, and each VM's store in it.
//
// Two kinds: an embedded store that all VMs share, and memory servers, where each VM has a store with slices and a key
// of its own. Thread-safe.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "pool/client/remote_store.h"
#include "pool/store/embedded_store.h"
#include "pool/store/store_factory.h"

namespace tidepool::pool {

// How a pool stands with its controller.
struct ControllerFigures {
  bool answers = false;
  std::string why{};                 // does not answer, or not as it should: the last reason
  Nanoseconds silent{0};             // since the last answer, or the start
  Bytes held;                        // by its word, all VMs: slices leased
  Bytes share;                       // that they may have
  Bytes to_give_back;                // of what is held
  std::uint64_t unknown_slices = 0;  // that are held here, and that it knows nothing of: kept
  std::uint64_t strays = 0;          // lives of VMs that it has for this host, and that are not here
  std::uint64_t failures = 0;        // calls without an answer, since start
  std::string refusal{};             // why there are no more slices, the last time that some were asked for
};

class Pool {
 public:
  virtual ~Pool() = default;

  virtual std::string kind() const = 0;     // "mapped", "compressed", "file", "servers"; label of metrics
  virtual std::string backing() const = 0;  // for people: "memfd", "/dev/dax0.0", "3 servers"
  virtual bool uses_host_dram() const = 0;  // see PageStore
  virtual StoreUsage usage() const = 0;     // all VMs together
  virtual StoreErrors errors() const = 0;
  // A share is of this; 0: there is no whole, and only an amount in bytes makes sense.
  virtual Bytes whole() const = 0;
  // Of a pool at memory servers, all VMs together: slices and reads are sums; a server's state is the worst that a VM
  // sees.
  virtual std::optional<RemoteFigures> remote() const { return std::nullopt; }
  virtual std::optional<ControllerFigures> controller() const { return std::nullopt; }
  // As EmbeddedStore's.
  virtual Result<> set_capacity(Bytes capacity) = 0;

  // Names and descriptors that must be kept for a successor, of the pool as such.
  virtual std::vector<std::pair<std::string, int>> held_descriptors() const = 0;

  // The store for the pages of a VM, which has the name until it is closed; EEXIST otherwise. Whoever has pages in it
  // owns it too.
  virtual Result<std::shared_ptr<PageStore>> open_for(const std::string& vm) = 0;
  // Those of one VM's store; empty where it is everybody's.
  virtual std::vector<std::pair<std::string, int>> held_descriptors(const std::string& vm) const = 0;
  // The VM has no pages any more, or nobody who could ask for them: what it leased is given back. Reads and writes that
  // are under way end.
  virtual void close_for(const std::string& vm) = 0;
};

std::unique_ptr<Pool> make_embedded_pool(RunningStore store, std::string backing, Bytes whole);

}  // namespace tidepool::pool
