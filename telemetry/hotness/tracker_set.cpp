#include "telemetry/hotness/tracker_set.h"

#include <algorithm>

#include "telemetry/hotness/cpu_budget.h"

namespace tidepool::telemetry {
namespace {

// What there is to be seen of this memory.
Coverage needed_for(const MemoryList& memory) {
  Coverage needed = Coverage::kFrequency;
  for (const auto& of : memory) {
    for (const TrackedObject& object : of->objects) {
      if (object.paged == nullptr) {
        needed = needed | Coverage::kUnmanaged;
      } else {
        needed = needed | Coverage::kFar | (object.shared ? Coverage::kShared : Coverage::kPrivate);
      }
    }
  }
  return needed;
}

// What of the budget is whose, in relation to the others. Who looks says what is idle, which is what memory is moved
// by, and sees more of it for every bit of CPU time, up to every page. Who samples events tells of the hottest pages
// again and again: a fifth of the samples finds the same ones, with little more than twice the error (its square is as
// the inverse of their number).
double weight_of(policy::Evidence evidence) {
  return evidence == policy::Evidence::kLooks ? 4 : 1;
}

Coverage common(Coverage a, Coverage b) {
  return static_cast<Coverage>(static_cast<unsigned>(a) & static_cast<unsigned>(b));
}

}  // namespace

TrackerSet::TrackerSet(std::vector<std::unique_ptr<Tracker>> by_preference, double cpu_per_100_gib)
    : cpu_per_100_gib_(cpu_per_100_gib) {
  for (auto& tracker : by_preference) candidates_.push_back({std::move(tracker), false, "there is no memory to watch"});
}

void TrackerSet::set_cpu_per_100_gib(double share) {
  if (share == cpu_per_100_gib_) return;
  cpu_per_100_gib_ = share;
  share_budget();
}

void TrackerSet::set_memory(const MemoryList& memory) {
  if (memory == memory_) return;
  memory_ = memory;
  choose();
}

void TrackerSet::choose() {
  const Coverage needed = needed_for(memory_);
  Coverage covered = Coverage::kNone;
  std::string names;
  for (Candidate& candidate : candidates_) {
    const TrackerInfo info = candidate.tracker->info();
    const Coverage covers = info.usable ? candidate.tracker->covers(memory_) : Coverage::kNone;
    const bool adds = common(lacking(covered, covers), needed) != Coverage::kNone;
    candidate.used = info.usable && adds && !memory_.empty();
    candidate.why_not_used.clear();
    if (candidate.used) {
      covered = covered | covers;
      names += (names.empty() ? "" : ", ") + info.name;
    } else if (!info.usable) {
      candidate.why_not_used = info.why_not;
    } else if (memory_.empty()) {
      candidate.why_not_used = "there is no memory to watch";
    } else {
      candidate.why_not_used =
          names.empty() ? "sees nothing of this memory" : "sees nothing that these do not: " + names;
    }
    candidate.tracker->set_memory(candidate.used ? memory_ : MemoryList{});
  }
  share_budget();
}

void TrackerSet::share_budget() {
  // The refault stream and the like cost nothing and take no share: only who watches resident memory does.
  const auto weight = [this](const Candidate& candidate) {
    const bool costs =
        candidate.used && common(candidate.tracker->covers(memory_), Coverage::kResident) != Coverage::kNone;
    return costs ? weight_of(candidate.tracker->info().evidence) : 0;
  };
  double sum = 0;
  for (const Candidate& candidate : candidates_) sum += weight(candidate);
  const double all = tracker_share(cpu_per_100_gib_, size_of(memory_));
  for (Candidate& candidate : candidates_) {
    candidate.tracker->set_cpu_share(sum > 0 ? all * weight(candidate) / sum : 0);
  }
}

void TrackerSet::round(SampleSink& sink) {
  bool lost_one = false;
  for (Candidate& candidate : candidates_) {
    if (!candidate.used) continue;
    candidate.tracker->round(sink);
    lost_one = lost_one || !candidate.tracker->info().usable;
  }
  if (lost_one) choose();
}

std::vector<TrackerStatus> TrackerSet::status() const {
  std::vector<TrackerStatus> all;
  for (const Candidate& candidate : candidates_) {
    all.push_back({candidate.tracker->info(), candidate.used, candidate.why_not_used});
  }
  return all;
}

}  // namespace tidepool::telemetry
