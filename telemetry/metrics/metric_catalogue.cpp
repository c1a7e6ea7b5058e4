#include "telemetry/metrics/metric_catalogue.h"

#include <array>

namespace tidepool::telemetry {
namespace {

using enum MetricKind;

constexpr std::array kCatalogue{
    MetricDescription{"tidepool_build_info", kGauge, "version", "Always 1; the agent's version is in the label."},
    MetricDescription{"tidepool_config_last_reload_successful", kGauge, "",
                      "1 if the last load of the configuration was accepted, else 0."},
    MetricDescription{"tidepool_host_promised_bytes", kGauge, "", "Memory promised to all adopted VMs."},
    MetricDescription{"tidepool_host_overhead_bytes", kGauge, "component", "Local DRAM that Tidepool itself takes."},
    MetricDescription{"tidepool_host_evacuation_shortfall_bytes", kGauge, "",
                      "Far memory that would not fit back into local DRAM now."},
    MetricDescription{"tidepool_host_pressure_level", kGauge, "",
                      "Memory pressure of the host: 0 none to 4 new VMs are refused."},
    MetricDescription{"tidepool_vm_info", kGauge, "vm,uuid,class,mode,mechanism",
                      "Always 1; what the VM is, in the labels."},
    MetricDescription{"tidepool_vm_memory_bytes", kGauge, "vm,state",
                      "Adopted memory by state; the states of a VM add up to what was promised."},
    MetricDescription{"tidepool_vm_guarantee_bytes", kGauge, "vm", "Resident memory that policy never takes."},
    MetricDescription{"tidepool_vm_guarantee_shortfall_bytes", kGauge, "vm",
                      "Guaranteed and touched memory that is not resident."},
    MetricDescription{"tidepool_vm_demoted_bytes_total", kCounter, "vm", "Memory moved out to the pool."},
    MetricDescription{"tidepool_vm_promoted_bytes_total", kCounter, "vm,cause", "Memory brought home from the pool."},
    MetricDescription{"tidepool_prefetch_pages_total", kCounter, "vm,result",
                      "Pages fetched ahead, and what became of a sample that was left far to learn from it."},
    MetricDescription{"tidepool_prefetch_window_bytes", kGauge, "vm",
                      "Memory that is fetched ahead of a stream at most; 0 while it does not pay."},
    MetricDescription{"tidepool_vm_faults_total", kCounter, "vm,kind", "Faults that the agent answered."},
    MetricDescription{"tidepool_vm_pager_events_total", kCounter, "vm,kind",
                      "What the pager met that is neither a fault nor a move."},
    MetricDescription{"tidepool_vm_fault_stall_seconds_total", kCounter, "vm",
                      "Time that the VM's threads waited in faults, summed over threads."},
    MetricDescription{"tidepool_vm_fault_threads", kGauge, "vm",
                      "Threads of the VM that can wait in faults at once: its vCPUs, or at most the host's."},
    MetricDescription{"tidepool_vm_stall_budget_ratio", kGauge, "vm",
                      "Share of time that each of the VM's threads may wait in faults, on average."},
    MetricDescription{"tidepool_vm_dry_run_far_bytes", kGauge, "vm",
                      "Memory that would be far, were the VM active; in dry-run mode only."},
    MetricDescription{"tidepool_vm_dry_run_stall_ratio", kGauge, "vm",
                      "Share of time that its threads would wait for it; in dry-run mode only."},
    MetricDescription{"tidepool_vm_blocked", kGauge, "vm,reason",
                      "1 while this reason keeps the VM's memory from moving; absent otherwise."},
    MetricDescription{"tidepool_fault_duration_seconds", kHistogram, "tier,class",
                      "Faults on far pages, from reading the event to the answer."},
    MetricDescription{"tidepool_kernel_tier_fault_seconds", kGauge, "",
                      "Wait for a page that the kernel has in swap, as a probe measured it."},
    MetricDescription{"tidepool_kernel_tier_store_seconds", kGauge, "",
                      "Work for a page that the kernel puts into swap, as a probe measured it."},
    MetricDescription{"tidepool_kernel_tier_cpu_seconds_total", kCounter, "",
                      "CPU time spent looking where workloads' pages are."},
    MetricDescription{"tidepool_decisions_total", kCounter, "action,reason", "Decisions of the policy."},
    MetricDescription{"tidepool_integrity_failures_total", kCounter, "cause",
                      "Pages whose content failed verification."},
    MetricDescription{"tidepool_holder_usable", kGauge, "holder",
                      "1 while somebody holds all that VMs depend on should the agent die, else 0."},
    MetricDescription{"tidepool_holder_losses_total", kCounter, "holder",
                      "How often whoever holds the VMs' descriptors has gone."},
    MetricDescription{"tidepool_adoptions_total", kCounter, "result,reason", "Attempts to adopt a process."},
    MetricDescription{"tidepool_adoption_stop_seconds", kHistogram, "",
                      "Time that a thread of the target stood still for an adoption."},
    MetricDescription{"tidepool_tracker_usable", kGauge, "tracker",
                      "1 if this tracker of hot memory can be used on this host, else 0."},
    MetricDescription{"tidepool_tracker_used", kGauge, "tracker", "1 while this tracker watches memory, else 0."},
    MetricDescription{"tidepool_tracker_cpu_seconds_total", kCounter, "tracker", "CPU time spent by this tracker."},
    MetricDescription{"tidepool_tracker_samples_total", kCounter, "tracker", "Samples that this tracker gave."},
    MetricDescription{"tidepool_tracker_self_check_failures_total", kCounter, "tracker",
                      "Self-checks in which this tracker did not see the truth."},
    MetricDescription{"tidepool_tracker_lost_total", kCounter, "tracker",
                      "Accesses that this tracker noticed and lost, because nothing had room for them."},
    MetricDescription{"tidepool_tracker_malformed_total", kCounter, "tracker",
                      "What the kernel told this tracker that contradicts itself, and was left out."},
    MetricDescription{"tidepool_samples_dropped_total", kCounter, "reason",
                      "Samples that contradict themselves (malformed) or are of memory that is gone (unknown)."},
    MetricDescription{"tidepool_store_used_bytes", kGauge, "store",
                      "Used part of the store's capacity, its own waste included."},
    MetricDescription{"tidepool_store_capacity_bytes", kGauge, "store", "Capacity of the store."},
    MetricDescription{"tidepool_memory_server_up", kGauge, "server",
                      "1 while every VM that has pages at this memory server reaches it, else 0."},
    MetricDescription{"tidepool_memory_server_slices", kGauge, "server", "Slices leased of this memory server."},
    MetricDescription{"tidepool_memory_server_read_seconds", kGauge, "server",
                      "Median of recent reads of one page from this memory server, of the VM that waits longest."},
    MetricDescription{"tidepool_memory_server_reads_in_place_total", kCounter, "server",
                      "Reads of pages out of memory that this memory server, on this host, has handed over."},
    MetricDescription{"tidepool_memory_server_wrong_answers_total", kCounter, "server",
                      "Pages that this memory server gave and that were not what was sealed."},
    MetricDescription{"tidepool_memory_server_restarts_total", kCounter, "server",
                      "How often this memory server came back without its pages."},
    MetricDescription{"tidepool_remote_slices", kGauge, "state",
                      "Slices at memory servers, by how many of their replicas there are."},
    MetricDescription{"tidepool_remote_expired_slices", kGauge, "",
                      "Slices at memory servers that take no page because a lease has run out."},
    MetricDescription{"tidepool_remote_rebuild_remaining_bytes", kGauge, "",
                      "Pages that replicas at memory servers lack, in bytes."},
    MetricDescription{"tidepool_remote_rebuilt_pages_total", kCounter, "",
                      "Pages copied from one memory server to another, for replicas made anew."},
    MetricDescription{"tidepool_remote_failed_rebuilds_total", kCounter, "",
                      "Replicas that were being made anew and were given up: another one is begun."},
    MetricDescription{"tidepool_remote_lost_pages_total", kCounter, "",
                      "Pages that were at memory servers when the last replica of their slice went."},
    MetricDescription{"tidepool_remote_hedged_reads_total", kCounter, "result",
                      "Reads asked of a second memory server because the first was late, by who answered first."},
    MetricDescription{
        "tidepool_policy_input_dropped_total", kCounter, "cause",
        "What policy was told and did not believe: region counters, values of VMs and host, a VM twice, jumps of "
        "the clock."},
    MetricDescription{"tidepool_policy_tick_seconds", kHistogram, "", "Duration of one round of the policy."},
    MetricDescription{"tidepool_metrics_dropped_series", kGauge, "",
                      "Series left out of this scrape: beyond the bound, or a label set seen before."},
};

}  // namespace

std::span<const MetricDescription> metric_catalogue() {
  return kCatalogue;
}

std::string_view word(MetricKind kind) {
  switch (kind) {
    case kGauge:
      return "gauge";
    case kCounter:
      return "counter";
    case kHistogram:
      return "histogram";
  }
  return "untyped";
}

}  // namespace tidepool::telemetry
