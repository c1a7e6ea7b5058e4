// What a page costs on its way into the kernel's tier and back, measured: the agent pages some memory of its own out
// and uses it again, page by page. No constant stands in for it.
//
// It is what the host's tier does for a page that compresses to about a half, on the thread that measures; a busy
// processor or a page that compresses worse costs more.
#pragma once

#include <cstdint>
#include <vector>

#include "base/clock.h"
#include "base/mapping.h"
#include "base/result.h"
#include "kmod-interfaces/kernel_roots.h"
#include "kmod-interfaces/pagemap.h"

namespace tidepool::daemon {

struct TierCost {
  Nanoseconds fault{0};                 // wait for one page, on average, without the slowest tenth
  Nanoseconds store{0};                 // work for one page into it
  std::vector<Nanoseconds> each_fault;  // all of them
};

class FaultProbe {
 public:
  static Result<FaultProbe> open();

  // Some milliseconds. ENOSPC: the kernel did not take the pages (no swap, or no room in it).
  Result<TierCost> measure();

 private:
  static constexpr std::uint64_t kPages = 64;
  void fill();

  Mapping memory_;
  kernel::Pagemap pagemap_;
  std::uint64_t seed_ = 0x9e3779b97f4a7c15;
};

}  // namespace tidepool::daemon
