// The embedded pool, as configured: which store, how large, and the thread that looks after it.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "kmod-interfaces/kernel_roots.h"
#include "pool/keeper/fd_holder.h"
#include "pool/store/codec.h"
#include "pool/store/embedded_store.h"

namespace tidepool::pool {

enum class StoreChoice : std::uint8_t { kMapped, kCompressed };

struct StoreConfig {
  StoreChoice kind = StoreChoice::kCompressed;
  std::string path{};  // mapped: a DAX device or a file; empty: a memfd. Compressed: must be empty
  Bytes capacity{};
  CodecKind codec = CodecKind::kLz4;
  int level = 0;  // 0: the codec's default
  std::chrono::milliseconds maintain_every{100};
  kernel::KernelRoots roots{};
};

// Calls maintain() of a store from a thread of its own: every `period`, and at once again while there is work.
class Maintainer {
 public:
  Maintainer(EmbeddedStore& store, std::chrono::milliseconds period);
  ~Maintainer();
  Maintainer(const Maintainer&) = delete;
  Maintainer& operator=(const Maintainer&) = delete;

 private:
  struct Thread;
  std::unique_ptr<Thread> thread_;
};

struct RunningStore {
  std::unique_ptr<EmbeddedStore> store;
  std::unique_ptr<Maintainer> maintainer;  // ends before the store does

  EmbeddedStore& operator*() const { return *store; }
  EmbeddedStore* operator->() const { return store.get(); }
};

// A new, empty store. Errors say what is wrong with the configuration: no such device, in use, not writable, holds
// data, a capacity of zero or beyond the medium, an unknown level.
Result<RunningStore> create_store(const StoreConfig& config);

// The store that a predecessor left with the holder, if there is one among `held` ("store/data" and "store/table"):
// they are taken out of it. ENOENT when there is none; any other error means that far pages are there which this
// configuration or program cannot read.
Result<RunningStore> open_store(const StoreConfig& config, std::vector<HeldFd>& held);

// So that a successor can find the store.
Result<> hold_store(FdHolder& holder, const EmbeddedStore& store);

}  // namespace tidepool::pool
