// What of one process's private memory is in DRAM and what in the kernel's tier, in regions of 512 pages: the account
// that policy decides by. Fed by looks at the page tables; changes nothing, asks nobody.
//
// Pages have numbers of their own. Either they are given here, so that a region is 2 MiB of address space
// (set_mappings), or somebody else gave them, who has the same memory in an account of another kind (set_pieces). A
// region's number stays its own as long as the process lives: memory that is mapped later gets higher ones. Regions
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

// Memory that lies in one piece, and the number of its first page.
struct SwapPiece {
  AddressRange addresses;
  PageIndex first;

  std::uint64_t pages() const { return addresses.size() >> kPageShift; }
  std::uint64_t address_of(std::uint64_t page) const { return addresses.start + ((page - first.value) << kPageShift); }
  bool operator==(const SwapPiece&) const = default;
};

class SwapRegions {
 public:
  static constexpr std::uint32_t kMostRegions = 1u << 20;  // 2 TiB of address space; what is beyond is left alone

  struct Region {
    std::uint16_t resident = 0;
    std::uint16_t refaults = 0;  // pages that came back because they were used, until taken; saturates
    std::bitset<policy::kRegionPages> swapped;
    std::uint16_t far() const { return static_cast<std::uint16_t>(swapped.count()); }
  };

  // The memory that counts from now on, by address and apart, whole pages. True when that is news.
  bool set_mappings(std::vector<AddressRange> mappings);
  // The same, with numbers that are given: `pages` of them, which only grow. Of two pieces with a page in common the
  // one with the lower first page counts.
  bool set_pieces(std::vector<SwapPiece> pieces, PageCount pages);
  const std::vector<AddressRange>& mappings() const { return mappings_; }  // of set_mappings
  Bytes mapped() const { return mapped_; }
  bool left_out() const { return left_out_; }  // there is more than kMostRegions

  std::uint32_t count() const { return static_cast<std::uint32_t>(regions_.size()); }
  PageCount pages() const { return PageCount{std::uint64_t{count()} * policy::kRegionPages}; }
  const Region& at(std::uint32_t region) const { return regions_[region]; }
  // The mapped parts of a run of regions; of the units `units` of a single one.
  std::vector<SwapPiece> parts(std::uint32_t first, std::uint32_t count) const;
  std::vector<SwapPiece> unit_parts(std::uint32_t region, policy::UnitMask units) const;
  // All of it, as the memory that trackers look at; `object` is put into the segments.
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
  void cut(std::uint64_t first, std::uint64_t end, std::vector<SwapPiece>& out) const;

  std::vector<Region> regions_;
  std::map<std::uint64_t, std::uint32_t> by_start_;  // of set_mappings
  std::vector<SwapPiece> pieces_;                    // by page
  std::vector<AddressRange> mappings_;
  Bytes mapped_;
  bool left_out_ = false;
  std::uint64_t resident_ = 0;
  std::uint64_t far_ = 0;
};

// The pages of the units.
std::bitset<policy::kRegionPages> pages_of(policy::UnitMask units);

}  // namespace tidepool::daemon
