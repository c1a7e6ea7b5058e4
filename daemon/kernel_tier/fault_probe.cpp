#include "daemon/kernel_tier/fault_probe.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>

namespace tidepool::daemon {
namespace {

constexpr std::size_t kEnough = 16;  // pages that went: fewer say little

#ifndef MADV_PAGEOUT
constexpr int MADV_PAGEOUT = 21;
#endif

}  // namespace

Result<FaultProbe> FaultProbe::open() {
  FaultProbe probe;
  auto memory = Mapping::anonymous(Bytes{kPages * kPageSize});
  if (!memory) return Failure{memory.error()};
  probe.memory_ = std::move(*memory);
  // The agent locks its memory; this part is there to leave.
  if (::munlock(probe.memory_.data(), probe.memory_.size()) != 0) return errno_failure("unlock", "a probe's memory");
  ::madvise(probe.memory_.data(), probe.memory_.size(), MADV_NOHUGEPAGE);
  auto pagemap = kernel::Pagemap::open(::getpid());
  if (!pagemap) return Failure{pagemap.error()};
  probe.pagemap_ = std::move(*pagemap);
  return probe;
}

// Half of each page is noise.
void FaultProbe::fill() {
  for (std::uint64_t page = 0; page < kPages; ++page) {
    std::byte* bytes = memory_.data() + page * kPageSize;
    std::memset(bytes, static_cast<int>(page), kPageSize);
    for (std::size_t at = 0; at < kPageSize / 2; at += sizeof seed_) {
      seed_ ^= seed_ << 13, seed_ ^= seed_ >> 7, seed_ ^= seed_ << 17;
      std::memcpy(bytes + at, &seed_, sizeof seed_);
    }
  }
}

Result<TierCost> FaultProbe::measure() {
  const SystemClock clock;
  fill();
  const MonoTime begin = clock.now();
  if (::madvise(memory_.data(), memory_.size(), MADV_PAGEOUT) != 0)
    return errno_failure("page out", "a probe's memory");
  const Nanoseconds stored = clock.now() - begin;
  std::array<kernel::PagemapEntry, kPages> entries{};
  const auto got = pagemap_.entries(reinterpret_cast<std::uintptr_t>(memory_.data()), entries);
  if (!got) return Failure{got.error()};
  TierCost cost;
  // Far apart, so that no read-ahead answers for the next one.
  for (std::uint64_t i = 0; i < kPages; ++i) {
    const std::uint64_t page = i * 37 % kPages;
    if (!entries[page].swapped()) continue;
    const auto* byte = reinterpret_cast<const volatile std::byte*>(memory_.data() + page * kPageSize);
    const MonoTime start = clock.now();
    static_cast<void>(*byte);
    cost.each_fault.push_back(clock.now() - start);
  }
  if (cost.each_fault.size() < kEnough)
    return failure(std::errc::no_space_on_device, "page out", "a probe's memory", "the kernel took next to nothing");
  std::ranges::sort(cost.each_fault);
  const auto counted = static_cast<std::ptrdiff_t>(cost.each_fault.size() - cost.each_fault.size() / 10);
  cost.fault = std::accumulate(cost.each_fault.begin(), cost.each_fault.begin() + counted, Nanoseconds{0}) / counted;
  cost.store = stored / static_cast<std::int64_t>(cost.each_fault.size());
  return cost;
}

}  // namespace tidepool::daemon
