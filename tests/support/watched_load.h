// A tidepool-load whose memory a tracker watches while its true accesses are counted: what the accuracy tests share.
#pragma once

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "telemetry/hotness/tracker.h"
#include "tests/integration/load/load_process.h"
#include "tests/support/hotness_accuracy.h"

namespace tidepool::test {

struct WatchResult {
  Accuracy accuracy;
  telemetry::TrackerInfo info;
  std::uint64_t samples = 0;
  std::size_t unseen_regions = 0;
  double cpu_share = 0;              // spent, of one core
  double cpu_ms_per_gib = 0;         // and second
  double cpu_ms_per_gib_looked = 0;  // of pages that were looked at, each time they were
  double operations_per_second = 0;
};

struct WatchRequest {
  std::chrono::seconds duration{20};
  Nanoseconds every = std::chrono::milliseconds(250);  // between rounds
  double cpu_share = 0.05;
  // On a busy machine less is seen in the same time: watch on until there are so many samples, four times as long at
  // most.
  std::uint64_t enough_samples = 0;
  Counted what = Counted::kReadsAndWrites;
};

class WatchedLoad {
 public:
  // Starts the workload and waits until its memory is filled. It runs until this object goes.
  explicit WatchedLoad(std::vector<std::string> arguments);
  ~WatchedLoad();

  pid_t pid() const { return load_.pid(); }
  AddressRange range() const { return range_; }
  // As one object of memory that the pager does not manage.
  const telemetry::MemoryList& memory() const { return memory_; }

  // For trackers that need it: mappings divided by userfaultfds that were placed in the workload.
  void set_divided(std::shared_ptr<const telemetry::DividedMappings> divided);

  // For trackers that go by the pager: the memory as it has it. Page 0 of its one object is the first of range().
  void set_memory(telemetry::MemoryList memory) { memory_ = std::move(memory); }
  // Has it end; 0 when every byte that it read was right.
  int end();
  // Reads and writes since it began.
  double accesses() const;

  // Lets the tracker watch for a while, takes the memory away from it, and prints a line for the table in
  // docs/hotness.md.
  WatchResult watch(telemetry::Tracker& tracker, const std::string& title, const WatchRequest& request);

 private:
  std::string counts_path_;
  load::LoadProcess load_;
  AddressRange range_;
  telemetry::MemoryList memory_;
};

}  // namespace tidepool::test
