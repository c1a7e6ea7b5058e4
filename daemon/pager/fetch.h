// Up to 64 KiB of far pages on their way home. Operations and their buffers are allocated once and reused.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <memory>

#include "daemon/pager/paged_vm.h"

namespace tidepool::daemon {

inline constexpr std::size_t kFetchPages = 16;
// Operations of a fault loop, and how many of them one VM may have under way: a store that answers late, or not at all
// for a while, takes nothing from the VMs of another.
inline constexpr std::size_t kDemandOps = 512;
inline constexpr std::size_t kDemandOpsPerVm = 128;
inline constexpr std::size_t kBulkOps = 64;  // prefetch and restore, kFetchPages each
inline constexpr std::size_t kBulkOpsPerVm = 24;
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

enum class FetchReason : std::uint8_t { kDemand, kPrefetch, kRestore };

struct FetchOp {
  std::shared_ptr<PagedVm> vm;
  std::shared_ptr<AddressSpace> space;
  MemoryObject* object = nullptr;
  PageIndex first;
  std::size_t count = 0;
  std::size_t installed = 0;  // pages from the front that need nothing more
  FetchReason reason = FetchReason::kDemand;
  bool write = false;       // the fault was a write: no clean copy
  bool completed = false;   // the store has answered
  bool submitting = false;  // and if so, before submit returned
  // Demand: the fault that is to be answered; its address space may be forgotten meanwhile, then there is no state.
  WaitingFault fault;
  std::array<pool::ReadItem, kFetchPages> items;
  pool::ReadBatch batch;
  std::byte* buffer = nullptr;  // one page for demand, kFetchPages for anything else
  bool bulk = false;            // which of the two it is made for

  void clear() {
    vm.reset();
    space.reset();
    object = nullptr;
    count = installed = 0;
    completed = write = false;
    fault = {};
  }
};

}  // namespace tidepool::daemon
