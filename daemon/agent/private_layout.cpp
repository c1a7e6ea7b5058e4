#include "daemon/agent/private_layout.h"

#include <algorithm>

#include "daemon/vm/eligibility.h"

namespace tidepool::daemon {
namespace {

Failure changed(pid_t pid) {
  return failure(std::errc::resource_unavailable_try_again, "adopt", std::to_string(pid),
                 "its memory has changed since it was looked at: try again");
}

Result<std::vector<kernel::MemoryMap>> maps_of(const kernel::KernelRoots& roots, const ProcessFacts& facts) {
  const auto process = kernel::Process::open(roots, facts.id.pid);
  if (!process) return Failure{process.error()};
  auto maps = process->maps();
  if (!maps) return Failure{maps.error()};
  return std::move(*maps);
}

std::vector<AddressRange> touching(const std::vector<kernel::MemoryMap>& maps, const ProcessFacts& facts) {
  std::vector<AddressRange> found;
  for (const ManagedMapping& mapping : facts.mappings.chosen) {
    if (is_shared(mapping.kind)) continue;
    for (const kernel::MemoryMap& map : maps) {
      if (map.range.end == mapping.within.start || map.range.start == mapping.within.end) found.push_back(map.range);
    }
  }
  return found;
}

}  // namespace

Result<PrivateLayout> PrivateLayout::of(const kernel::KernelRoots& roots, const ProcessFacts& facts) {
  const auto maps = maps_of(roots, facts);
  if (!maps) return Failure{maps.error()};
  for (const ManagedMapping& mapping : facts.mappings.chosen) {
    const auto same = [&](const kernel::MemoryMap& map) { return map.range == mapping.within && !map.shared; };
    if (!is_shared(mapping.kind) && std::ranges::none_of(*maps, same)) return changed(facts.id.pid);
  }
  PrivateLayout layout;
  layout.touching_ = touching(*maps, facts);
  return layout;
}

Result<> PrivateLayout::check(const kernel::KernelRoots& roots, const ProcessFacts& facts) const {
  const auto maps = maps_of(roots, facts);
  if (!maps) return Failure{maps.error()};
  for (const ManagedMapping& mapping : facts.mappings.chosen) {
    if (!is_shared(mapping.kind) && !kernel::are_whole_mappings(*maps, mapping.within)) return changed(facts.id.pid);
  }
  if (touching(*maps, facts) != touching_) return changed(facts.id.pid);
  return {};
}

}  // namespace tidepool::daemon
