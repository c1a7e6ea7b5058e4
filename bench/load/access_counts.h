// The truth about what is hot: how often each page was read and written, counted live in a file that others can read.
//
// Two 32-bit counters per page (reads, writes), little-endian, page after page; they wrap. Put the file on a disk file
// system: on tmpfs it would itself be memory that can be adopted.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "base/mapping.h"
#include "base/result.h"
#include "base/units.h"

namespace tidepool::load {

class AccessCounts {
 public:
  // Counts nothing.
  AccessCounts() = default;
  // Makes the file, or empties it; it stays when the workload ends.
  static Result<AccessCounts> create(const std::string& path, PageCount pages);

  // Thread-safe.
  void count(std::uint64_t page, bool write) {
    if (!file_.valid()) return;
    auto* counters = reinterpret_cast<std::uint32_t*>(file_.data());
    std::atomic_ref<std::uint32_t>(counters[2 * page + (write ? 1 : 0)]).fetch_add(1, std::memory_order_relaxed);
  }

 private:
  Mapping file_;
};

}  // namespace tidepool::load
