#include "telemetry/trace/replay_tracker.h"

#include <algorithm>
#include <utility>

namespace tidepool::telemetry {

ReplayTracker::ReplayTracker(std::unique_ptr<TraceReader> trace, const Clock& clock, std::optional<Nanoseconds> shift)
    : trace_(std::move(trace)), clock_(clock), shift_(shift.value_or(Nanoseconds{0})) {
  read_on();
  if (!shift && round_) {
    shift_ = clock_.now() - round_->at;
    due_ = moved(round_->at);
  }
}

TrackerInfo ReplayTracker::info() const {
  TrackerInfo info;
  info.name = "replay";
  info.usable = round_.has_value();
  if (error_) {
    info.why_not = error_->message();
  } else if (!round_) {
    info.why_not = trace_->totals() ? "the trace is over" : "the trace was cut off here";
  }
  info.covers = Coverage::kResident | Coverage::kFar;
  info.blind_spots = {"what the trackers of the recording did not see", "all that has changed since"};
  info.samples = samples_;
  return info;
}

std::optional<MonoTime> ReplayTracker::next() const {
  return round_ ? std::optional(due_) : std::nullopt;
}

// A trace may name any time at all: what would not be a time since boot, or not be one any more, is as near as can be.
MonoTime ReplayTracker::moved(MonoTime time) const {
  std::int64_t sum = 0;
  if (__builtin_add_overflow(time.since_boot.count(), shift_.count(), &sum))
    return MonoTime{shift_ > Nanoseconds{0} ? Nanoseconds::max() : Nanoseconds{0}};
  return std::max(MonoTime{}, MonoTime{Nanoseconds{sum}});
}

void ReplayTracker::read_on() {
  auto read = trace_->next();
  round_.reset();
  if (!read) {
    error_ = read.error();
    return;
  }
  round_ = std::move(*read);
  if (!round_) return;
  const MonoTime at = moved(round_->at);
  backward_ += at < due_ ? 1 : 0;
  due_ = std::max(due_, at);
}

bool ReplayTracker::is_watched(const policy::AccessSample& sample) const {
  return std::ranges::any_of(memory_, [&](const auto& of) {
    return of->vm == sample.object.vm && std::ranges::any_of(of->objects, [&](const TrackedObject& object) {
             return object.id == sample.object && sample.pages.end() <= object.pages.value;
           });
  });
}

void ReplayTracker::round(SampleSink& sink) {
  const MonoTime now = clock_.now();
  while (round_ && due_ <= now) {
    for (policy::AccessSample& sample : round_->samples) {
      if (memory_.empty()) break;
      if (!is_watched(sample)) {
        ++strays_;
        continue;
      }
      sample.since = moved(sample.since);
      sample.until = moved(sample.until);
      ++samples_;
      sink.add(sample);
    }
    read_on();
  }
}

}  // namespace tidepool::telemetry
