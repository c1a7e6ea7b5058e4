// Mappings of a process divided into chunks, and their writes tracked, by two userfaultfds on alternate chunks.
//
// The kernel keeps a mapping apart from its neighbour when another userfaultfd watches it: so /proc/PID/smaps, which
// sums up by mapping, speaks of chunks. Both userfaultfds track writes asynchronously (UFFD_FEATURE_WP_ASYNC,
// Linux 6.7): the kernel resolves every fault itself, nobody has to serve anything, and the process is never stopped.
// For memory that nobody else manages by userfaultfd; both descriptors belong to this alone.
#pragma once

#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "kmod-interfaces/userfaultfd.h"

namespace tidepool::telemetry {

// How large chunks must be so that dividing `memory` leaves a process with most of the mappings that it may have
// (vm.max_map_count): at most a quarter of those still free are used. At least 2 MiB, a power of two.
Bytes chunk_size(Bytes memory, std::uint64_t max_map_count, std::uint64_t mappings_now);

class DividedMappings {
 public:
  // Registers the ranges (multiples of the page size) with the two, chunk by chunk; chunks begin at multiples of
  // `chunk`. On failure nothing stays registered. ENOTSUP: the kernel cannot track writes.
  static Result<DividedMappings> divide(kernel::Userfaultfd first, kernel::Userfaultfd second,
                                        std::vector<AddressRange> ranges, Bytes chunk);
  DividedMappings(DividedMappings&&) noexcept = default;
  DividedMappings& operator=(DividedMappings&&) = delete;
  // Unregisters: mappings grow together again. Where the process itself still holds the descriptors, closing ours alone
  // would not.
  ~DividedMappings();

  Bytes chunk() const { return chunk_; }
  const std::vector<AddressRange>& ranges() const { return ranges_; }

 private:
  DividedMappings(kernel::Userfaultfd first, kernel::Userfaultfd second, std::vector<AddressRange> ranges, Bytes chunk)
      : userfaultfds_{std::move(first), std::move(second)}, ranges_(std::move(ranges)), chunk_(chunk) {}
  // Calls callback(userfaultfd, chunk) until it returns false.
  template <class Callback>
  void for_each_chunk(Callback&& callback);
  Result<> register_all();

  kernel::Userfaultfd userfaultfds_[2];
  std::vector<AddressRange> ranges_;  // empty after a move
  Bytes chunk_;
  std::uint64_t registered_ = 0;  // chunks, from the first
};

}  // namespace tidepool::telemetry
