#include "telemetry/hotness/referenced_tracker.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "kmod-interfaces/pidfd.h"
#include "kmod-interfaces/process_memory.h"

#ifndef MADV_COLD  // 5.4
#define MADV_COLD 20
#endif

namespace tidepool::telemetry {
namespace {

// One look at a large process may have to be saved up for.
constexpr auto kLongestSaving = std::chrono::minutes(10);
constexpr double kFirstCostPerByte = 30e6 / static_cast<double>(1ull << 30);  // nanoseconds

Result<> make_cold(int pidfd, std::span<const AddressRange> ranges) {
  // process_madvise takes at most so much in one call.
  constexpr std::uint64_t kPart = 1ull << 30;
  for (const AddressRange& range : ranges) {
    for (std::uint64_t start = range.start; start < range.end; start += kPart) {
      const AddressRange part{start, std::min(range.end, start + kPart)};
      const std::int64_t done = kernel::advise_process_memory(pidfd, {&part, 1}, MADV_COLD);
      if (done < 0) {
        return failure_from(static_cast<int>(-done), "make cold", "memory of a process",
                            "process_madvise needs Linux 5.10 and CAP_SYS_NICE");
      }
    }
  }
  return {};
}

}  // namespace

ReferencedTracker::ReferencedTracker(const ReferencedConfig& config, const kernel::KernelRoots& roots,
                                     const Clock& clock)
    : config_(config), roots_(roots), clock_(clock), budget_(clock, kLongestSaving) {
  if (auto opened = open(); !opened) why_not_ = opened.error().message();
}

ReferencedTracker::~ReferencedTracker() {
  if (looking_.valid()) looking_.wait();
}

Result<> ReferencedTracker::open() {
  auto check = SelfCheck::create();
  if (!check) return Failure{check.error()};
  auto pidfd = kernel::open_pidfd(::getpid());
  if (!pidfd) return Failure{pidfd.error()};
  if (auto cold = make_cold(pidfd->get(), std::vector{check->used()}); !cold) return cold;
  auto first = kernel::Userfaultfd::create_for_self();
  if (!first) return Failure{first.error()};
  auto second = kernel::Userfaultfd::create_for_self();
  if (!second) return Failure{second.error()};
  auto divided = DividedMappings::divide(std::move(*first), std::move(*second), {check->used(), check->idle()},
                                         Bytes{kHugePageSize});
  if (!divided) return Failure{divided.error()};
  own_pidfd_ = std::move(*pidfd);
  self_check_ = std::move(*check);
  own_memory_.emplace(std::move(*divided));
  return {};
}

TrackerInfo ReferencedTracker::info() const {
  TrackerInfo info;
  info.name = "referenced";
  info.usable = why_not_.empty();
  info.why_not = why_not_;
  info.covers = Coverage::kUnmanaged;
  info.grain = Grain::kRegion;
  info.blind_spots = {"a KVM guest's accesses", "memory that the pager manages", "locked memory"};
  info.cpu = budget_.spent();
  info.samples = samples_;
  info.self_checks_failed = self_check_ ? self_check_->failures() : 0;
  return info;
}

Coverage ReferencedTracker::covers(const MemoryList& memory) const {
  const bool any = std::ranges::any_of(memory, [](const auto& of) {
    return std::ranges::any_of(of->spaces, [](const TrackedSpace& space) { return space.divided != nullptr; });
  });
  return any ? Coverage::kUnmanaged : Coverage::kNone;
}

void ReferencedTracker::set_memory(const MemoryList& memory) {
  if (looking_.valid()) looking_.wait();
  looking_ = {};
  std::vector<Watched> next;
  for (const auto& of : memory) {
    for (std::uint32_t s = 0; s < of->spaces.size(); ++s) {
      const TrackedSpace& space = of->spaces[s];
      if (space.divided == nullptr || space.pidfd == nullptr || space.segments.empty()) continue;
      const auto known =
          std::ranges::find_if(watched_, [&](const Watched& w) { return w.memory == of && w.space == s; });
      if (known != watched_.end()) {
        next.push_back(*known);
        continue;
      }
      Watched watched;
      watched.memory = of;
      watched.space = s;
      watched.level = 0;
      for (const TrackedSegment& segment : space.segments)
        watched.cost += kFirstCostPerByte * static_cast<double>(segment.addresses.size());
      next.push_back(watched);
    }
  }
  watched_ = std::move(next);
}

// The process whose window ended first, if the budget has enough for it.
std::optional<std::size_t> ReferencedTracker::next(MonoTime now) {
  std::optional<std::size_t> chosen;
  for (std::size_t i = 0; i < watched_.size(); ++i) {
    const Watched& watched = watched_[i];
    if (watched.runs_kvm || now < due(watched)) continue;
    if (!chosen || due(watched) < due(watched_[*chosen])) chosen = i;
  }
  if (!chosen) return std::nullopt;
  // What costs more than can ever be saved is done once the savings are full, and paid back afterwards.
  const double wanted = std::min(watched_[*chosen].cost, static_cast<double>(budget_.most().count()));
  return static_cast<double>(budget_.available().count()) >= wanted ? chosen : std::nullopt;
}

void ReferencedTracker::round(SampleSink& sink) {
  if (!why_not_.empty() || watched_.empty() || budget_.share() <= 0) return;
  if (looking_.valid()) {
    if (looking_.wait_for(std::chrono::seconds(0)) != std::future_status::ready) return;
    const Result<Look> look = looking_.get();
    if (look) {
      failures_ = 0;
      take(watched_[in_hand_], *look, sink);
    } else {
      // A process that ended is taken out by whoever hands out memory; until then it is left alone.
      watched_[in_hand_].cold_since = clock_.now();
      watched_[in_hand_].level = config_.windows.doublings;
      const bool gone = look.error().code.value() == ESRCH || look.error().code.value() == ENOENT;
      if (!gone && ++failures_ >= kToleratedFailures) why_not_ = look.error().message();
    }
    if (!self_check_->trusted()) why_not_ = self_check_->verdict();
    if (!why_not_.empty()) return;
  }
  self_check_->touch();
  if (const auto index = next(clock_.now())) {
    in_hand_ = *index;
    looking_ = std::async(std::launch::async, [this, memory = watched_[*index].memory, space = watched_[*index].space] {
      return look(memory->spaces[space]);
    });
  }
}

// On a thread of its own; uses nothing that changes meanwhile.
Result<ReferencedTracker::Look> ReferencedTracker::look(const TrackedSpace& space) const {
  const ThreadCpuClock cpu;
  const MonoTime start = cpu.now();
  Look found;
  const auto process = kernel::Process::open(roots_, space.process.pid);
  if (!process) return Failure{process.error()};
  if (process->id() != space.process) return failure_from(ESRCH, "look at", "a process that ended");
  const auto descriptors = process->descriptors(kernel::RingDetail::skip);
  if (!descriptors) return Failure{descriptors.error()};
  found.runs_kvm = std::ranges::any_of(*descriptors, [](const kernel::DescriptorInfo& descriptor) {
    return descriptor.kind == kernel::DescriptorKind::kvm_vm || descriptor.kind == kernel::DescriptorKind::kvm_vcpu;
  });
  if (found.runs_kvm) return found;
  const auto usage = process->smaps();
  if (!usage) return Failure{usage.error()};
  for (const kernel::MappingUsage& mapping : *usage) {
    const auto inside = std::ranges::any_of(
        space.segments, [&](const TrackedSegment& segment) { return segment.addresses.contains(mapping.map.range); });
    if (inside)
      found.chunks.push_back(
          {mapping.map.range, whole_pages(mapping.resident).value, whole_pages(mapping.referenced).value});
  }
  if (auto seen = look_at_self(found); !seen) return Failure{seen.error()};
  found.looked = clock_.now();
  if (auto cold = make_cold(space.pidfd->get(), space.ranges()); !cold) return Failure{cold.error()};
  if (auto cold = make_cold(own_pidfd_.get(), std::vector{self_check_->used(), self_check_->idle()}); !cold)
    return Failure{cold.error()};
  found.cold = clock_.now();
  found.cpu = cpu.now() - start;
  return found;
}

Result<> ReferencedTracker::look_at_self(Look& look) const {
  const auto self = kernel::Process::open(roots_, ::getpid());
  if (!self) return Failure{self.error()};
  const auto usage = self->smaps();
  if (!usage) return Failure{usage.error()};
  for (const kernel::MappingUsage& mapping : *usage) {
    if (mapping.referenced == Bytes{}) continue;
    look.used_seen = look.used_seen || mapping.map.range == self_check_->used();
    look.idle_seen = look.idle_seen || mapping.map.range == self_check_->idle();
  }
  return {};
}

void ReferencedTracker::take(Watched& watched, const Look& look, SampleSink& sink) {
  budget_.spend(look.cpu);
  watched.runs_kvm = look.runs_kvm;
  if (look.runs_kvm) return;
  watched.cost = static_cast<double>(look.cpu.count());
  if (std::exchange(self_watched_, true)) self_check_->judge(look.used_seen, look.idle_seen);
  const MonoTime since = std::exchange(watched.cold_since, look.cold);
  if (since == MonoTime{}) return;
  std::uint64_t resident = 0;
  std::uint64_t referenced = 0;
  policy::AccessSample sample;
  sample.since = since;
  sample.until = look.looked;
  sample.window = sample.until - sample.since;
  for (const Chunk& chunk : look.chunks) {
    const TrackedSegment* segment = watched.seen_from().at(chunk.range.start);
    if (segment == nullptr || !segment->addresses.contains(chunk.range) || chunk.resident == 0) continue;
    sample.object = watched.memory->objects[segment->object].id;
    sample.pages = {segment->page_at(chunk.range.start), chunk.range.size() >> kPageShift};
    sample.watched = static_cast<std::uint32_t>(chunk.resident);
    sample.used = static_cast<std::uint32_t>(std::min(chunk.referenced, chunk.resident));
    resident += sample.watched;
    referenced += sample.used;
    ++samples_;
    sink.add(sample);
  }
  if (resident == 0) return;
  const double share = static_cast<double>(referenced) / static_cast<double>(resident);
  watched.level = config_.windows.next(watched.level, share);
}

}  // namespace tidepool::telemetry
