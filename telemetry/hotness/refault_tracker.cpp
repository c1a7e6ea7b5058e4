#include "telemetry/hotness/refault_tracker.h"

#include <algorithm>

namespace tidepool::telemetry {

TrackerInfo RefaultTracker::info() const {
  TrackerInfo info;
  info.name = "refaults";
  info.usable = true;
  info.covers = Coverage::kFar;
  info.blind_spots = {"resident memory", "pages that came home along with the one that was touched"};
  info.samples = samples_;
  return info;
}

void RefaultTracker::round(SampleSink& sink) {
  const MonoTime now = clock_.now();
  policy::AccessSample sample;
  sample.since = last_round_ == MonoTime{} ? now : std::min(last_round_, now);  // a clock may go back
  sample.until = now;
  sample.window = sample.until - sample.since;
  sample.far = true;
  last_round_ = now;
  for (const auto& memory : memory_) {
    for (const TrackedObject& object : memory->objects) {
      if (object.paged == nullptr) continue;
      sample.object = object.id;
      for (std::uint64_t r = 0; r < object.paged->regions(); ++r) {
        const std::uint16_t back = object.paged->take_refaults(r);
        const std::uint32_t watched = object.paged->look(r).far + back;
        if (back == 0) continue;  // that nothing far was touched goes without saying
        sample.pages = {PageIndex{r * kPagesPerHugePage}, kPagesPerHugePage};
        sample.watched = watched;
        sample.used = back;
        ++samples_;
        sink.add(sample);
      }
    }
  }
}

}  // namespace tidepool::telemetry
