// What of one process's private memory is in DRAM and what in the kernel's tier, in regions of 2 MiB of its address
// space: the account that policy decides by. Fed by looks at the page tables; changes nothing, asks nobody.
//
// A region's number stays its own as long as the process lives: memory that is mapped later gets higher ones. Regions
// whose memory was unmapped stay, empty. Not thread-safe.
#pragma once

#include <bitset>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "base/ids.h"
#include "base/units.h"
#include "policy/snapshot.h"
#include "telemetry/hotness/tracked_memory.h"

namespace tidepool::daemon {

// Of the pages of one region, those that were found present and those that were found swapped.
struct RegionLook {
  std::bitset<policy::kRegionPages> present;
  std::bitset<policy::kRegionPages> swapped;
};

class SwapRegions {
 public:
  static constexpr std::uint32_t kMostRegions = 1u << 20;  // 2 TiB of address space; what is beyond is left alone

  struct Region {
    std::uint64_t start = 0;  // address, a multiple of 2 MiB
    std::uint16_t resident = 0;
    std::uint16_t refaults = 0;  // pages that came back because they were used, until taken; saturates
    std::bitset<policy::kRegionPages> swapped;
    std::uint16_t far() const { return static_cast<std::uint16_t>(swapped.count()); }
  };

  // The memory that counts from now on, by address and apart, whole pages. True when that is news.
  bool set_mappings(std::vector<AddressRange> mappings);
  const std::vector<AddressRange>& mappings() const { return mappings_; }
  Bytes mapped() const { return mapped_; }
  bool left_out() const { return left_out_; }  // there is more than kMostRegions

  std::uint32_t count() const { return static_cast<std::uint32_t>(regions_.size()); }
  PageCount pages() const { return PageCount{std::uint64_t{count()} * policy::kRegionPages}; }
  const Region& at(std::uint32_t region) const { return regions_[region]; }
  // Regions from `first` on, at most `most`, that lie one behind the other in the address space.
  std::uint32_t run_from(std::uint32_t first, std::uint32_t most) const;
  // The mapped parts of a run of regions that lie one behind the other; of the units `units` of a single one.
  std::vector<AddressRange> parts(std::uint32_t first, std::uint32_t count) const;
  std::vector<AddressRange> unit_parts(std::uint32_t region, policy::UnitMask units) const;
  // The same as the memory that trackers look at; `object` is put into the segments.
  std::vector<telemetry::TrackedSegment> segments(std::uint32_t object) const;

  // What a look found. Pages that were swapped and are present were used, unless they were brought home before.
  // Returns how many.
  std::uint32_t take(std::uint32_t region, const RegionLook& look);
  // These pages come home because somebody wants them to: no use of them.
  void bring_home(std::uint32_t region, const std::bitset<policy::kRegionPages>& pages);
  std::uint16_t take_refaults(std::uint32_t region);
  // All of it is gone.
  void clear();

  PageCount resident() const { return PageCount{resident_}; }
  PageCount far() const { return PageCount{far_}; }
  Bytes footprint() const;

 private:
  std::vector<Region> regions_;
  std::map<std::uint64_t, std::uint32_t> by_start_;
  std::vector<AddressRange> mappings_;
  Bytes mapped_;
  bool left_out_ = false;
  std::uint64_t resident_ = 0;
  std::uint64_t far_ = 0;
};

// The pages of the units.
std::bitset<policy::kRegionPages> pages_of(policy::UnitMask units);

}  // namespace tidepool::daemon
