// A recorded trace (docs/trace-format.md) played to the real policy engine: what it would have decided for that VM, and
// what that would have cost. Deterministic.
//
// A trace has no accesses, only what trackers saw of them. So a use is an expected value: of a region of which 1 of 2
// looks found an access, half of the pages count as used. A use of what the engine has made far is a fault, which
// brings the page home. The engine sees the trace's samples, but of far pages only their faults, as it would.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "base/result.h"
#include "policy/plan.h"
#include "telemetry/trace/trace_reader.h"

namespace tidepool::simulator {

struct ReplaySpec {
  std::optional<double> limit{};  // resident memory at most, as a share of all
  std::optional<double> stall_budget{};
  double fault_cost = 20e-6;  // seconds
  unsigned threads = 2;       // that can wait at once
};

struct Replayed {
  struct Decided {
    std::uint64_t times = 0;
    std::uint64_t regions = 0;
  };
  std::string vm;
  bool whole = false;  // the trace was not cut off
  std::uint64_t rounds = 0;
  std::uint64_t samples = 0;
  std::uint64_t strays = 0;  // samples of memory that the VM does not have: left out
  double seconds = 0;
  std::uint64_t pages = 0;  // of all objects
  double uses = 0;          // of pages
  std::uint64_t faults = 0;
  std::uint64_t demoted = 0;   // pages
  std::uint64_t restored = 0;  // pages, unasked
  double resident = 0;         // share of all, on average
  double stall = 0;            // share of the threads' time, on average
  // Uses of what an oracle leaves out that knows the trace, keeps one choice of regions all the time, and has as much
  // resident as the engine had on average.
  double oracle_faults = 0;
  std::map<std::pair<policy::Action, policy::Reason>, Decided> decisions;
};

// Plays a trace from where the reader is to its end. Fails when the trace is damaged, or of a VM larger than any.
Result<Replayed> replay(std::unique_ptr<telemetry::TraceReader> trace, const ReplaySpec& spec);

}  // namespace tidepool::simulator
