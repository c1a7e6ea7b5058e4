// What a tracker saw of a stretch of memory: the evidence that heat is made of. Values only.
//
// Trackers differ in what they notice, in how finely and for how long they look, and in what silence means. A sample
// carries all of that, so that whoever makes heat of it need not know which tracker it came from.
#pragma once

#include <cstdint>

#include "base/clock.h"
#include "base/ids.h"

namespace tidepool::policy {

// One memory object of a VM. `object` as in RegionId.
struct ObjectId {
  VmId vm;
  std::uint32_t object = 0;
  constexpr auto operator<=>(const ObjectId&) const = default;
};

enum class Sees : std::uint8_t { kReads, kWrites, kReadsAndWrites };

enum class Evidence : std::uint8_t {
  // `watched` looks were taken, `used` of them found an access: the others mean that there was none (of the kind seen).
  kLooks,
  // `used` accesses happened to be noticed; that others were not noticed means nothing. `watched` is zero.
  kEvents,
};

// "Of these pages, `watched` were looked at for `window` each between `since` and `until`, and `used` of them were in
// use." Pages that were looked at are spread over the whole run: what is seen of them stands for the rest of it.
struct AccessSample {
  ObjectId object;
  PageRun pages;
  MonoTime since;
  MonoTime until;
  // How long one look lasts. Equal to until - since where each page is watched all the time; shorter where pages are
  // looked at in turn, so `used / watched` is always the probability of an access within `window`. Zero for events.
  Nanoseconds window{0};
  std::uint32_t watched = 0;
  std::uint32_t used = 0;
  Sees sees = Sees::kReadsAndWrites;
  Evidence evidence = Evidence::kLooks;
  // The pages were far: each use brought one of them home, and was waited for.
  bool far = false;
  // 0..1: how likely one look tells the truth. 1: the page table's own bits. Less where the method estimates, or shares
  // its bit with others.
  float confidence = 1;
};

// False for a sample that no tracker should give: an empty or wrapping run, time going backwards, more uses than looks,
// a confidence that is no probability. Such a sample is counted and dropped.
constexpr bool well_formed(const AccessSample& sample) {
  const bool run = sample.pages.count > 0 && sample.pages.end() > sample.pages.first.value;
  const bool time = sample.until >= sample.since && sample.window >= Nanoseconds{0};
  const bool looks =
      sample.evidence == Evidence::kLooks ? sample.watched > 0 && sample.used <= sample.watched : sample.watched == 0;
  return run && time && looks && sample.confidence >= 0 && sample.confidence <= 1;
}

}  // namespace tidepool::policy
