#include "daemon/kernel_tier/workload.h"

#include <algorithm>

namespace tidepool::daemon {

std::vector<AddressRange> swappable_mappings(std::span<const kernel::MemoryMap> maps) {
  std::vector<AddressRange> ranges;
  for (const kernel::MemoryMap& map : maps) {
    const bool anonymous = map.path.empty() || map.path == "[heap]" || map.path.starts_with("[anon");
    if (map.shared || !map.writable || map.file.inode != 0 || map.is_stack() || !anonymous) continue;
    if (map.range.empty() || map.range.start % kPageSize != 0 || map.range.end % kPageSize != 0) continue;
    if (!ranges.empty() && map.range.start < ranges.back().end) continue;  // no kernel says so
    if (!ranges.empty() && ranges.back().end == map.range.start) {
      ranges.back().end = map.range.end;
    } else {
      ranges.push_back(map.range);
    }
  }
  std::erase_if(ranges, [](const AddressRange& range) { return range.size() < kLeastSwapMapping.value; });
  return ranges;
}

WorkloadMemory Workload::memory() const {
  const std::lock_guard lock(mutex_);
  WorkloadMemory memory;
  for (const WorkloadProcess& process : processes_) {
    memory.mapped += process.regions.mapped();
    memory.resident += to_bytes(process.regions.resident());
    memory.far += to_bytes(process.regions.far());
  }
  return memory;
}

std::uint32_t Workload::far_at(policy::RegionId region) const {
  const std::lock_guard lock(mutex_);
  const std::uint32_t place = region.object - first_object();
  if (place >= processes_.size() || region.region >= processes_[place].regions.count()) return 0;
  return processes_[place].regions.at(region.region).far();
}

unsigned Workload::threads() const {
  const std::lock_guard lock(mutex_);
  unsigned sum = 0;
  for (const WorkloadProcess& process : processes_) sum += process.alive ? process.threads : 0;
  return std::max(1u, sum);
}

std::vector<kernel::ProcessId> Workload::processes() const {
  const std::lock_guard lock(mutex_);
  std::vector<kernel::ProcessId> ids;
  for (const WorkloadProcess& process : processes_) {
    if (process.alive) ids.push_back(process.id);
  }
  return ids;
}

bool Workload::has(const kernel::ProcessId& wanted) const {
  const std::lock_guard lock(mutex_);
  return std::ranges::any_of(processes_,
                             [&](const WorkloadProcess& process) { return process.alive && process.id == wanted; });
}

Bytes Workload::footprint() const {
  const std::lock_guard lock(mutex_);
  Bytes sum;
  for (const WorkloadProcess& process : processes_) sum += process.regions.footprint();
  return sum;
}

void Workload::for_each(const std::function<void(const WorkloadProcess&)>& visit) const {
  const std::lock_guard lock(mutex_);
  for (const WorkloadProcess& process : processes_) visit(process);
}

void Workload::take_refaults(MonoTime now, const std::function<void(const policy::AccessSample&)>& sink) {
  const std::lock_guard lock(mutex_);
  policy::AccessSample sample;
  sample.since = refaults_taken_ == MonoTime{} ? now : std::min(refaults_taken_, now);
  sample.until = now;
  sample.window = sample.until - sample.since;
  sample.far = true;
  refaults_taken_ = now;
  for (std::uint32_t object = 0; object < processes_.size(); ++object) {
    SwapRegions& regions = processes_[object].regions;
    sample.object = {id, first_object() + object};
    for (std::uint32_t region = 0; region < regions.count(); ++region) {
      if (regions.at(region).refaults == 0) continue;  // that nothing far was touched goes without saying
      sample.used = regions.take_refaults(region);
      sample.watched = sample.used + regions.at(region).far();
      sample.pages = {PageIndex{std::uint64_t{region} * policy::kRegionPages}, policy::kRegionPages};
      sink(sample);
    }
  }
}

std::vector<SwapMoveNews> Workload::take_news() {
  const std::lock_guard lock(mutex_);
  return std::exchange(news_, {});
}

void Workload::note(const SwapMoveNews& news) {
  const std::lock_guard lock(mutex_);
  if (news_.size() < kMostNews) news_.push_back(news);
}

}  // namespace tidepool::daemon
