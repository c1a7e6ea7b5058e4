// What the pager knows of one VM: its memory objects, and the address spaces through which they are seen.
//
// A page belongs to an object (a file's memory, or the private memory of one process), not to an address: the same
// object may be mapped at several places and in several processes. Threads: the VM's fault loop is the only one that
// changes the lists; others take snapshots.
#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/latency_histogram.h"
#include "base/unique_fd.h"
#include "base/units.h"
#include "daemon/pager/drop_ledger.h"
#include "daemon/pager/dropper.h"
#include "daemon/pager/event_gate.h"
#include "daemon/pager/group_room.h"
#include "daemon/pager/page_map.h"
#include "daemon/pager/prefetch_tuner.h"
#include "kmod-interfaces/pagemap.h"
#include "kmod-interfaces/userfaultfd.h"
#include "pool/store/page_store.h"

namespace tidepool::daemon {

// Where pages of a shared object lie in its file, whoever shows them.
struct FileExtent {
  std::uint64_t first_page = 0;
  std::uint64_t pages = 0;
  std::uint64_t file_offset = 0;
};

struct MemoryObject {
  std::uint64_t number = 0;  // within the VM, never used again
  bool shared = false;
  UniqueFd file;                    // shared memory only
  std::vector<FileExtent> extents;  // shared memory only
  std::unique_ptr<PageMap> map;
  // Private memory of a forked child: served, never demoted, and gone with the child.
  bool forked = false;
};

// A stretch of an address space that shows a stretch of an object.
struct Segment {
  AddressRange addresses;
  MemoryObject* object = nullptr;
  PageIndex first;
  std::uint64_t file_offset = 0;  // of `first`; shared memory only

  std::uint64_t address_of(PageIndex page) const {
    return addresses.start + ((page.value - first.value) << kPageShift);
  }
  std::uint64_t offset_of(PageIndex page) const { return file_offset + ((page.value - first.value) << kPageShift); }
  PageIndex page_at(std::uint64_t address) const {
    return PageIndex{first.value + ((address - addresses.start) >> kPageShift)};
  }
  std::uint64_t pages() const { return addresses.size() >> kPageShift; }
};

// Sorted by address, without overlaps.
class SegmentTable {
 public:
  SegmentTable() = default;
  explicit SegmentTable(std::vector<Segment> segments);

  const Segment* at(std::uint64_t address) const;
  // The part of the object's page range that this address space shows and that contains `page`.
  const Segment* showing(const MemoryObject& object, PageIndex page) const;
  const std::vector<Segment>& all() const { return segments_; }

  SegmentTable without(AddressRange unmapped) const;
  SegmentTable moved(AddressRange from, std::uint64_t to) const;
  SegmentTable with(std::vector<Segment> more) const;

 private:
  std::vector<Segment> segments_;
  // Indices of segments_, by object and first page. Two segments of one object may show the same pages: then any will
  // do.
  std::vector<std::uint32_t> by_page_;
  std::uint64_t longest_ = 0;  // pages
};

struct AddressSpace {
  std::uint64_t number = 0;  // within the VM, never used again
  kernel::Userfaultfd userfaultfd;
  std::uint64_t features = 0;  // UFFD_FEATURE_* in force: which events the kernel announces
  pid_t pid = -1;              // -1: a forked child that nobody has identified
  UniqueFd pidfd;
  kernel::Pagemap pagemap;
  std::unique_ptr<Dropper> ring;  // private memory; used by the demotion thread
  // Guest RAM: it stays where it is as long as the process runs. Any other memory may be unmapped, and its address be
  // given to something else, while a drop is on its way to it: there the fault loop holds such a change back until the
  // drop is done (see Loop::must_hold).
  bool fixed = false;
  DropLedger ledger;
  std::vector<std::unique_ptr<MemoryObject>> forked_objects;
  // A forked child for whose memory there was no page map: nobody knows what its missing private pages held.
  bool lost = false;
  std::atomic<bool> alive{true};

  std::shared_ptr<const SegmentTable> segments() const {
    const std::lock_guard lock(segments_mutex);
    return segments_;
  }
  void set_segments(SegmentTable table) {
    auto next = std::make_shared<const SegmentTable>(std::move(table));
    const std::lock_guard lock(segments_mutex);
    segments_ = std::move(next);
  }
  // For the fault loop only, which is the one that sets it.
  const SegmentTable& own_segments() const { return *segments_; }

