#include "telemetry/hotness/watched_pagemaps.h"

#include <algorithm>
#include <utility>

namespace tidepool::telemetry {

WatchedPagemaps::WatchedPagemaps(const kernel::KernelRoots& roots) : roots_(roots) {}

void WatchedPagemaps::set_memory(const MemoryList& memory) {
  std::erase_if(pagemaps_, [&](const auto& known) {
    return !known.second || std::ranges::none_of(memory, [&](const auto& of) {
      return std::ranges::any_of(of->spaces, [&](const TrackedSpace& space) { return space.process == known.first; });
    });
  });
}

const kernel::Pagemap* WatchedPagemaps::of(const kernel::ProcessId& process) {
  const auto [known, is_new] = pagemaps_.try_emplace(process);
  if (is_new) {
    if (auto opened = kernel::Pagemap::open(roots_, process)) known->second = std::move(*opened);
  }
  return known->second ? &*known->second : nullptr;
}

}  // namespace tidepool::telemetry
