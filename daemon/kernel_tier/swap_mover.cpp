#include "daemon/kernel_tier/swap_mover.h"

#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>

#include "kmod-interfaces/process_memory.h"

namespace tidepool::daemon {
namespace {

using policy::kRegionPages;
using policy::RegionId;

constexpr auto kLookInterval = std::chrono::milliseconds(100);
constexpr auto kRefreshInterval = std::chrono::seconds(1);
constexpr auto kPassInterval = std::chrono::milliseconds(500);  // all memory is looked at no more often
constexpr std::size_t kOrdersAtOnce = 16;                       // before something else has its turn

// The pages that are there, and those that are swapped, of `parts`, in a region for each look from page `first` on.
Result<> look_at(const kernel::Pagemap& pagemap, const std::vector<SwapPiece>& parts, std::uint64_t first,
                 std::span<RegionLook> looks) {
  using namespace kernel::uapi;
  for (const SwapPiece& part : parts) {
    auto scanned = pagemap.for_each(part.addresses, kPageIsPresent | kPageIsSwapped, [&](const page_region& found) {
      const bool present = (found.categories & kPageIsPresent) != 0;
      // The kernel's one page of zeros is nobody's memory.
      if (present && (found.categories & kPageIsPfnZero) != 0) return;
      for (std::uint64_t address = found.start; address < found.end; address += kPageSize) {
        const std::uint64_t page = part.first.value - first + ((address - part.addresses.start) >> kPageShift);
        if (page / kRegionPages >= looks.size()) return;
        RegionLook& look = looks[page / kRegionPages];
        (present ? look.present : look.swapped).set(page % kRegionPages);
      }
    });
    if (!scanned) return scanned;
  }
  return {};
}

std::uint64_t first_page_of(std::uint32_t region) {
  return std::uint64_t{region} * kRegionPages;
}

}  // namespace

SwapMover::SwapMover(const kernel::KernelRoots& roots, SwapMoverHooks hooks)
    : roots_(roots), hooks_(std::move(hooks)), budget_(clock_, std::chrono::seconds(2)) {
  tier_.kernel = kernel::read_kernel_tier(roots_);
}

SwapMover::~SwapMover() {
  stop();
}

void SwapMover::start() {
  thread_ = std::thread([this] { run(); });
  ::pthread_setname_np(thread_.native_handle(), "kernel-tier");
}

void SwapMover::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

TierState SwapMover::tier() const {
  const std::lock_guard lock(mutex_);
  return tier_;
}

Nanoseconds SwapMover::cpu() const {
  const std::lock_guard lock(mutex_);
  return cpu_;
}

std::vector<std::shared_ptr<Workload>> SwapMover::workloads() const {
  const std::lock_guard lock(mutex_);
  return workloads_;
}

Result<std::shared_ptr<Workload>> SwapMover::adopt(const std::vector<pid_t>& pids, std::string cgroup,
                                                   Workload::Members members) {
  auto workload = std::make_shared<Workload>(VmId{next_id_++}, std::move(cgroup), std::move(members));
  {
    const std::lock_guard work(work_mutex_);
    for (const pid_t pid : pids) join(*workload, pid, pid == pids.front());
    look_at_all(*workload);
  }
  if (workload->processes_.empty())
    return failure(std::errc::no_such_process, "adopt", workload->cgroup, "none of its processes is there any more");
  take_into_care(workload);
  return workload;
}

Result<std::shared_ptr<Workload>> SwapMover::adopt_beside(VmId number, pid_t pid, BesidePager beside) {
  auto workload = std::make_shared<Workload>(number, std::move(beside));
  {
    const std::lock_guard work(work_mutex_);
    join(*workload, pid, true);
    if (worth_a_look(*workload)) look_at_all(*workload);
  }
  if (workload->processes_.empty())
    return failure(std::errc::no_such_process, "adopt", std::to_string(pid), "it ended");
  take_into_care(workload);
  return workload;
}

void SwapMover::look_at_all(Workload& workload) {
  for (std::uint32_t object = 0; object < workload.processes_.size(); ++object) {
    const std::uint32_t count = workload.processes_[object].regions.count();
    for (std::uint32_t first = 0; first < count; first += kRegionsAtOnce)
      look(workload, object, first, std::min(kRegionsAtOnce, count - first));
  }
}

void SwapMover::take_into_care(const std::shared_ptr<Workload>& workload) {
  const std::lock_guard lock(mutex_);
  workloads_.push_back(workload);
  probed_ = MonoTime{};
  wake_.notify_one();
}

// Where there is no swap, nothing of what the pager has is in it.
bool SwapMover::worth_a_look(const Workload& workload) const {
  return !workload.beside_ || tier().kernel.kind != kernel::SwapKind::kNone || workload.memory().far != Bytes{};
}

void SwapMover::forget(const std::shared_ptr<Workload>& workload) {
  const std::lock_guard work(work_mutex_);
  const std::lock_guard lock(mutex_);
  std::erase(workloads_, workload);
  std::erase_if(orders_, [&](const Order& order) { return order.workload == workload; });
}

bool SwapMover::demote(const std::shared_ptr<Workload>& workload, RegionId region, policy::UnitMask units) {
  const std::lock_guard lock(mutex_);
  if (orders_.size() >= kMostQueued || workload->dead || workload->releasing || !workload->demotion_allowed)
    return false;
  ++workload->moves_in_flight;
  orders_.push_back({workload, region, units, false, {}});
  wake_.notify_one();
  return true;
}

bool SwapMover::restore(const std::shared_ptr<Workload>& workload, RegionId region, policy::UnitMask units, Then then) {
  const std::lock_guard lock(mutex_);
  if (orders_.size() >= kMostQueued || workload->dead) return false;
  ++workload->moves_in_flight;
  if (then) {
    orders_.push_back({workload, region, units, true, std::move(then)});
  } else {
    // Who waits for pages goes before what is cold.
    orders_.push_front({workload, region, units, true, {}});
  }
  wake_.notify_one();
  return true;
}

void SwapMover::run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (orders_.empty()) wake_.wait_for(lock, kLookInterval);
    if (stopping_) break;
    lock.unlock();
    if (clock_.now() - refreshed_ >= Nanoseconds{kRefreshInterval}) refresh();
    for (std::size_t i = 0; i < kOrdersAtOnce && carry_out_next(); ++i) {
    }
    look_around();
    lock.lock();
  }
}

