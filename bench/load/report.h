// What a run did, as a table for people or one JSON line for programs.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "bench/load/run.h"

namespace tidepool::load {

enum class OutputFormat : std::uint8_t { kTable, kJson };

// Sums of all threads at one time.
struct Totals {
  std::uint64_t reads = 0;
  std::uint64_t writes = 0;
  std::uint64_t checked_pages = 0;
  std::uint64_t discarded_pages = 0;
  std::uint64_t direct_transfers = 0;
  LatencyHistogram::Snapshot latency;
  std::chrono::nanoseconds slowest{0};
};

// Used by one thread.
class Reporter {
 public:
  Reporter(OutputFormat format, const MismatchLog& mismatches, std::vector<ThreadCounters>& counters);

  // The interval that rates refer to: without the idle time before the work and the check after it.
  void work_started();
  void work_ended();

  // From the start, and (interim reports) since the previous report as well. Ends with a newline.
  std::string interim();
  std::string final();

 private:
  Totals take_totals();

  OutputFormat format_;
  const MismatchLog& mismatches_;
  std::vector<ThreadCounters>& counters_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point end_ = start_;
  std::chrono::steady_clock::time_point previous_time_ = start_;
  Totals previous_;
  std::chrono::nanoseconds slowest_{0};
};

}  // namespace tidepool::load
