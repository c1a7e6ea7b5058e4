// A memory server, and a link to it with one slice that is full of pages.
#pragma once

#include <memory>

#include "bench/pool/memd_process.h"
#include "pool/client/server_link.h"

namespace tidepool::bench {

class ServedSlice {
 public:
  static constexpr std::uint32_t kSlots = 4096;
  static constexpr protocol::SliceId kSlice{1};

  explicit ServedSlice(bool tcp);

  pool::Link& link() { return *link_; }

 private:
  void fill();

  MemdProcess server_;
  std::unique_ptr<pool::Link> link_;
};

}  // namespace tidepool::bench
