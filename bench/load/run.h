// What the threads of one run share.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "base/latency_histogram.h"
#include "bench/load/access_counts.h"
#include "bench/load/access_pattern.h"
#include "bench/load/page_content.h"
#include "bench/load/truth_table.h"
#include "bench/load/workload_memory.h"

namespace tidepool::load {

// Every finding is counted, the first few are kept in words. Thread-safe.
class MismatchLog {
 public:
  static constexpr std::size_t kKept = 16;

  void add(std::string description);
  std::uint64_t count() const { return count_.load(std::memory_order_relaxed); }
  std::vector<std::string> first() const;

 private:
  std::atomic<std::uint64_t> count_{0};
  mutable std::mutex mutex_;
  std::vector<std::string> first_;
};

// Written by one thread each, read by the reporter.
struct ThreadCounters {
  std::atomic<std::uint64_t> reads{0};
  std::atomic<std::uint64_t> writes{0};
  std::atomic<std::uint64_t> checked_pages{0};
  std::atomic<std::uint64_t> discarded_pages{0};
  std::atomic<std::uint64_t> direct_transfers{0};
  std::atomic<std::int64_t> slowest_ns{0};  // since the reporter last took it
  LatencyHistogram latency;

  void record(bool write, std::chrono::nanoseconds took);
};

struct RunSettings {
  PatternSettings pattern;
  std::uint64_t seed = 1;
  unsigned threads = 1;
  Thoroughness verify = Thoroughness::kFull;
  std::uint64_t work_per_operation = 0;  // rounds of computation between accesses
  double operations_per_second = 0;      // of all threads together; 0: as many as possible
  std::uint64_t hammer_pages = 16;       // the first pages of the memory, hammer only
  std::string direct_file;               // O_DIRECT transfers to and from this file; empty: none
  std::string access_counts;             // count every page's accesses in this file; empty: do not
};

class Run {
 public:
  Run(WorkloadMemory memory, TruthTable truth, RunSettings settings);

  // The pages that follow the truth table; the hammer's pages before them have rules of their own.
  std::uint64_t first_ordinary_page() const;
  PageCount ordinary_pages() const;
  Expectation expectation(std::uint64_t page, TruthTable::State state) const;
  // Checks a page against the truth table while others write; a difference is logged once it cannot be a race.
  void check_page(std::uint64_t page, Thoroughness how);
  // The same for a page that the caller has locked.
  void check_locked_page(std::uint64_t page, TruthTable::State state, Thoroughness how);

  WorkloadMemory memory;
  TruthTable truth;
  const RunSettings settings;
  const PageContent content;
  MismatchLog mismatches;
  AccessCounts counts;  // of the pattern's accesses, on request
  std::atomic<bool> stopping{false};
};

// Writes version 1 of every ordinary page, or checks every one of them, with settings.threads threads. `counters` has
// one entry per thread.
void fill_all(Run& run);
void check_all(Run& run, std::vector<ThreadCounters>& counters);

}  // namespace tidepool::load
