// The page map of one memory object: an array of 64-bit entries in a memfd, so that whoever holds the descriptor after
// our death finds every far page again. The layout is position independent and versioned (docs/layout.md).
//
// Memory: 8 bytes per page, and 16 bytes per 2 MiB region of counters in private memory. Entries of address space that
// is never touched cost nothing (the memfd stays a hole).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/mapping.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "base/units.h"
#include "daemon/pager/page_entry.h"

namespace tidepool::daemon {

inline constexpr std::uint32_t kPageMapVersion = 1;
inline constexpr std::uint64_t kPagesPerRegion = kPagesPerHugePage;

// Kept at the start of the memfd; written by the fault loop's thread only.
struct PageMapHeader {
  static constexpr std::uint64_t kMagic = 0x70616d2d65646974;  // "tide-map", little-endian
  static constexpr std::size_t kMaxSegments = 3000;

  // Where an address space shows pages of the object.
  struct Segment {
    std::uint64_t address;
    std::uint64_t pages;
    std::uint64_t first_page;
    std::uint64_t file_offset;  // shared memory: where in the backing file
    std::uint64_t space;        // number of the address space within the VM
  };
  struct List {
    std::uint64_t count;
    std::uint64_t left_out;  // segments that found no room
    Segment segments[kMaxSegments];
  };

  std::uint64_t magic;
  std::uint32_t version;
  std::uint32_t shared;   // 1: the object is a file's memory
  std::uint64_t pages;    // entries in use
  std::uint32_t forked;   // 1: a forked child's private memory
  std::uint32_t current;  // which of the two lists counts: the other one may be half written
  std::uint64_t reserved[4];
  List lists[2];
};
inline constexpr Bytes kPageMapHeaderSize{256ull * 1024};
static_assert(sizeof(PageMapHeader) <= kPageMapHeaderSize.value);
// As docs/layout.md has it.
static_assert(offsetof(PageMapHeader, current) == 28 && offsetof(PageMapHeader, lists) == 64 &&
              sizeof(PageMapHeader::List) == 120016);

// What policy and hotness need to know of 2 MiB, kept up to date by whoever changes a page.
struct RegionCounters {
  std::atomic<std::uint16_t> resident{0};
  std::atomic<std::uint16_t> far{0};
  std::atomic<std::uint16_t> touches{0};         // faults on sampled (armed) pages since last collected; saturates
  std::atomic<std::uint16_t> refaults{0};        // far pages that came back on demand since last collected; saturates
  std::atomic<std::uint16_t> armed{0};           // pages armed for sampling; touches are among them until collected
  std::atomic<std::uint16_t> incompressible{0};  // pages marked so
  std::atomic<std::uint32_t> reserved{0};
};
static_assert(sizeof(RegionCounters) == 16);

class PageMap {
 public:
  // Room for `capacity` pages of address space (costs nothing until used).
  static Result<std::unique_ptr<PageMap>> create(const std::string& name, PageCount capacity, bool shared);

  // Appends room for `pages` pages, so that the first index is congruent to `alignment_page` modulo a region; entries
  // in the gap are excluded.
  Result<PageIndex> append(PageCount pages, std::uint64_t alignment_page);

  std::atomic<std::uint64_t>& entry(PageIndex page) { return entries_[page.value]; }
  PageEntry load(PageIndex page) const { return PageEntry{entries_[page.value].load(std::memory_order_acquire)}; }
  // Replaces `expected` and keeps the counters right. False, with `expected` refreshed, when the entry was another by
  // now.
  bool exchange(PageIndex page, PageEntry& expected, PageEntry desired);
  // Exchanges of many pages that lie together, which are counted together: at the latest when this goes, so that it is
  // not to outlive anything that waits. Until then they count as what they were. One thread.
  class Changes {
   public:
    explicit Changes(PageMap& map) : map_(map) {}
    Changes(const Changes&) = delete;
    Changes& operator=(const Changes&) = delete;
    ~Changes() { count(); }
    bool exchange(PageIndex page, PageEntry& expected, PageEntry desired);

   private:
    void count();

    PageMap& map_;
    PageIndex page_;  // one of those that are not counted yet, what it was and what it became: as all of them
    PageEntry before_;
    PageEntry after_;
    std::uint16_t pages_ = 0;
  };

  PageCount pages() const { return PageCount{pages_.load(std::memory_order_acquire)}; }
  std::uint64_t regions() const { return (pages().value + kPagesPerRegion - 1) / kPagesPerRegion; }
  RegionCounters& region(std::uint64_t index) { return regions_[index]; }
  static std::uint64_t region_of(PageIndex page) { return page.value / kPagesPerRegion; }

  // Pages in each state, indexed by PageState. Sums to pages() when nothing moves. A page that changes twice at once
  // may be counted out before it is counted in: less than nothing is nothing.
  std::uint64_t count(PageState state) const {
    const auto seen = static_cast<std::int64_t>(counts_[static_cast<unsigned>(state)].load(std::memory_order_relaxed));
    return seen < 0 ? 0 : static_cast<std::uint64_t>(seen);
  }

  // Written for a successor agent; the list replaces the former one, in one step: whenever we die, one of them is
  // whole.
  void record_segments(std::span<const PageMapHeader::Segment> segments);
  void record_forked() { header_->forked = 1; }

  int descriptor() const { return file_.get(); }
  // What the map costs the host: entries and counters.
  Bytes footprint() const;
  // The part of it that is in this process's heap, so counted in its Rss too.
  Bytes counters_footprint() const { return Bytes{regions() * sizeof(RegionCounters)}; }

 private:
  PageMap() = default;
  Result<> grow_to(PageCount pages);
  bool replace(PageIndex page, PageEntry& expected, PageEntry desired);  // and counts nothing
  void count_change(PageIndex page, PageEntry before, PageEntry after, std::uint16_t pages);

  UniqueFd file_;
  Mapping reservation_;  // address space of the whole capacity; the file is mapped over its beginning
  Mapping counters_;
  PageMapHeader* header_ = nullptr;
  std::atomic<std::uint64_t>* entries_ = nullptr;
  RegionCounters* regions_ = nullptr;
  std::atomic<std::uint64_t> pages_{0};
  std::uint64_t capacity_ = 0;
  std::uint64_t mapped_pages_ = 0;
  std::atomic<std::uint64_t> counts_[kPageStateCount]{};
};

// Adds one to a counter that sticks at its maximum instead of starting anew.
void increment_saturating(std::atomic<std::uint16_t>& counter, std::uint16_t by = 1);

}  // namespace tidepool::daemon
