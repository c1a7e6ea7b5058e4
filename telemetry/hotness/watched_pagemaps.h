// The pagemaps of the processes that a tracker looks at. Used by one thread.
#pragma once

#include <cstddef>
#include <map>
#include <optional>

#include "kmod-interfaces/pagemap.h"
#include "kmod-interfaces/process.h"
#include "telemetry/hotness/tracked_memory.h"

namespace tidepool::telemetry {

class WatchedPagemaps {
 public:
  explicit WatchedPagemaps(const kernel::KernelRoots& roots);

  // Closes the descriptors of processes that `memory` does not show; one that failed is tried again.
  void set_memory(const MemoryList& memory);
  // Opened at the first look; null when that failed. Valid until the next set_memory().
  const kernel::Pagemap* of(const kernel::ProcessId& process);
  std::size_t size() const { return pagemaps_.size(); }

 private:
  const kernel::KernelRoots roots_;
  std::map<kernel::ProcessId, std::optional<kernel::Pagemap>> pagemaps_;
};

}  // namespace tidepool::telemetry
