#include "telemetry/hotness/divided_mappings.h"

#include <algorithm>
#include <bit>

#include "kmod-interfaces/uapi/userfaultfd.h"

namespace tidepool::telemetry {
namespace {

constexpr std::uint64_t kShareOfMappings = 4;
// Without WP_UNPOPULATED the first write to a page that is not there yet would go unseen.
constexpr std::uint64_t kFeatures = UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED |
                                    UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_PAGEFAULT_FLAG_WP;

}  // namespace

Bytes chunk_size(Bytes memory, std::uint64_t max_map_count, std::uint64_t mappings_now) {
  const std::uint64_t room = max_map_count > mappings_now ? max_map_count - mappings_now : 0;
  const std::uint64_t chunks = std::max<std::uint64_t>(1, room / kShareOfMappings);
  return Bytes{std::bit_ceil(std::max(kHugePageSize, (memory.value + chunks - 1) / chunks))};
}

Result<DividedMappings> DividedMappings::divide(kernel::Userfaultfd first, kernel::Userfaultfd second,
                                                std::vector<AddressRange> ranges, Bytes chunk) {
  if (chunk.value == 0 || chunk.value % kPageSize != 0)
    return failure(std::errc::invalid_argument, "divide mappings", std::to_string(chunk.value) + " bytes each");
  for (kernel::Userfaultfd* userfaultfd : {&first, &second}) {
    // A kernel that lacks a feature that is asked for refuses the handshake.
    if (auto agreed = userfaultfd->handshake(kFeatures); !agreed)
      return failure(std::errc::not_supported, "track writes with", "userfaultfd", "Linux 6.7 or newer is needed");
  }
  DividedMappings divided{std::move(first), std::move(second), std::move(ranges), chunk};
  if (auto registered = divided.register_all(); !registered) return Failure{registered.error()};
  return divided;
}

template <class Callback>
void DividedMappings::for_each_chunk(Callback&& callback) {
  for (const AddressRange& range : ranges_) {
    for (std::uint64_t start = range.start; start < range.end;) {
      const std::uint64_t number = start / chunk_.value;
      const std::uint64_t end = std::min(range.end, (number + 1) * chunk_.value);
      if (!callback(userfaultfds_[number % 2], AddressRange{start, end})) return;
      start = end;
    }
  }
}

Result<> DividedMappings::register_all() {
  Result<> outcome;
  for_each_chunk([&](kernel::Userfaultfd& userfaultfd, AddressRange chunk) {
    outcome = userfaultfd.register_range(chunk, UFFDIO_REGISTER_MODE_WP);
    registered_ += outcome ? 1 : 0;
    return outcome.has_value();
  });
  return outcome;
}

DividedMappings::~DividedMappings() {
  // Each chunk through the descriptor that has it: newer kernels refuse a range that also holds another's.
  for_each_chunk([this](kernel::Userfaultfd& userfaultfd, AddressRange chunk) {
    if (registered_ == 0) return false;  // the rest is not ours
    --registered_;
    static_cast<void>(userfaultfd.unregister_range(chunk).has_value());
    return true;
  });
}

}  // namespace tidepool::telemetry
