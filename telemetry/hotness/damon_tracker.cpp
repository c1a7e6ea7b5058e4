#include "telemetry/hotness/damon_tracker.h"

#include <unistd.h>

#include <algorithm>

#include "base/units.h"

namespace tidepool::telemetry {
namespace {

constexpr Bytes kSelfCheckSize{16 * kPageSize};
constexpr std::uint64_t kFewestRegions = 10;
constexpr std::uint64_t kMostRegions = 5000;
// Looks are too short when not even the hottest region is found used this often, too long when most of memory always
// is.
constexpr double kHardlyEver = 0.2;
constexpr double kNearlyAlways = 0.9;
constexpr double kMuchOfMemory = 0.4;
// What one page says of a region: less than that page's own bit would.
constexpr float kConfidence = 0.8f;

}  // namespace

DamonTracker::DamonTracker(const DamonConfig& config, const kernel::KernelRoots& roots, const Clock& clock)
    : config_(config), roots_(roots), clock_(clock), budget_(clock) {
  intervals_ = {config.first_sample, config.first_sample * config.looks};
  if (const auto reason = kernel::damon_unavailable(roots)) {
    why_not_ = *reason;
    return;
  }
  auto check = SelfCheck::create(kSelfCheckSize);
  if (check) {
    self_check_ = std::move(*check);
  } else {
    why_not_ = check.error().message();
  }
}

TrackerInfo DamonTracker::info() const {
  TrackerInfo info;
  info.name = "damon";
  info.usable = why_not_.empty();
  info.why_not = why_not_;
  info.covers = Coverage::kResident;
  info.grain = Grain::kRegion;
  info.blind_spots = {"what happens between its looks, at one page of each region at a time",
                      "small hot spots in large cold regions, until it has split them",
                      "processes beyond the first " + std::to_string(kernel::kMaxDamonTargets - 1)};
  info.cpu = budget_.spent();
  info.samples = samples_;
  info.malformed = malformed_;
  info.self_checks_failed = self_check_ ? self_check_->failures() : 0;
  return info;
}

void DamonTracker::set_memory(const MemoryList& memory) {
  if (memory == memory_) return;
  memory_ = memory;
  stop();
}

void DamonTracker::stop() {
  if (reading_.valid()) reading_.wait();
  reading_ = {};
  session_.reset();
  watched_.clear();
}

void DamonTracker::start() {
  kernel::DamonSettings settings;
  settings.intervals = intervals_;
  std::uint64_t regions = 0;
  for (const auto& of : memory_) {
    for (std::uint32_t s = 0; s < of->spaces.size() && watched_.size() + 1 < kernel::kMaxDamonTargets; ++s) {
      const TrackedSpace& space = of->spaces[s];
      if (space.segments.empty()) continue;
      settings.targets.push_back({space.process.pid, space.ranges()});
      for (const AddressRange& range : settings.targets.back().ranges) regions += 1 + range.size() / kHugePageSize;
      watched_.push_back({of, s});
    }
  }
  if (watched_.empty()) return;
  settings.targets.push_back({::getpid(), {self_check_->used(), self_check_->idle()}});
  settings.min_regions = std::clamp(regions / 2, kFewestRegions, kMostRegions / 2);
  settings.max_regions = std::clamp(regions * 2, 10 * kFewestRegions, kMostRegions);
  auto started = kernel::DamonSession::start(roots_, settings);
  if (!started) {
    watched_.clear();
    // A process that ended meanwhile is no fault of DAMON's; the agent will say so soon.
    if (++failures_ >= kToleratedFailures || started.error().code.value() == EBUSY)
      why_not_ = started.error().message();
    return;
  }
  session_ = std::move(*started);
  kernel_cpu_ = Nanoseconds{0};
  charged_ = clock_.now();
  next_reading_ = clock_.now() + 2 * intervals_.aggregation;
}

void DamonTracker::round(SampleSink& sink) {
  if (!why_not_.empty() || memory_.empty() || budget_.share() <= 0) return;
  if (!session_) start();
  if (!session_) return;
  self_check_->touch();
  if (reading_.valid()) {
    if (reading_.wait_for(std::chrono::seconds(0)) != std::future_status::ready) return;
    const Result<Reading> reading = reading_.get();
    if (reading) {
      failures_ = 0;
      charge(*reading);
      take(*reading, sink);
      if (reading->intervals.sample != intervals_.sample) {
        // The new ones were set after this was read: the next is of them alone.
        next_reading_ = clock_.now() + 2 * intervals_.aggregation;
      } else {
        steer(*reading);
      }
    } else if (++failures_ >= kToleratedFailures) {
      why_not_ = reading.error().message();
      return stop();
    } else {
      return stop();  // its thread ends with its targets: begin anew with those that are left
    }
    if (!self_check_->trusted()) {
      why_not_ = self_check_->verdict();
      return stop();
    }
  }
  // While in debt the kernel's thread goes on, slower by now, but nobody reads what it found.
  if (clock_.now() < next_reading_ || budget_.available() == Nanoseconds{0}) return;
  reading_ = std::async(std::launch::async, [this, targets = watched_.size() + 1, wanted = intervals_] {
    return read(*session_, targets, wanted);
  });
  next_reading_ = clock_.now() + intervals_.aggregation;
}

// On a thread of its own, because the kernel makes the reader wait for its next look.
Result<DamonTracker::Reading> DamonTracker::read(kernel::DamonSession& session, std::size_t targets,
                                                 kernel::DamonIntervals wanted) {
  const ThreadCpuClock cpu;
  const MonoTime start = cpu.now();
  Reading reading;
  const std::uint64_t malformed_before = session.malformed();
  reading.intervals = session.intervals();
  if (auto updated = session.update(); !updated) return Failure{updated.error()};
  for (std::size_t i = 0; i < targets; ++i) {
    auto regions = session.regions(i);
    if (!regions) return Failure{regions.error()};
    reading.regions.push_back(std::move(*regions));
  }
  reading.malformed = session.malformed() - malformed_before;
  if (wanted.sample != session.intervals().sample) {
    if (auto set = session.set_intervals(wanted); !set) return Failure{set.error()};
  }
  reading.cpu = cpu.now() - start;
  return reading;
}

void DamonTracker::take(const Reading& reading, SampleSink& sink) {
  malformed_ += reading.malformed;
  for (std::size_t i = 0; i < watched_.size(); ++i) {
    for (const kernel::DamonRegion& region : reading.regions[i]) report(watched_[i], region, reading, sink);
  }
  judge(reading.regions.back());
}

void DamonTracker::report(const Watched& watched, const kernel::DamonRegion& region, const Reading& reading,
                          SampleSink& sink) {
  const TrackedSpace& space = watched.memory->spaces[watched.space];
  policy::AccessSample sample;
  sample.until = clock_.now();
  sample.since = sample.until - reading.intervals.aggregation;
  sample.window = reading.intervals.sample;
  sample.watched = static_cast<std::uint32_t>(reading.intervals.looks());
  sample.used = static_cast<std::uint32_t>(region.accesses);
  sample.confidence = kConfidence;
  for (const TrackedSegment& segment : space.segments) {
    if (!segment.addresses.overlaps(region.range)) continue;
    const std::uint64_t start = std::max(segment.addresses.start, region.range.start);
    const std::uint64_t end = std::min(segment.addresses.end, region.range.end);
    sample.object = watched.memory->objects[segment.object].id;
    sample.pages = {segment.page_at(start), (end - start) >> kPageShift};
    ++samples_;
    sink.add(sample);
  }
}

void DamonTracker::judge(const std::vector<kernel::DamonRegion>& own) {
  bool used_seen = false;
  bool idle_seen = false;
  bool looked = false;
  for (const kernel::DamonRegion& region : own) {
    looked = true;
    if (region.accesses == 0) continue;
    used_seen = used_seen || region.range.overlaps(self_check_->used());
    idle_seen = idle_seen || region.range.overlaps(self_check_->idle());
  }
  if (looked) self_check_->judge(used_seen, idle_seen);
}

void DamonTracker::charge(const Reading& reading) {
  budget_.spend(reading.cpu);
  const auto total = session_->cpu();
  if (!total || *total < kernel_cpu_) return;
  const Nanoseconds spent = *total - kernel_cpu_;
  const Nanoseconds passed = clock_.now() - charged_;
  if (passed > Nanoseconds{0}) kernel_share_ = static_cast<double>(spent.count()) / static_cast<double>(passed.count());
  kernel_cpu_ = *total;
  charged_ = clock_.now();
  budget_.spend(spent);
}

void DamonTracker::steer(const Reading& reading) {
  std::uint64_t pages = 0;
  std::uint64_t nearly_always = 0;
  std::uint64_t most = 0;
  const std::uint64_t looks = std::max<std::uint64_t>(1, reading.intervals.looks());
  for (std::size_t i = 0; i < watched_.size(); ++i) {
    for (const kernel::DamonRegion& region : reading.regions[i]) {
      pages += region.range.size();
      most = std::max(most, region.accesses);
      if (region.accesses >= static_cast<std::uint64_t>(kNearlyAlways * static_cast<double>(looks)))
        nearly_always += region.range.size();
    }
  }
  const double highest = static_cast<double>(most) / static_cast<double>(looks);
  const double saturated = pages == 0 ? 0 : static_cast<double>(nearly_always) / static_cast<double>(pages);
  auto sample = intervals_.sample;
  if (kernel_share_ > budget_.share() || (highest < kHardlyEver && most > 0)) {
    sample = std::min(sample * 2, config_.longest_sample);
  } else if (saturated > kMuchOfMemory && kernel_share_ < budget_.share() / 2) {
    sample = std::max(sample / 2, config_.shortest_sample);
  }
  intervals_ = {sample, sample * config_.looks};
}

}  // namespace tidepool::telemetry