bool SwapMover::carry_out_next() {
  const std::lock_guard work(work_mutex_);
  Order order;
  {
    const std::lock_guard lock(mutex_);
    if (orders_.empty() || stopping_) return false;
    order = std::move(orders_.front());
    orders_.pop_front();
  }
  carry_out(order);
  --order.workload->moves_in_flight;
  return true;
}

std::optional<SwapMover::Grip> SwapMover::grip_of(Workload& workload, RegionId region, policy::UnitMask units) const {
  const std::lock_guard lock(workload.mutex_);
  const std::uint32_t place = region.object - workload.first_object();
  if (place >= workload.processes_.size()) return std::nullopt;
  const WorkloadProcess& process = workload.processes_[place];
  if (!process.alive || region.region >= process.regions.count()) return std::nullopt;
  return Grip{process.id,
              process.pidfd,
              process.pagemap,
              process.regions.unit_parts(region.region, units),
              first_page_of(region.region),
              place};
}

void SwapMover::carry_out(const Order& order) {
  Workload& workload = *order.workload;
  const auto grip = grip_of(workload, order.region, order.units);
  if (order.home) {
    const RegionPages home = grip ? move_home(workload, order.region, *grip) : RegionPages{};
    if (order.then) order.then(home);
    return;
  }
  // What was ordered before somebody wanted it to stay does not go.
  const bool may = !hooks_.frozen() && workload.demotion_allowed && !workload.releasing && !workload.dead;
  if (grip && may) return move_out(workload, order, *grip);
  workload.note({order.region, true, 0, 0});
}

void SwapMover::move_out(Workload& workload, const Order& order, const Grip& grip) {
  look(workload, grip.place, order.region.region, 1);
  const auto resident = [&] {
    RegionLook now;
    // A process that is gone has nothing.
    if (!look_at(*grip.pagemap, grip.parts, grip.first, std::span(&now, 1))) return std::size_t{0};
    return now.present.count();
  };
  const std::size_t before = resident();
  workload.note({order.region, false, static_cast<std::uint32_t>(before), 0});
  // One by one: the kernel stops at the first part that it will not touch. The page tables tell what came of it.
  for (const SwapPiece& part : grip.parts)
    static_cast<void>(kernel::advise_process_memory(grip.pidfd->get(), std::span(&part.addresses, 1), MADV_PAGEOUT));
  const std::size_t after = std::min(before, resident());
  const auto went = static_cast<std::uint32_t>(before - after);
  look(workload, grip.place, order.region.region, 1);
  workload.counters.demoted_pages += went;
  if (went == 0) ++workload.counters.fruitless_moves;
  workload.note({order.region, true, went, static_cast<std::uint32_t>(after)});
}

