#include "daemon/agent/private_layout.h"

#include <algorithm>

#include "daemon/agent/adoption_checks.h"

namespace tidepool::daemon {
namespace {

Result<std::vector<kernel::MemoryMap>> maps_of(const kernel::KernelRoots& roots, const ProcessFacts& facts) {
  const auto process = kernel::Process::open(roots, facts.id.pid);
  if (!process) return Failure{process.error()};
  auto maps = process->maps();
  if (!maps) return Failure{maps.error()};
  return std::move(*maps);
}

}  // namespace

PrivateLayout::Run PrivateLayout::run_of(const std::vector<kernel::MemoryMap>& maps, AddressRange range) {
  const auto ends_there = [&](const kernel::MemoryMap& map) { return map.range.end == range.start; };
  const auto begins_there = [&](const kernel::MemoryMap& map) { return map.range.start == range.end; };
  return {range, std::ranges::any_of(maps, ends_there), std::ranges::any_of(maps, begins_there)};
}

Result<PrivateLayout> PrivateLayout::of(const kernel::KernelRoots& roots, const ProcessFacts& facts) {
  const auto maps = maps_of(roots, facts);
  if (!maps) return Failure{maps.error()};
  // Neighbours become one mapping when both are registered.
  std::vector<AddressRange> runs;
  for (const ManagedMapping& mapping : facts.mappings.chosen) {
    if (is_shared(mapping.kind)) continue;
    const auto same = [&](const kernel::MemoryMap& map) { return map.range == mapping.within && !map.shared; };
    if (std::ranges::none_of(*maps, same)) return memory_changed(facts.id.pid, mapping.range);
    if (!runs.empty() && runs.back().end >= mapping.within.start) {
      runs.back().end = std::max(runs.back().end, mapping.within.end);
    } else {
      runs.push_back(mapping.within);
    }
  }
  PrivateLayout layout;
  for (const AddressRange& run : runs) layout.runs_.push_back(run_of(*maps, run));
  return layout;
}

Result<> PrivateLayout::check(const kernel::KernelRoots& roots, const ProcessFacts& facts) const {
  const auto maps = maps_of(roots, facts);
  if (!maps) return Failure{maps.error()};
  for (const Run& run : runs_) {
    if (!kernel::are_whole_mappings(*maps, run.range) || run_of(*maps, run.range) != run)
      return memory_changed(facts.id.pid, run.range);
  }
  return {};
}

}  // namespace tidepool::daemon
