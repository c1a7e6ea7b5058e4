#include "daemon/pager/page_map.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

namespace tidepool::daemon {
namespace {

constexpr std::uint64_t kGrowthPages = (kPageSize / sizeof(std::uint64_t)) * 512;  // 1 GiB of guest memory at a time

constexpr std::uint64_t round_up(std::uint64_t value, std::uint64_t to) {
  return (value + to - 1) / to * to;
}

PageState counted_as(PageEntry entry) {
  return entry.dropped_along() ? PageState::kFar : entry.state();
}

}  // namespace

std::string_view to_string(PageState state) {
  static constexpr std::string_view kNames[kPageStateCount] = {
      "untouched", "resident", "resident_clean", "demoting", "dropping", "far", "fetching", "released", "excluded"};
  const auto index = static_cast<unsigned>(state);
  return index < kPageStateCount ? kNames[index] : "invalid";
}

void increment_saturating(std::atomic<std::uint16_t>& counter, std::uint16_t by) {
  std::uint16_t seen = counter.load(std::memory_order_relaxed);
  std::uint16_t next;
  do {
    next = static_cast<std::uint16_t>(std::min<unsigned>(0xffffu, unsigned{seen} + by));
  } while (!counter.compare_exchange_weak(seen, next, std::memory_order_relaxed));
}

Result<std::unique_ptr<PageMap>> PageMap::create(const std::string& name, PageCount capacity, bool shared) {
  std::unique_ptr<PageMap> map{new PageMap};
  map->capacity_ = round_up(capacity.value, kGrowthPages);
  map->file_ = UniqueFd{::memfd_create(name.c_str(), MFD_CLOEXEC)};
  if (!map->file_.valid()) return errno_failure("create memory for page map", name);
  auto reservation = Mapping::reserve(kPageMapHeaderSize + Bytes{map->capacity_ * sizeof(std::uint64_t)});
  if (!reservation) return Failure{reservation.error()};
  map->reservation_ = std::move(*reservation);
  auto counters = Mapping::anonymous(Bytes{map->capacity_ / kPagesPerRegion * sizeof(RegionCounters)});
  if (!counters) return Failure{counters.error()};
  map->counters_ = std::move(*counters);
  map->regions_ = reinterpret_cast<RegionCounters*>(map->counters_.data());
  if (auto grown = map->grow_to(PageCount{0}); !grown) return Failure{grown.error()};
  map->header_ = reinterpret_cast<PageMapHeader*>(map->reservation_.data());
  map->entries_ = reinterpret_cast<std::atomic<std::uint64_t>*>(map->reservation_.data() + kPageMapHeaderSize.value);
  map->header_->magic = PageMapHeader::kMagic;
  map->header_->version = kPageMapVersion;
  map->header_->shared = shared ? 1 : 0;
  return map;
}

Result<> PageMap::grow_to(PageCount pages) {
  const std::uint64_t wanted = round_up(pages.value, kGrowthPages);
  if (wanted > capacity_) {
    return failure(std::errc::not_enough_memory, "grow page map", std::to_string(pages.value) + " pages",
                   "release the VM and adopt it again: it has outgrown the room reserved at adoption");
  }
  if (wanted <= mapped_pages_ && header_ != nullptr) return {};
  const std::uint64_t length = kPageMapHeaderSize.value + wanted * sizeof(std::uint64_t);
  if (::ftruncate(file_.get(), static_cast<off_t>(length)) != 0) return errno_failure("grow", "page map");
  if (::mmap(reservation_.data(), length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file_.get(), 0) ==
      MAP_FAILED) {
    return errno_failure("map", "page map");
  }
  mapped_pages_ = wanted;
  return {};
}

Result<PageIndex> PageMap::append(PageCount pages, std::uint64_t alignment_page) {
  const std::uint64_t used = pages_.load(std::memory_order_relaxed);
  std::uint64_t first = used / kPagesPerRegion * kPagesPerRegion + alignment_page % kPagesPerRegion;
  if (first < used) first += kPagesPerRegion;
  if (auto grown = grow_to(PageCount{first + pages.value}); !grown) return Failure{grown.error()};
  for (std::uint64_t gap = used; gap < first; ++gap) {
    entries_[gap].store(PageEntry::plain(PageState::kExcluded).raw(), std::memory_order_relaxed);
  }
  counts_[static_cast<unsigned>(PageState::kExcluded)].fetch_add(first - used, std::memory_order_relaxed);
  counts_[static_cast<unsigned>(PageState::kUntouched)].fetch_add(pages.value, std::memory_order_relaxed);
  header_->pages = first + pages.value;
  pages_.store(first + pages.value, std::memory_order_release);
  return PageIndex{first};
}

bool PageMap::replace(PageIndex page, PageEntry& expected, PageEntry desired) {
  std::uint64_t raw = expected.raw();
  if (entries_[page.value].compare_exchange_strong(raw, desired.raw(), std::memory_order_acq_rel)) return true;
  expected = PageEntry{raw};
  return false;
}

bool PageMap::exchange(PageIndex page, PageEntry& expected, PageEntry desired) {
  if (!replace(page, expected, desired)) return false;
  count_change(page, expected, desired, 1);
  return true;
}

bool PageMap::Changes::exchange(PageIndex page, PageEntry& expected, PageEntry desired) {
  if (!map_.replace(page, expected, desired)) return false;
  const auto counts_alike = [](PageEntry a, PageEntry b) {
    return counted_as(a) == counted_as(b) && a.incompressible() == b.incompressible();
  };
  if (pages_ == 0 || region_of(page) != region_of(page_) || !counts_alike(expected, before_) ||
      !counts_alike(desired, after_)) {
    count();
    page_ = page;
    before_ = expected;
    after_ = desired;
  }
  ++pages_;
  return true;
}

void PageMap::Changes::count() {
  if (pages_ != 0) map_.count_change(page_, before_, after_, std::exchange(pages_, std::uint16_t{0}));
}

// Up before down: whoever looks in between may see a page twice, never a page that is nowhere.
void PageMap::count_change(PageIndex page, PageEntry before, PageEntry after, std::uint16_t pages) {
  RegionCounters& counters = regions_[region_of(page)];
  const auto count = [pages](std::atomic<std::uint16_t>& counter, bool was, bool is) {
    if (was != is) counter.fetch_add(static_cast<std::uint16_t>(is ? pages : -pages), std::memory_order_relaxed);
  };
  count(counters.incompressible, before.incompressible(), after.incompressible());
  const PageState from = counted_as(before);
  const PageState to = counted_as(after);
  if (from == to) return;
  counts_[static_cast<unsigned>(to)].fetch_add(pages, std::memory_order_relaxed);
  counts_[static_cast<unsigned>(from)].fetch_sub(pages, std::memory_order_relaxed);
  // A page counts as resident until it is dropped, and as far until it is back.
  const auto is_far = [](PageState s) { return s == PageState::kFar || s == PageState::kFetching; };
  const auto is_resident = [](PageState s) {
    return s == PageState::kResident || s == PageState::kResidentClean || s == PageState::kDemoting ||
           s == PageState::kDropping;
  };
  if (is_far(to)) {
    count(counters.far, is_far(from), true);
    count(counters.resident, is_resident(from), false);
  } else {
    count(counters.resident, is_resident(from), is_resident(to));
    count(counters.far, is_far(from), false);
  }
}

void PageMap::record_segments(std::span<const PageMapHeader::Segment> segments) {
  const std::uint32_t next = header_->current ^ 1;
  PageMapHeader::List& list = header_->lists[next];
  list.count = std::min(segments.size(), PageMapHeader::kMaxSegments);
  list.left_out = segments.size() - list.count;
  std::copy_n(segments.begin(), list.count, list.segments);
  std::atomic_ref<std::uint32_t>(header_->current).store(next, std::memory_order_release);
}

Bytes PageMap::footprint() const {
  struct stat status {};
  if (::fstat(file_.get(), &status) != 0) return Bytes{};
  return Bytes{static_cast<std::uint64_t>(status.st_blocks) * 512} + counters_footprint();
}

}  // namespace tidepool::daemon
