#include "telemetry/hotness/perf_tracker.h"

#include <algorithm>
#include <cerrno>
#include <utility>

namespace tidepool::telemetry {
namespace {

using kernel::PerfMeans;

// Below this part of what can be afforded the period is halved: what then comes fits still.
constexpr double kRoomToHalvePeriod = 0.25;

Coverage coverage_of(PerfMeans means) {
  switch (means) {
    case PerfMeans::kPebs:
      return Coverage::kReadsShared | Coverage::kReadsPrivate | Coverage::kReadsUnmanaged | Coverage::kFrequency;
    case PerfMeans::kIbs:
      return Coverage::kResident | Coverage::kFrequency;
    case PerfMeans::kPageFaults:
      return Coverage::kFar;
  }
  return Coverage::kNone;
}

const char* blindness_of(PerfMeans means) {
  switch (means) {
    case PerfMeans::kPebs:
      return "writes, what system calls use, and every access that is not sampled";
    case PerfMeans::kIbs:
      return "every access that is not sampled";
    case PerfMeans::kPageFaults:
      return "every access that causes no page fault: memory that is present is used unseen";
  }
  return "";
}

bool is_gone(const Error& error) {
  return error.code.value() == ESRCH || error.code.value() == ENOENT;
}

}  // namespace

bool PerfPeriod::steer(double per_second, bool overran, double affordable_per_second) {
  const std::uint64_t before = value_;
  double expected = per_second;
  if (overran || expected > affordable_per_second) {
    do {
      value_ = value_ > longest_ / 2 ? longest_ : value_ * 2;
      expected /= 2;
    } while (expected > affordable_per_second && value_ < longest_);
  } else if (per_second < affordable_per_second * kRoomToHalvePeriod) {
    value_ = std::max(value_ / 2, shortest_);
  }
  return value_ != before;
}

PerfTracker::PerfTracker(const PerfConfig& config, const kernel::KernelRoots& roots, const Clock& clock,
                         const Clock& cpu)
    : config_(config), roots_(roots), clock_(clock), cpu_(cpu), budget_(clock), probe_(kernel::probe_perf(roots)) {
  if (probe_.source) {
    period_.emplace(probe_.source->first_period, probe_.source->shortest_period, probe_.source->longest_period);
    return;
  }
  for (const std::string& reason : probe_.why_not) why_not_ += (why_not_.empty() ? "" : "; ") + reason;
}

std::optional<PerfMeans> PerfTracker::means() const {
  return probe_.source ? std::optional(probe_.source->means) : std::nullopt;
}

TrackerInfo PerfTracker::info() const {
  TrackerInfo info;
  info.name = "perf";
  info.usable = why_not_.empty();
  info.why_not = why_not_;
  info.evidence = policy::Evidence::kEvents;
  info.cpu = budget_.spent();
  info.samples = samples_;
  info.lost = lost_;
  info.malformed = malformed_;
  if (!probe_.source) return info;
  info.covers = coverage_of(probe_.source->means);
  if (probe_.source->means == PerfMeans::kPebs) info.sees = policy::Sees::kReads;
  info.blind_spots = {blindness_of(probe_.source->means), "a KVM guest's accesses",
                      "threads that live for seconds only"};
  std::size_t unwatched = 0;
  for (const Watched& watched : watched_) unwatched += watched.threads ? watched.threads->unwatched() : 0;
  if (unwatched > 0) info.blind_spots.push_back(std::to_string(unwatched) + " threads for which there is no event");
  for (const std::string& reason : probe_.why_not) info.blind_spots.push_back("no better: " + reason);
  return info;
}

Coverage PerfTracker::covers(const MemoryList& memory) const {
  const bool any = std::ranges::any_of(memory, [](const auto& of) { return !of->guest; });
  return any && probe_.source ? coverage_of(probe_.source->means) : Coverage::kNone;
}

void PerfTracker::set_cpu_share(double of_one_core) {
  budget_.set_share(of_one_core);
  if (of_one_core > 0) return;
  for (Watched& watched : watched_) watched.threads.reset();
  refreshed_ = {};
}

void PerfTracker::set_memory(const MemoryList& memory) {
  std::vector<Watched> next;
  for (const auto& of : memory) {
    for (std::uint32_t s = 0; !of->guest && s < of->spaces.size() && next.size() < config_.most_threads; ++s) {
      const kernel::ProcessId process = of->spaces[s].process;
      if (of->spaces[s].segments.empty()) continue;
      Watched watched;
      const auto known =
          std::ranges::find_if(watched_, [&](const Watched& w) { return w.seen_from().process == process; });
      if (known != watched_.end()) {
        watched = std::move(*known);
        watched_.erase(known);
      }
      if (watched.memory != of || watched.space != s) watched.since = clock_.now();
      watched.memory = of;
      watched.space = s;
      next.push_back(std::move(watched));
    }
  }
  watched_ = std::move(next);
  refreshed_ = {};
}

void PerfTracker::round(SampleSink& sink) {
  if (!why_not_.empty() || watched_.empty() || budget_.share() <= 0) return;
  const Spending spending(budget_, cpu_);
  // What happens meanwhile waits in the rings; what does not fit there is counted as lost, and lengthens the period.
  if (spending.used_up()) return;
  if (refreshed_ == MonoTime{} || clock_.now() - refreshed_ >= config_.refresh) refresh();
  std::uint64_t taken = 0;
  std::uint64_t lost = 0;
  bool overran = false;
  bool contradicted = false;
  for (Watched& watched : watched_) {
    if (!watched.threads) continue;
    kernel::PerfRecords records;
    watched.threads->take(records);
    const MonoTime until = clock_.now();
    report(watched, records, until, sink);
    watched.since = until;
    taken += records.samples.size() + records.of_guests;
    lost += records.lost;
    overran = overran || records.lost > 0 || records.throttled > 0;
    contradicted = contradicted || records.malformed > 0;
    malformed_ += records.malformed;
  }
  lost_ += lost;
  budget_.spend(config_.cost_per_sample * static_cast<std::int64_t>(taken));
  steer(taken + lost, overran);
  contradictions_ = contradicted ? contradictions_ + 1 : 0;
  if (contradictions_ >= kToleratedFailures) why_not_ = "the kernel's rings of samples contradict themselves";
}

// Looks for threads that began, gives each process its part of the events that there may be.
void PerfTracker::refresh() {
  refreshed_ = clock_.now();
  const std::size_t most = std::max<std::size_t>(1, config_.most_threads / watched_.size());
  for (Watched& watched : watched_) {
    const auto refreshed = refresh_one(watched, most);
    if (refreshed) {
      failures_ = 0;
      continue;
    }
    watched.threads.reset();
    // A process that ended is taken out by whoever hands out memory.
    if (is_gone(refreshed.error())) continue;
    if (++failures_ >= kToleratedFailures) why_not_ = refreshed.error().message();
  }
}

Result<> PerfTracker::refresh_one(Watched& watched, std::size_t most) {
  if (watched.threads) return watched.threads->refresh(most);
  auto threads = kernel::PerfThreads::open(roots_, *probe_.source, watched.seen_from().process, period_->value(), most);
  if (!threads) return Failure{threads.error()};
  watched.threads.emplace(std::move(*threads));
  watched.since = clock_.now();
  return {};
}

void PerfTracker::report(const Watched& watched, const kernel::PerfRecords& records, MonoTime until, SampleSink& sink) {
  std::vector<std::pair<std::uint32_t, std::uint64_t>> hits;  // object and page
  for (const kernel::PerfSample& found : records.samples) {
    const TrackedSegment* segment = found.time < watched.since ? nullptr : watched.seen_from().at(found.address);
    if (segment != nullptr) hits.emplace_back(segment->object, segment->page_at(found.address).value);
  }
  std::ranges::sort(hits);
  policy::AccessSample sample;
  sample.since = watched.since;
  sample.until = until;
  sample.evidence = policy::Evidence::kEvents;
  sample.sees = probe_.source->means == PerfMeans::kPebs ? policy::Sees::kReads : policy::Sees::kReadsAndWrites;
  for (auto at = hits.begin(); at != hits.end();) {
    const auto end = std::ranges::upper_bound(at, hits.end(), *at);
    sample.object = watched.memory->objects[at->first].id;
    sample.pages = {PageIndex{at->second}, 1};
    sample.used = static_cast<std::uint32_t>(end - at);
    ++samples_;
    sink.add(sample);
    at = end;
  }
}

void PerfTracker::steer(std::uint64_t samples, bool overran) {
  const MonoTime now = clock_.now();
  const MonoTime since = std::exchange(steered_, now);
  if (since == MonoTime{} || now <= since) return;
  const double per_second = static_cast<double>(samples) / std::chrono::duration<double>(now - since).count();
  const double affordable = budget_.share() / std::chrono::duration<double>(config_.cost_per_sample).count();
  if (!period_->steer(per_second, overran, affordable)) return;
  for (Watched& watched : watched_) {
    // One that refuses is opened anew, or given up, at the next refresh.
    if (watched.threads && !watched.threads->set_period(period_->value())) {
      watched.threads.reset();
      refreshed_ = {};
    }
  }
}

}  // namespace tidepool::telemetry
