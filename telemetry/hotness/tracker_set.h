// Several trackers as one: picks at run time those that together see the most, cheapest and truest first, shares the
// CPU budget among them (to who looks four times as much as to who samples events), and says of each other one why it
// is not used.
//
// The candidates come in order of preference. One is used when it is usable and sees something that those before it do
// not see. When a tracker that is used turns out to be unusable, the choice is made anew: the next one takes its place.
#pragma once

#include <memory>
#include <vector>

#include "telemetry/hotness/tracker.h"

namespace tidepool::telemetry {

struct TrackerStatus {
  TrackerInfo info;
  bool used = false;
  std::string why_not_used;  // empty when used
};

class TrackerSet {
 public:
  // `cpu_per_100_gib`: see tracker_share().
  TrackerSet(std::vector<std::unique_ptr<Tracker>> by_preference, double cpu_per_100_gib);

  void set_cpu_per_100_gib(double share);
  void set_memory(const MemoryList& memory);
  // One round of every tracker that is used.
  void round(SampleSink& sink);
  // In order of preference.
  std::vector<TrackerStatus> status() const;

 private:
  struct Candidate {
    std::unique_ptr<Tracker> tracker;
    bool used = false;
    std::string why_not_used;
  };
  void choose();
  void share_budget();

  std::vector<Candidate> candidates_;
  double cpu_per_100_gib_;
  MemoryList memory_;
};

}  // namespace tidepool::telemetry
