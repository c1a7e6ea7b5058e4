// What the mover does every second: who belongs to a workload, which memory they have, what the tier is and costs.
#include <algorithm>

#include "daemon/kernel_tier/swap_mover.h"
#include "kmod-interfaces/pidfd.h"

namespace tidepool::daemon {
namespace {

constexpr auto kProbeInterval = std::chrono::seconds(10);
constexpr double kCostMemory = 0.7;

Nanoseconds averaged(Nanoseconds old, Nanoseconds now) {
  if (old == Nanoseconds{0}) return now;
  return std::chrono::duration_cast<Nanoseconds>(old * kCostMemory + now * (1 - kCostMemory));
}

}  // namespace

void SwapMover::refresh() {
  refreshed_ = clock_.now();
  kernel::KernelTier now = kernel::read_kernel_tier(roots_);
  {
    const std::lock_guard lock(mutex_);
    tier_.kernel = std::move(now);
  }
  const auto all = workloads();
  for (const auto& workload : all) {
    const std::lock_guard work(work_mutex_);
    if (!workload->dead) refresh(*workload);
  }
  if (!all.empty()) probe();
}

void SwapMover::refresh(Workload& workload) {
  const Nanoseconds cost = tier().fault_cost;
  std::uint64_t swap_ins = 0;
  bool alive = false;
  for (std::uint32_t object = 0; object < workload.processes_.size(); ++object) {
    WorkloadProcess& process = workload.processes_[object];
    if (!process.alive) continue;
    const std::uint64_t before = process.major_faults;
    if (refresh(workload, object)) {
      alive = true;
      swap_ins += process.major_faults - std::min(before, process.major_faults);
      continue;
    }
    const std::lock_guard lock(workload.mutex_);
    process.alive = false;
    process.regions.clear();
  }
  if (!workload.beside_) {
    workload.counters.swap_ins += swap_ins;
    workload.counters.stall_ns += swap_ins * static_cast<std::uint64_t>(cost.count());
  }
  if (!workload.members_) {
    workload.dead = !alive;
    return;
  }
  const auto members = workload.members_();
  // A group without processes may get some; one that is no more never will.
  if (!members) {
    workload.dead = !alive;
    return;
  }
  for (const pid_t pid : *members) join(workload, pid, false);
}

// False when the process is gone.
bool SwapMover::refresh(Workload& workload, std::uint32_t object) {
  WorkloadProcess& process = workload.processes_[object];
  if (!kernel::pidfd_alive(process.pidfd->get())) return false;
  const auto held = kernel::Process::open(roots_, process.id.pid);
  if (!held || held->id() != process.id) return false;
  const auto stat = held->stat();
  const auto maps = held->maps();
  if (!stat || stat->is_zombie() || !maps) return false;
  // After an exec the old address space is gone, and with it what its page map shows.
  auto pagemap = kernel::Pagemap::open(roots_, process.id);
  if (!pagemap) return false;
  std::vector<AddressRange> mappings = swappable_mappings(*maps);
  SharedLayout layout = workload.beside_ ? workload.beside_->layout() : SharedLayout{};
  const std::lock_guard lock(workload.mutex_);
  process.pagemap = std::make_shared<const kernel::Pagemap>(std::move(*pagemap));
  process.epoch += set_memory(workload, process.regions, std::move(mappings), std::move(layout)) ? 1 : 0;
  process.major_faults = stat->major_faults;
  process.threads = static_cast<unsigned>(std::clamp<std::uint64_t>(stat->threads, 1, 65536));
  return true;
}

bool SwapMover::set_memory(const Workload& workload, SwapRegions& regions, std::vector<AddressRange> mappings,
                           SharedLayout layout) {
  return workload.beside_ ? regions.set_pieces(std::move(layout.pieces), layout.pages)
                          : regions.set_mappings(std::move(mappings));
}

// Nothing happens when it is there already, or is nothing to take care of.
void SwapMover::join(Workload& workload, pid_t pid, bool judged) {
  auto held = kernel::Process::open(roots_, pid);
  if (!held || workload.has(held->id())) return;
  const auto living = workload.processes().size();
  const auto stat = held->stat();
  if (living >= kMostProcesses || !stat || stat->is_zombie() || stat->is_kernel_thread()) return;
  const auto maps = held->maps();
  auto pidfd = kernel::open_pidfd(pid);
  if (!maps || !pidfd || !held->check_alive()) return;
  const std::vector<AddressRange> mappings = swappable_mappings(*maps);
  if (mappings.empty() || (!judged && !hooks_.may_join(held->id()))) return;
  auto pagemap = kernel::Pagemap::open(roots_, held->id());
  if (!pagemap) return;
  WorkloadProcess process;
  process.id = held->id();
  process.pidfd = std::make_shared<const UniqueFd>(std::move(*pidfd));
  process.pagemap = std::make_shared<const kernel::Pagemap>(std::move(*pagemap));
  process.major_faults = stat->major_faults;
  process.threads = static_cast<unsigned>(std::clamp<std::uint64_t>(stat->threads, 1, 65536));
  set_memory(workload, process.regions, mappings, workload.beside_ ? workload.beside_->layout() : SharedLayout{});
  const std::lock_guard lock(workload.mutex_);
  // The place of one that ended, or a new one: as many as were there at once at the most.
  const auto place = std::ranges::find(workload.processes_, false, &WorkloadProcess::alive);
  if (place == workload.processes_.end()) {
    workload.processes_.push_back(std::move(process));
    return;
  }
  process.epoch = place->epoch + 1;
  *place = std::move(process);
}

void SwapMover::probe() {
  bool any = false;
  {
    const std::lock_guard lock(mutex_);
    const bool due = probed_ == MonoTime{} || clock_.now() - probed_ >= Nanoseconds{kProbeInterval};
    if (!due) return;
    probed_ = clock_.now();
    any = tier_.kernel.kind != kernel::SwapKind::kNone;
  }
  Result<TierCost> cost = failure(std::errc::not_supported, "measure", "the kernel's tier", "there is no swap");
  if (any && !probe_) {
    auto opened = FaultProbe::open();
    if (opened) probe_ = std::move(*opened);
    if (!opened) cost = Failure{opened.error()};
  }
  if (any && probe_) cost = probe_->measure();
  if (cost) {
    for (const Nanoseconds each : cost->each_fault) fault_times_.record(each);
  }
  const std::lock_guard lock(mutex_);
  tier_.probe_trouble = cost ? std::string() : cost.error().message();
  if (!cost) return;
  tier_.fault_cost = averaged(tier_.fault_cost, cost->fault);
  tier_.store_cost = averaged(tier_.store_cost, cost->store);
  tier_.probed = clock_.now();
}

}  // namespace tidepool::daemon
