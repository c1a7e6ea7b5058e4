// Slices whose memory their server, on this host, has handed over to be read: pages come without asking it.
//
// A page that is read like this is worth as much as one that was sent: nothing, until it opens. Files are read, never
// mapped, so that a server that cuts one short makes no signal here. Thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "base/unique_fd.h"
#include "pool/client/link.h"

namespace tidepool::pool {

class SliceFiles {
 public:
  // Nothing else than memory is taken: reading anything else might wait. False when it was not taken.
  bool add(protocol::SliceId slice, std::uint32_t slots, UniqueFd file);
  void remove(protocol::SliceId slice);
  void clear();

  // All items of a READ, as the server would answer it. False: it has to be asked; the items are as they were, or not.
  bool read(LinkRequest& request) const;

 private:
  struct File {
    UniqueFd fd;
    std::uint32_t slots = 0;
  };

  mutable std::mutex mutex_;
  std::unordered_map<protocol::SliceId, std::shared_ptr<const File>> files_;
};

}  // namespace tidepool::pool
