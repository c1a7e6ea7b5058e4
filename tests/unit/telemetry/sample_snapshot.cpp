#include "tests/unit/telemetry/sample_snapshot.h"

namespace tidepool::telemetry {

using namespace literals;
using namespace std::chrono_literals;

MetricsSnapshot sample_snapshot() {
  MetricsSnapshot snapshot;
  HostSample& host = snapshot.host;
  host.version = "0.1.0";
  host.promised = 8_GiB;
  host.overhead = {
      .pool = 700_MiB, .kernel = 30_MiB, .metadata = 16_MiB, .frames = 4_MiB, .agent = 20_MiB, .keeper = 1_MiB};
  host.evacuation_shortfall = 64_MiB;
  host.pressure_level = 2;
  host.decisions = {{"demote", "cold", 41}, {"none", "nothing-cold", 7}};
  host.integrity_failures = {{"checksum", 3}};
  host.policy_input_dropped = {{"counters", 7}};
  host.adoptions = {{"adopted", "", 5}, {"refused", "vfio", 2}};
  LatencyHistogram stops;
  stops.record(80us);
  host.adoption_stop = stops.snapshot();
  LatencyHistogram ticks;
  ticks.record(3ms);
  host.policy_tick = ticks.snapshot();
  host.kernel_tier_fault = 4us;
  host.kernel_tier_store = 5us;
  host.kernel_tier_cpu = 250ms;
  host.trackers = {{"fault-sampling", true, 1500ms, true, 77, 0}, {"damon", false, 0ms, false, 5, 3, 8, 9}};
  host.dropped_samples = {.malformed = 1, .unknown = 2};

  VmSample vm;
  vm.name = "web-3";
  vm.uuid = "4d3b9e6e-1111-4222-8333-944455566677";
  vm.service_class = "standard";
  vm.mode = "active";
  vm.mechanism = "pager";
  vm.memory = {.untouched = 1_GiB,
               .resident = 3_GiB,
               .clean_copy = 512_MiB,
               .moving_out = 2_MiB,
               .far = 3_GiB,
               .fetching = 4_KiB,
               .released = 510_MiB,
               .excluded = 8_KiB};
  vm.guarantee = 2_GiB;
  vm.guarantee_shortfall = 1_MiB;
  vm.demoted = 9_GiB;
  vm.promoted_demand = 5_GiB;
  vm.promoted_prefetch = 1_GiB;
  vm.prefetch_issued = 262144;
  vm.prefetch_used = 40;
  vm.prefetch_wasted = 3;
  vm.prefetch_window = 128;
  vm.dry_run = DryRunSample{2_GiB, 0.004};
  vm.promoted_restore = 12_KiB;
  vm.faults_far = 1310720;
  vm.faults_first = 11;
  vm.faults_write = 12;
  vm.faults_minor = 13;
  vm.pager_events = {{"discarded", 17}, {"out_of_memory", 0}};
  vm.fault_stall = 2500ms;
  vm.fault_threads = 4;
  vm.stall_budget = 0.01;
  vm.blocked = {"guarantee"};
  snapshot.vms.push_back(vm);

  LatencyHistogram faults;
  faults.record(20us);
  faults.record(900us);
  snapshot.fault_latency.push_back({"mapped", "standard", faults.snapshot()});
  snapshot.stores.push_back({"mapped", 3_GiB, 16_GiB});
  snapshot.server_pool = ServerPoolSample{{{"rack-a", true, 5, 80us, 1, 2}}, 4, 1, 0, 1, Bytes{4096}, 5, 1, 0, 7, 3};
  return snapshot;
}

}  // namespace tidepool::telemetry
