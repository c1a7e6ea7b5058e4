// What the agent knows about itself at one moment, as plain values for the metrics endpoint.
//
// Nothing here counts: each counter is the agent's own, read when somebody scrapes, so there is one account only and
// the series of a released VM end with it. Counters only grow during the agent's life, except those of a VM, which end
// with the VM. Units: bytes exact, ratios 0..1.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/latency_histogram.h"
#include "base/units.h"

namespace tidepool::telemetry {

// Every page of a VM's adopted memory is in exactly one state, so the sum is what was promised to it.
struct VmMemoryStates {
  Bytes untouched;   // never written: reads as zeros and costs nothing
  Bytes resident;    // in local DRAM, without a valid far copy
  Bytes clean_copy;  // in local DRAM, and its far copy is still valid
  Bytes moving_out;  // being demoted; still in local DRAM
  Bytes far;
  Bytes fetching;  // on its way home
  Bytes released;  // given back by the guest
  Bytes excluded;  // never moved

  Bytes sum() const { return untouched + resident + clean_copy + moving_out + far + fetching + released + excluded; }
};

struct VmEventCount {
  const char* kind;  // a word of docs/metrics.md
  std::uint64_t count;
};

// What a VM in dry-run mode would be like.
struct DryRunSample {
  Bytes far;
  double stall = 0;  // share of its threads' time
};

struct VmSample {
  std::string name;  // the `vm` label of all its series; unique
  std::string uuid;  // empty where the process has none
  std::string service_class;
  std::string mode;       // "observe", "active"
  std::string mechanism;  // "pager", "kernel"

  VmMemoryStates memory;
  Bytes guarantee;
  Bytes guarantee_shortfall;  // guaranteed and touched memory that is not resident
  Bytes demoted;              // total since adoption
  Bytes promoted_demand;      // totals since adoption, by what brought the page home
  Bytes promoted_prefetch;
  Bytes promoted_restore;
  std::uint64_t prefetch_issued = 0;        // pages fetched ahead
  std::uint64_t prefetch_used = 0;          // of those left far to learn from it: were used all the same
  std::uint64_t prefetch_wasted = 0;        // were not
  std::uint64_t prefetch_window = 0;        // pages that are fetched ahead of a stream at most
  std::uint64_t faults_far = 0;             // a far page was touched
  std::uint64_t faults_first = 0;           // an untouched page was touched
  std::uint64_t faults_write = 0;           // a write met write protection
  std::uint64_t faults_minor = 0;           // a cached page had to be mapped again
  std::chrono::nanoseconds fault_stall{0};  // summed over its threads since adoption
  unsigned fault_threads = 1;               // of it that can wait at once
  double stall_budget = 0;                  // share of time that each of them may wait
  std::optional<DryRunSample> dry_run;      // in that mode only
  std::vector<std::string> blocked;         // stable words: why nothing (more) moves
  std::vector<VmEventCount> pager_events;   // what the pager met that is neither a fault nor a move
};

// Latencies of faults on far pages. Give one per VM, and one per tier and class for the VMs that are gone: their faults
// happened, and the exported histogram, which is merged by tier and class, may not shrink.
struct FaultLatencySample {
  std::string tier;  // where the page came from: "mapped", "compressed"
  std::string service_class;
  LatencyHistogram::Snapshot latency;
};

struct StoreSample {
  std::string name;
  Bytes used;
  Bytes capacity;
};

struct TrackerSample {
  std::string name;  // "fault-sampling", "damon"
  bool usable = false;
  std::chrono::nanoseconds cpu{0};  // total
  bool used = false;
  std::uint64_t samples = 0;
  std::uint64_t self_checks_failed = 0;
  std::uint64_t lost = 0;
  std::uint64_t malformed = 0;
};

// Samples that nobody could make use of.
struct DroppedSamples {
  std::uint64_t malformed = 0;
  std::uint64_t unknown = 0;  // of memory that is not, or no longer, there
};

// Counts with one or two labels of a closed vocabulary.
struct DecisionCount {
  std::string action;
  std::string reason;
  std::uint64_t count = 0;
};
struct AdoptionCount {
  std::string result;  // "adopted", "refused", "failed"
  std::string reason;  // stable word; empty when adopted
  std::uint64_t count = 0;
};
struct IntegrityFailureCount {
  std::string cause;
  std::uint64_t count = 0;
};

// What policy was told and did not believe.
struct DroppedInputCount {
  std::string cause;
  std::uint64_t count = 0;
};

// DRAM that Tidepool itself takes on this host.
struct OverheadSample {
  Bytes pool;
  Bytes kernel;
  Bytes metadata;
  Bytes frames;
  Bytes agent;
  Bytes keeper;
};

struct HostSample {
  std::string version;
  bool config_last_reload_successful = true;
  Bytes promised;  // to all adopted VMs
  OverheadSample overhead;
  Bytes evacuation_shortfall;  // of what is far, this much would not fit back
  int pressure_level = 0;      // 0 none .. 4 refuse new VMs
  std::string holder;          // of descriptors: "keeper", "systemd"
  bool holder_usable = true;
  std::uint64_t holder_losses = 0;
  std::vector<DecisionCount> decisions;
  std::vector<IntegrityFailureCount> integrity_failures;
  std::vector<DroppedInputCount> policy_input_dropped;
  std::vector<AdoptionCount> adoptions;
  LatencyHistogram::Snapshot adoption_stop;  // time that a thread of the target stood still
  LatencyHistogram::Snapshot policy_tick;
  std::chrono::nanoseconds kernel_tier_fault{0};  // measured by a probe; 0: not known
  std::chrono::nanoseconds kernel_tier_store{0};
  std::chrono::nanoseconds kernel_tier_cpu{0};  // total
  std::vector<TrackerSample> trackers;
  DroppedSamples dropped_samples;
};

struct MemoryServerSample {
  std::string name;
  bool up = false;
  std::uint64_t slices = 0;
  std::chrono::nanoseconds typical_read{0};  // 0: not known
  std::uint64_t reads_in_place = 0;          // total, out of memory that it handed over
  std::uint64_t wrong_answers = 0;           // total
  std::uint64_t restarts = 0;                // total, that cost it its pages
};

// A pool at memory servers.
struct ServerPoolSample {
  std::vector<MemoryServerSample> servers;
  std::uint64_t whole_slices = 0;
  std::uint64_t degraded_slices = 0;  // with fewer replicas than wanted
  std::uint64_t lost_slices = 0;
  std::uint64_t expired_slices = 0;  // in addition: whose lease is over
  Bytes rebuild_remaining;
  std::uint64_t rebuilt_pages = 0;    // total
  std::uint64_t failed_rebuilds = 0;  // total
  std::uint64_t lost_pages = 0;       // total
  std::uint64_t hedges = 0;           // total
  std::uint64_t hedges_won = 0;       // total
};

struct MetricsSnapshot {
  HostSample host;
  std::vector<VmSample> vms;
  std::vector<StoreSample> stores;
  std::optional<ServerPoolSample> server_pool;
  std::vector<FaultLatencySample> fault_latency;
};

}  // namespace tidepool::telemetry
