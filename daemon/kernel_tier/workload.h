// A process, or all processes of a control group, whose private memory the kernel moves on our word: nothing is placed
// in them, nothing stops them, and nothing has to be taken back. Should the agent end, the kernel goes on serving every
// page.
//
// Or the private memory that the pager manages of a process, which may then go either way: what is in swap is resident
// to the pager, which never sees it come and go.
//
// Threads: the mover's thread changes it; everybody may read. What is read is one moment's.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "daemon/kernel_tier/swap_regions.h"
#include "kmod-interfaces/pagemap.h"
#include "kmod-interfaces/process.h"
#include "policy/access_sample.h"
#include "policy/plan.h"

namespace tidepool::daemon {

// Smaller mappings are left to themselves.
inline constexpr Bytes kLeastSwapMapping{256u << 10};

// The mappings that count: private, anonymous, writable memory that is no stack. By address, adjacent ones joined.
std::vector<AddressRange> swappable_mappings(std::span<const kernel::MemoryMap> maps);

struct WorkloadProcess {
  kernel::ProcessId id;
  std::shared_ptr<const UniqueFd> pidfd;
  std::shared_ptr<const kernel::Pagemap> pagemap;  // of the address space that it had when last looked
  SwapRegions regions;
  bool alive = true;
  std::uint64_t epoch = 1;         // of its mappings
  std::uint64_t major_faults = 0;  // when last looked
  unsigned threads = 1;
  std::uint32_t next = 0;  // region to be looked at next
};

struct WorkloadCounters {
  std::atomic<std::uint64_t> demoted_pages{0};
  std::atomic<std::uint64_t> restored_pages{0};
  std::atomic<std::uint64_t> refaulted_pages{
      0};                                  // found back; pages that went and came between two looks are not in it
  std::atomic<std::uint64_t> swap_ins{0};  // major faults; beside the pager, whose own count as such: refaulted pages
  std::atomic<std::uint64_t> stall_ns{0};  // estimate: of each, what the probe says that one costs
  std::atomic<std::uint64_t> fruitless_moves{0};  // demotions by which nothing left
};

// What became of a demotion: it has begun, with so many pages; or is over, and so many left, so many stayed.
struct SwapMoveNews {
  policy::RegionId region;
  bool over = false;
  std::uint32_t pages = 0;
  std::uint32_t stayed = 0;
};

// What its memory comes to, in bytes.
struct WorkloadMemory {
  Bytes mapped;
  Bytes resident;
  Bytes far;
  Bytes untouched() const { return saturating_sub(mapped, resident + far); }
};

// Memory that the pager manages as well: which of it there is now, in the pager's numbers.
struct SharedLayout {
  std::vector<SwapPiece> pieces;
  PageCount pages;
};
struct BesidePager {
  std::uint32_t object = 0;              // the pager's, and policy's, number of it
  std::function<SharedLayout()> layout;  // called on the mover's thread until the workload is gone
};

class Workload {
 public:
  // `members`: the processes that belong to it now, for a control group; empty: it is the one process. It may be called
  // on the mover's thread until the workload is gone.
  using Members = std::function<Result<std::vector<pid_t>>()>;

  Workload(VmId number, std::string group, Members members)
      : id(number), cgroup(std::move(group)), members_(std::move(members)) {}
  Workload(VmId number, BesidePager beside) : id(number), beside_(std::move(beside)) {}

  const VmId id;
  const std::string cgroup;  // empty: one process
  WorkloadCounters counters;
  std::atomic<bool> demotion_allowed{true};
  std::atomic<bool> dead{false};
  std::atomic<bool> releasing{false};
  std::atomic<std::uint32_t> moves_in_flight{0};

  WorkloadMemory memory() const;
  unsigned threads() const;
  // Pages of one region that are in swap.
  std::uint32_t far_at(policy::RegionId region) const;
  std::vector<kernel::ProcessId> processes() const;
  bool has(const kernel::ProcessId& process) const;
  Bytes footprint() const;

  // The object's number in policy is the process's position, counted from here.
  std::uint32_t first_object() const { return beside_ ? beside_->object : 0; }
  // Of each process in turn. Never fewer than before. `visit` must not call back.
  void for_each(const std::function<void(const WorkloadProcess&)>& visit) const;
  // Samples of far pages that came back since they were last taken. One caller.
  void take_refaults(MonoTime now, const std::function<void(const policy::AccessSample&)>& sink);
  std::vector<SwapMoveNews> take_news();

 private:
  friend class SwapMover;
  static constexpr std::size_t kMostNews = 8192;

  void note(const SwapMoveNews& news);

  const Members members_;
  const std::optional<BesidePager> beside_;
  mutable std::mutex mutex_;
  std::vector<WorkloadProcess> processes_;
  std::vector<SwapMoveNews> news_;
  MonoTime refaults_taken_{};
};

}  // namespace tidepool::daemon
