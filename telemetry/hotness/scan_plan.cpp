#include "telemetry/hotness/scan_plan.h"

#include <algorithm>

namespace tidepool::telemetry {
namespace {

// The parts of `run` that none of `covered` (sorted, disjoint) holds; they are added to it.
std::vector<PageRun> uncovered(PageRun run, std::vector<PageRun>& covered) {
  std::vector<PageRun> parts;
  std::uint64_t from = run.first.value;
  for (const PageRun& known : covered) {
    if (known.end() <= from) continue;
    if (known.first.value >= run.end()) break;
    if (known.first.value > from) parts.push_back({PageIndex{from}, known.first.value - from});
    from = known.end();
  }
  if (from < run.end()) parts.push_back({PageIndex{from}, run.end() - from});
  covered.insert(covered.end(), parts.begin(), parts.end());
  std::ranges::sort(covered);
  return parts;
}

}  // namespace

std::vector<ScanUnit> scan_units(const std::shared_ptr<const TrackedMemory>& memory) {
  std::vector<ScanUnit> units;
  std::vector<std::vector<PageRun>> covered(memory->objects.size());
  for (std::uint32_t s = 0; s < memory->spaces.size(); ++s) {
    for (const TrackedSegment& segment : memory->spaces[s].segments) {
      if (segment.object >= memory->objects.size() || segment.addresses.empty()) continue;
      for (const PageRun& part : uncovered(segment.pages(), covered[segment.object])) {
        for (std::uint64_t first = part.first.value; first < part.end();) {
          const std::uint64_t end = std::min(part.end(), (first / kPagesPerHugePage + 1) * kPagesPerHugePage);
          const std::uint64_t address = segment.address_of(PageIndex{first});
          units.push_back({memory,
                           s,
                           segment.object,
                           {address, address + ((end - first) << kPageShift)},
                           {PageIndex{first}, end - first}});
          first = end;
        }
      }
    }
  }
  return units;
}

std::vector<ScanPlan::Slot> ScanPlan::set_memory(const MemoryList& memory, MonoTime now) {
  const auto in = [](const MemoryList& list, const std::shared_ptr<const TrackedMemory>& wanted) {
    return std::ranges::find(list, wanted) != list.end();
  };
  std::vector<Slot> freed;
  for (Slot slot = 0; slot < units_.size(); ++slot) {
    Entry& entry = units_[slot];
    if (entry.unit.memory == nullptr || in(memory, entry.unit.memory)) continue;
    entry.unit = {};
    ++entry.generation;
    --in_use_;
    freed.push_back(slot);
    free_.push_back(slot);
  }
  for (const auto& of : memory) {
    if (in(memory_, of)) continue;
    for (ScanUnit& unit : scan_units(of)) add(std::move(unit), now);
  }
  memory_ = memory;
  return freed;
}

void ScanPlan::add(ScanUnit unit, MonoTime now) {
  Slot slot = 0;
  if (free_.empty()) {
    slot = static_cast<Slot>(units_.size());
    units_.emplace_back();
  } else {
    slot = free_.back();
    free_.pop_back();
  }
  units_[slot].unit = std::move(unit);
  units_[slot].level = static_cast<std::uint8_t>(std::min<unsigned>(1, windows_.doublings));
  ++in_use_;
  due_.push({now, slot, units_[slot].generation});
}

std::optional<ScanPlan::Slot> ScanPlan::next(MonoTime now) {
  while (!due_.empty() && due_.top().at <= now) {
    const Due due = due_.top();
    due_.pop();
    if (units_[due.slot].unit.memory != nullptr && units_[due.slot].generation == due.generation) return due.slot;
  }
  return std::nullopt;
}

std::uint8_t ScanWindows::next(std::uint8_t level, double share) const {
  if (share > often && level > 0) return static_cast<std::uint8_t>(level - 1);
  if (share < seldom && level < doublings) return static_cast<std::uint8_t>(level + 1);
  return level;
}

void ScanPlan::watch(Slot slot, MonoTime now, std::optional<double> share) {
  Entry& entry = units_[slot];
  if (share) entry.level = windows_.next(entry.level, *share);
  due_.push({now + window(slot), slot, entry.generation});
}

}  // namespace tidepool::telemetry
