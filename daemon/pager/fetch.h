// Far pages on their way home, up to 256 KiB in one operation. Operations and their buffers are allocated once and
// reused.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <memory>
#include <vector>

#include "daemon/pager/paged_vm.h"

namespace tidepool::daemon {

// Operations of a fault loop, how many of them one VM may have under way, and the pages of each. A store that answers
// late, or not at all for a while, takes nothing from the VMs of another: two such VMs leave operations for a third.
struct FetchShape {
  std::size_t ops;
  std::size_t ops_per_vm;
  std::size_t pages;
};
// A restore copies in one call what the kernel can in about the time that a fault takes: a call costs more than its
// copying, where page tables are kept in software as much as ten pages.
inline constexpr std::array<FetchShape, kFetchReasons> kFetchShapes{{{512, 128, 1}, {64, 24, 16}, {8, 3, 64}}};
constexpr const FetchShape& shape_of(FetchReason reason) {
  return kFetchShapes[static_cast<std::size_t>(reason)];
}

// A page that the VM's own limit refuses, or whose store is away, is not tried more often than demotion can make room.
inline constexpr auto kRetryStarved = std::chrono::milliseconds(2);

struct SpaceState;

// A fault that cannot be answered yet.
struct WaitingFault {
  SpaceState* state = nullptr;
  std::uint64_t address = 0;
  std::uint64_t flags = 0;
  MonoTime since;       // when its event was read
  MonoTime not_before;  // when to look at it again
};

struct FetchOp {
  std::shared_ptr<PagedVm> vm;
  std::shared_ptr<AddressSpace> space;
  MemoryObject* object = nullptr;
  PageIndex first;
  std::size_t count = 0;
  std::size_t installed = 0;                  // pages from the front that need nothing more
  FetchReason reason = FetchReason::kDemand;  // what it is made for
  bool write = false;                         // the fault was a write: no clean copy
  bool completed = false;                     // the store has answered
  bool submitting = false;                    // and if so, before submit returned
  bool left_out = false;                      // something of it was put back: a fault for that comes again
  // Demand: the fault that is to be answered; its address space may be forgotten meanwhile, then there is no state.
  WaitingFault fault;
  std::vector<pool::ReadItem> items;  // as many as its shape has pages
  pool::ReadBatch batch;
  std::byte* buffer = nullptr;  // of as many pages

  void clear() {
    vm.reset();
    space.reset();
    object = nullptr;
    count = installed = 0;
    completed = write = left_out = false;
    fault = {};
  }
};

}  // namespace tidepool::daemon