 private:
  mutable std::mutex segments_mutex;
  std::shared_ptr<const SegmentTable> segments_ = std::make_shared<const SegmentTable>();
};

struct PagerCounters {
  std::atomic<std::uint64_t> faults_far{0};    // demand fault-ins of far pages
  std::atomic<std::uint64_t> faults_first{0};  // first touches, answered with zeros
  std::atomic<std::uint64_t> faults_write{0};  // write protection lifted
  std::atomic<std::uint64_t> faults_minor{0};  // cached pages mapped again
  std::atomic<std::uint64_t> stall_ns{0};      // from reading the event to the answer, summed over faults
  std::atomic<std::uint64_t> demoted_pages{0};
  std::atomic<std::uint64_t> demotions_cancelled{0};
  std::atomic<std::uint64_t> promoted_demand{0};
  std::atomic<std::uint64_t> promoted_prefetch{0};
  std::atomic<std::uint64_t> promoted_restore{0};
  // Of pages that advice named and that were left far to learn from it (prefetch_tuner.h).
  std::atomic<std::uint64_t> prefetch_used{0};
  std::atomic<std::uint64_t> prefetch_wasted{0};
  std::atomic<std::uint32_t> prefetch_window{0};       // pages that are fetched ahead at most, as of the last advice
  std::atomic<std::uint64_t> discarded_pages{0};       // far copies freed because the guest gave the page back
  std::atomic<std::uint64_t> removals_unexplained{0};  // of shared memory, whose cause nobody saw: taken for harmless
  std::atomic<std::uint64_t> forks{0};
  std::atomic<std::uint64_t> clean_drops{0};    // demotions that cost no write
  std::atomic<std::uint64_t> drops{0};          // of private memory, in pieces: that the process's ring was asked for
  std::atomic<std::uint64_t> children_lost{0};  // forked, and no memory for their page maps: see AddressSpace::lost
  std::atomic<std::uint64_t> verify_failures{
      0};  // pages that changed between copy and drop in spite of protection (devices)
  std::atomic<std::uint64_t> integrity_failures{0};
  std::atomic<std::uint64_t> store_full{0};
  std::atomic<std::uint64_t> store_away{0};  // far pages that a fault waited for and that nobody could give just then
  std::atomic<std::uint64_t> out_of_memory{0};
};

// What became of an order to demote one region: it has begun, with so many pages, or it is over, and so many left.
struct DemotionNews {
  const MemoryObject* object = nullptr;
  std::uint64_t region = 0;
  bool over = false;
  std::uint32_t pages = 0;
  std::uint32_t spared = 0;  // over: that were asked for and left alone
};

// See PagedVm::blocked_by: whoever has the far pages cannot be reached.
inline constexpr int kStoreAway = EHOSTUNREACH;

// Why pages come home.
enum class FetchReason : std::uint8_t { kDemand, kPrefetch, kRestore };
inline constexpr std::size_t kFetchReasons = 3;

struct PagedVm {
  VmId id;
  std::string name;
  std::shared_ptr<pool::PageStore> store;
  // Only for private memory, whose content cannot change behind the protection's back.
  std::atomic<bool> keep_clean_copies{false};
  // REMOVE on shared memory frees far copies only for programs known to mean "punch" by it (QEMU); MADV_DONTNEED keeps
  // contents.
  bool shared_remove_discards = false;
  bool fixed_memory = false;        // see AddressSpace::fixed
  std::atomic<bool> movable{true};  // false: served and sampled, never demoted
  // It has unmapped or moved private memory that is managed here. A drop names an address, and an address that was
  // given up may be something else's before the owner's event is read: such a process keeps its private memory from
  // then on.
  std::atomic<bool> restless{false};
  std::atomic<bool> ring_broken{false};  // see Dropper::broken
  bool keeps_private() const { return restless || ring_broken; }

  std::vector<std::unique_ptr<MemoryObject>> objects;
  // For the fault loop once the VM is active.
  std::uint64_t next_object = 0;
  std::uint64_t next_space = 0;
  MonoTime given_back{};  // when pages were last discarded
  PrefetchTuner prefetch;
  std::array<std::size_t, kFetchReasons> fetches_under_way{};  // operations, by reason (fetch.h)
  // For how long a page that came home is spared at first (policy/page_age.h). Set by whoever orders demotions.
  std::atomic<Nanoseconds> hold{std::chrono::seconds(20)};
  PagerCounters counters;
  GroupRoom group_room;
  LatencyHistogram fault_latency;  // far pages on demand, nanoseconds

  std::atomic<bool> releasing{false};
  std::atomic<bool> demotion_allowed{true};
  std::atomic<std::uint32_t> parked_faults{0};
  std::atomic<std::uint32_t> demotions_in_flight{0};
  std::atomic<std::uint32_t> drops_overdue{0};
  std::atomic<bool> dead{false};
  std::atomic<std::uint64_t> coming_home{0};  // restores that were ordered because the store gives room back
  EventGate event_gate;
  std::atomic<std::uint32_t> spaces_epoch{0};  // grows with every address space that joins
  std::atomic<int> blocked_by{0};  // errno-like reason why faults of this VM cannot be answered now; 0: none

  std::vector<std::shared_ptr<AddressSpace>> spaces() const {
    const std::lock_guard lock(spaces_mutex_);
    return spaces_;
  }
  void add_space(std::shared_ptr<AddressSpace> space) {
    const std::lock_guard lock(spaces_mutex_);
    spaces_.push_back(std::move(space));
    spaces_epoch.fetch_add(1, std::memory_order_seq_cst);
  }
  bool has_shared_memory() const {
    for (const auto& object : objects) {
      if (object->shared) return true;
    }
    return false;
  }
  void remove_space(const AddressSpace* space) {
    const std::lock_guard lock(spaces_mutex_);
    std::erase_if(spaces_, [&](const auto& s) { return s.get() == space; });
  }
  std::uint64_t count(PageState state) const {
    std::uint64_t sum = 0;
    for (const auto& object : objects) sum += object->map->count(state);
    return sum;
  }

  // Of demotions, since it was last taken, for whoever ordered them. Any thread.
  void note(const DemotionNews& news) {
    const std::lock_guard lock(news_mutex_);
    if (news_.size() < kMostNews) news_.push_back(news);
  }
  std::vector<DemotionNews> take_news() {
    const std::lock_guard lock(news_mutex_);
    return std::exchange(news_, {});
  }

 private:
  static constexpr std::size_t kMostNews = 8192;  // nobody may be listening
  std::mutex news_mutex_;
  std::vector<DemotionNews> news_;
  mutable std::mutex spaces_mutex_;
  std::vector<std::shared_ptr<AddressSpace>> spaces_;
};

}  // namespace tidepool::daemon
