// Keeps descriptors alive while the agent is not: tidepool-keeper, or systemd's descriptor store.
//
// Every descriptor whose loss would lose a guest's memory (userfaultfds, page maps, pool memory, backing files, drop
// rings) is stored here before the first page moves, under a name that says what it is ("vm/<uuid>/uffd/0",
// "store/data", ...). Not thread-safe.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace tidepool::pool {

struct HeldFd {
  std::string name;
  UniqueFd fd;
};

class FdHolder {
 public:
  virtual ~FdHolder() = default;
  virtual std::string kind() const = 0;  // "keeper", "systemd"
  // The holder gets a duplicate. Storing under a name that exists replaces it. Returns only after the holder has it.
  virtual Result<> store(const std::string& name, int fd) = 0;
  virtual Result<> remove(const std::string& name) = 0;
  virtual Result<std::vector<HeldFd>> fetch_all() = 0;
  // A socket that hangs up when the holder is gone, and all that it held with it; -1: it has none, or has lost it.
  virtual int connection() const { return -1; }
};

}  // namespace tidepool::pool
