#include "daemon/agent/home_bringer.h"

#include <algorithm>

namespace tidepool::daemon {
namespace {

// Of one call: about a second's worth.
constexpr std::uint64_t kMostPages = std::uint64_t{64} * 1024;

}  // namespace

void bring_home_what_leaves(Pager& pager, const std::shared_ptr<PagedVm>& vm) {
  if (vm->dead || vm->store == nullptr || vm->coming_home != 0) return;
  const auto leaves = vm->store->leaving();
  if (!leaves) return;
  std::uint64_t left = kMostPages;
  for (const auto& object : vm->objects) {
    std::vector<PageRun> runs;
    const std::uint64_t pages = object->map->pages().value;
    for (std::uint64_t region = 0; region < object->map->regions() && left > 0; ++region) {
      if (object->map->region(region).far == 0) continue;
      const std::uint64_t end = std::min((region + 1) * kPagesPerRegion, pages);
      for (std::uint64_t at = region * kPagesPerRegion; at < end && left > 0; ++at) {
        const PageEntry entry = object->map->load(PageIndex{at});
        if (entry.state() != PageState::kFar || !entry.holds_location() || !leaves(entry.location())) continue;
        --left;
        if (runs.empty() || runs.back().end() != at) runs.push_back({PageIndex{at}, 0});
        ++runs.back().count;
      }
    }
    if (runs.empty()) continue;
    ++vm->coming_home;
    pager.restore(vm, object.get(), std::move(runs), RestoreKind::kOwnAccord,
                  [vm](std::uint64_t) { --vm->coming_home; });
  }
}

}  // namespace tidepool::daemon
