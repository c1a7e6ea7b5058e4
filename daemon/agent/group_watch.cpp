#include "daemon/agent/group_watch.h"

#include <algorithm>

#include "kmod-interfaces/kernel_features.h"
#include "kmod-interfaces/pidfd.h"

namespace tidepool::daemon {
namespace {

// Processes may be moved to another group.
constexpr std::uint64_t kLooksBetweenSearches = 10;
// For what others in the group use before the next look; a share of the limit, within bounds.
constexpr std::uint64_t kMarginShare = 32;
constexpr Bytes kLeastMargin{1u << 20};
constexpr Bytes kMostMargin{16u << 20};
// A VM that waits while nothing of it could be moved out for so long is left to the kernel, as if Tidepool were not.
constexpr Nanoseconds kPatience = std::chrono::seconds(30);

Bytes without_margin(const kernel::MemoryGroupRoom& room) {
  return saturating_sub(room.left, std::clamp(Bytes{room.limit.value / kMarginShare}, kLeastMargin, kMostMargin));
}

}  // namespace

void GroupWatch::look_at_all() {
  const bool search = looks_++ % kLooksBetweenSearches == 0;
  // The kernel makes room by itself then.
  if (search) swaps_ = !kernel::read_swap(context_.roots).empty();
  for (auto& [id, watched] : watched_) watched.seen = false;
  for (const auto& vm : context_.vms.paged()) {
    const auto [entry, fresh] = watched_.try_emplace(vm->memory->id);
    Watched& watched = entry->second;
    watched.seen = true;
    if (search || fresh) find_groups(*vm, watched);
    update(*vm, watched);
  }
  std::erase_if(watched_, [](const auto& entry) { return !entry.second.seen; });
}

// A page is charged to the group of the process that it comes home for.
void GroupWatch::find_groups(const ManagedVm& vm, Watched& watched) const {
  watched.groups.clear();
  if (swaps_) return;
  for (const auto& space : vm.memory->spaces()) {
    if (!space->alive || space->pid <= 0) continue;
    const auto process = kernel::Process::open(context_.roots, space->pid);
    if (!process) continue;
    auto group = kernel::memory_group_of(context_.roots, *process);
    // Asked last: alive now, its pid was nobody else's while the group was read.
    if (!group || !kernel::pidfd_alive(space->pidfd.get())) continue;
    if (std::ranges::find(watched.groups, group->directory, &kernel::MemoryGroup::directory) == watched.groups.end())
      watched.groups.push_back(std::move(*group));
  }
}

std::optional<kernel::MemoryGroupRoom> GroupWatch::least_room(const Watched& watched) const {
  std::optional<kernel::MemoryGroupRoom> least;
  for (const kernel::MemoryGroup& group : watched.groups) {
    const auto room = kernel::memory_group_room(context_.roots, group);
    if (room && (!least || room->left < least->left)) least = room;
  }
  return least;
}

void GroupWatch::look_at(ManagedVm& vm) {
  const auto found = watched_.find(vm.memory->id);
  if (found != watched_.end()) update(vm, found->second);
}

void GroupWatch::update(ManagedVm& vm, Watched& watched) {
  GroupRoom& room = vm.memory->group_room;
  const std::uint64_t taken = room.taken();
  const auto left = least_room(watched);
  if (!left) {
    room.let_demand_wait(false);
    room.set_unbounded();
    return;
  }
  const Bytes free = without_margin(*left);
  const MonoTime now = context_.clock.now();
  const std::uint64_t demoted = vm.memory->counters.demoted_pages;
  // A release that does not fit gives up by itself; nothing can go before that.
  const bool progress = free != Bytes{} || demoted != watched.demoted || vm.memory->releasing;
  if (progress || watched.progress_at == MonoTime{}) watched.progress_at = now;
  watched.demoted = demoted;
  room.let_demand_wait(now - watched.progress_at < kPatience && can_make_room(vm));
  room.set(taken, PageCount{free.value >> kPageShift});
}

// Something of it may go; or may again when a release that does not fit has been given up, or the keeper is back.
bool GroupWatch::can_make_room(const ManagedVm& vm) const {
  const PagedVm& memory = *vm.memory;
  if (context_.frozen || memory.dead || !memory.demotion_allowed || !memory.movable) return false;
  const std::lock_guard lock(vm.mutex);
  return vm.policy.mode == Mode::kActive;
}

}  // namespace tidepool::daemon