// The pages that are there now and were not.
SwapMover::RegionPages SwapMover::move_home(Workload& workload, RegionId region, const Grip& grip) {
  RegionLook before;
  if (!look_at(*grip.pagemap, grip.parts, grip.first, std::span(&before, 1))) return {};
  if (before.swapped.none()) return {};
  {
    const std::lock_guard lock(workload.mutex_);
    workload.processes_[grip.place].regions.bring_home(region.region, before.swapped);
  }
  std::array<std::uint64_t, kRegionPages> pages;
  std::size_t count = 0;
  for (const SwapPiece& part : grip.parts) {
    for (std::uint64_t page = part.first.value; page < part.first.value + part.pages(); ++page) {
      if (before.swapped[page - grip.first]) pages[count++] = part.address_of(page);
    }
  }
  static_cast<void>(kernel::touch_process_memory(grip.id.pid, std::span(pages).first(count)));
  RegionLook after;
  if (!look_at(*grip.pagemap, grip.parts, grip.first, std::span(&after, 1))) after = {};
  const RegionPages home = before.swapped & after.present;
  workload.counters.restored_pages += home.count();
  look(workload, grip.place, region.region, 1);
  return home;
}

void SwapMover::look(Workload& workload, std::uint32_t object, std::uint32_t first, std::uint32_t count) {
  std::shared_ptr<const kernel::Pagemap> pagemap;
  std::vector<SwapPiece> parts;
  {
    const std::lock_guard lock(workload.mutex_);
    const WorkloadProcess& process = workload.processes_[object];
    pagemap = process.pagemap;
    parts = process.regions.parts(first, count);
  }
  std::array<RegionLook, kRegionsAtOnce> looks{};
  // Of an address space that is gone nothing is there.
  if (!look_at(*pagemap, parts, first_page_of(first), std::span(looks).first(count))) looks.fill({});
  std::uint64_t back = 0;
  const Nanoseconds cost = workload.beside_ ? tier().fault_cost : Nanoseconds{0};
  const std::lock_guard lock(workload.mutex_);
  SwapRegions& regions = workload.processes_[object].regions;
  for (std::uint32_t i = 0; i < count && first + i < regions.count(); ++i) back += regions.take(first + i, looks[i]);
  workload.counters.refaulted_pages += back;
  // The kernel counts what waits for the pager among the major faults: these say nothing of swap here.
  if (workload.beside_) workload.counters.swap_ins += back;
  workload.counters.stall_ns += back * static_cast<std::uint64_t>(cost.count());
}

// A slice of all memory, as far as the budget goes.
void SwapMover::look_around() {
  auto all = workloads();
  std::erase_if(all, [&](const std::shared_ptr<Workload>& workload) { return !worth_a_look(*workload); });
  if (all.empty()) return;
  Bytes watched;
  for (const auto& workload : all) watched += workload->memory().mapped;
  budget_.set_share(telemetry::tracker_share(hooks_.cpu_per_100_gib(), watched));
  if (budget_.available() <= Nanoseconds{0}) return;
  telemetry::Spending spending(budget_, cpu_clock_);
  while (!spending.used_up()) {
    if (pass_at_ >= all.size()) {
      if (clock_.now() - pass_began_ < Nanoseconds{kPassInterval}) break;
      pass_began_ = clock_.now();
      pass_at_ = 0;
    }
    const std::lock_guard work(work_mutex_);
    {
      const std::lock_guard lock(mutex_);
      if (stopping_ || !orders_.empty()) break;
    }
    if (!look_further(*all[pass_at_], spending)) ++pass_at_;
  }
  const std::lock_guard lock(mutex_);
  cpu_ += spending.so_far();
}

// False when all of it has been looked at in this pass.
bool SwapMover::look_further(Workload& workload, telemetry::Spending& spending) {
  for (std::uint32_t object = 0; object < workload.processes_.size(); ++object) {
    WorkloadProcess& process = workload.processes_[object];
    while (process.alive && process.next < process.regions.count()) {
      const std::uint32_t run = std::min(kRegionsAtOnce, process.regions.count() - process.next);
      look(workload, object, process.next, run);
      process.next += run;
      if (spending.used_up()) return true;
    }
  }
  for (WorkloadProcess& process : workload.processes_) process.next = 0;
  return false;
}

Bytes SwapMover::bring_home(const std::shared_ptr<Workload>& workload, const std::function<bool(Bytes left)>& go_on) {
  for (std::uint32_t object = 0;; ++object) {
    for (std::uint32_t region = 0;; ++region) {
      if (!go_on(workload->memory().far)) return workload->memory().far;
      const std::lock_guard work(work_mutex_);
      {
        const std::lock_guard lock(workload->mutex_);
        if (object >= workload->processes_.size()) break;
        if (region >= workload->processes_[object].regions.count()) break;
      }
      const RegionId id{workload->first_object() + object, region};
      if (const auto grip = grip_of(*workload, id, policy::kAllUnits)) move_home(*workload, id, *grip);
    }
    const std::lock_guard lock(workload->mutex_);
    if (object + 1 >= workload->processes_.size()) break;
  }
  return workload->memory().far;
}

}  // namespace tidepool::daemon
