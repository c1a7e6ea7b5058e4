#include "daemon/agent/agent_metrics.h"

#include <algorithm>

#include "daemon/agent/agent_status.h"
#include "daemon/agent/kernel_tier_view.h"
#include "daemon/agent/policy_view.h"
#include "daemon/control/config_schema.h"
#include "telemetry/metrics/metrics_exporter.h"

namespace tidepool::daemon {
namespace {

telemetry::VmSample sample_of(const Context& context, const ManagedVm& vm) {
  const VmStatus status = status_of(context, vm, false);
  telemetry::VmSample sample;
  sample.name = status.name;
  sample.uuid = status.uuid;
  sample.service_class = status.policy.service_class;
  sample.mode = text_of(status.policy.mode);
  sample.mechanism = status.mechanism;
  sample.memory = {status.memory.untouched, status.memory.resident, status.memory.clean_copy, status.memory.moving_out,
                   status.memory.far,       status.memory.fetching, status.memory.released,   status.memory.excluded};
  sample.guarantee = status.policy.guarantee;
  const Bytes touched = status.memory.promised() - status.memory.untouched - status.memory.released;
  sample.guarantee_shortfall = saturating_sub(std::min(status.policy.guarantee, touched), status.memory.in_dram());
  sample.fault_threads = fault_threads_of(vm);
  sample.stall_budget = status.policy.stall_budget;
  sample.blocked = status.blocked;
  const auto pages = [](std::uint64_t count) { return to_bytes(PageCount{count}); };
  if (vm.workload) {
    const WorkloadCounters& kernel = vm.workload->counters;
    sample.demoted = pages(kernel.demoted_pages);
    sample.promoted_demand = pages(kernel.refaulted_pages);
    sample.promoted_restore = pages(kernel.restored_pages);
    sample.faults_far = kernel.swap_ins;
    sample.fault_stall = Nanoseconds{static_cast<std::int64_t>(kernel.stall_ns.load())};
    return sample;
  }
  const PagerCounters& counters = vm.memory->counters;
  sample.demoted = pages(counters.demoted_pages);
  sample.promoted_demand = pages(counters.promoted_demand);
  sample.promoted_prefetch = pages(counters.promoted_prefetch);
  sample.prefetch_issued = counters.promoted_prefetch;
  sample.prefetch_used = counters.prefetch_used;
  sample.prefetch_wasted = counters.prefetch_wasted;
  sample.prefetch_window = counters.prefetch_window;
  sample.promoted_restore = pages(counters.promoted_restore);
  sample.faults_far = counters.faults_far;
  sample.faults_first = counters.faults_first;
  sample.faults_write = counters.faults_write;
  sample.faults_minor = counters.faults_minor;
  sample.pager_events = {{"cancelled", counters.demotions_cancelled},
                         {"clean_drop", counters.clean_drops},
                         {"drop", counters.drops},
                         {"discarded", counters.discarded_pages},
                         {"unexplained_removal", counters.removals_unexplained},
                         {"child_lost", counters.children_lost},
                         {"fork", counters.forks},
                         {"store_full", counters.store_full},
                         {"changed_behind_protection", counters.verify_failures},
                         {"out_of_memory", counters.out_of_memory}};
  sample.fault_stall = Nanoseconds{static_cast<std::int64_t>(counters.stall_ns.load())};
  if (vm.beside) {
    const WorkloadCounters& kernel = vm.beside->counters;
    sample.demoted += pages(kernel.demoted_pages);
    sample.promoted_demand += pages(kernel.refaulted_pages);
    sample.promoted_restore += pages(kernel.restored_pages);
    sample.faults_far += kernel.swap_ins;
    sample.fault_stall += Nanoseconds{static_cast<std::int64_t>(kernel.stall_ns.load())};
  }
  return sample;
}

// Where the kernel has swap at all.
void add_kernel_tier(const Context& context, telemetry::MetricsSnapshot& snapshot) {
  const TierState tier = context.swap_mover->tier();
  if (tier.kernel.kind == kernel::SwapKind::kNone) return;
  const policy::TierView view = kernel_tier_view(context);
  snapshot.stores.push_back({std::string(kernel::name_of(tier.kernel.kind)), view.used, view.capacity});
  snapshot.host.kernel_tier_fault = tier.fault_cost;
  snapshot.host.kernel_tier_store = tier.store_cost;
  snapshot.host.kernel_tier_cpu = context.swap_mover->cpu();
}

telemetry::ServerPoolSample sample_of(const pool::RemoteFigures& figures) {
  telemetry::ServerPoolSample sample;
  for (const pool::RemoteServerFigures& server : figures.servers)
    sample.servers.push_back({.name = server.server,
                              .up = server.up,
                              .slices = server.slices,
                              .typical_read = server.link.typical_read,
                              .reads_in_place = server.link.from_files,
                              .wrong_answers = server.wrong_answers,
                              .restarts = server.boots});
  sample.degraded_slices = figures.degraded_slices;
  sample.lost_slices = figures.lost_slices;
  sample.whole_slices = figures.slices - std::min(figures.slices, figures.degraded_slices + figures.lost_slices);
  sample.expired_slices = figures.expired_slices;
  sample.rebuild_remaining = figures.rebuild_remaining;
  sample.rebuilt_pages = figures.rebuilt_pages;
  sample.failed_rebuilds = figures.rebuilds_failed;
  sample.lost_pages = figures.lost_pages;
  sample.hedges = figures.hedges;
  sample.hedges_won = figures.hedges_won;
  return sample;
}

telemetry::MetricsSnapshot snapshot_of(Context& context, const PolicyDriver& driver) {
  telemetry::MetricsSnapshot snapshot;
  const HostStatus host = host_status(context, driver);
  snapshot.host.version = TIDEPOOL_VERSION;
  snapshot.host.promised = host.promised;
  snapshot.host.overhead = {host.overhead.pool,   host.overhead.kernel, host.overhead.metadata,
                            host.overhead.frames, host.overhead.agent,  host.overhead.keeper};
  snapshot.host.evacuation_shortfall = evacuation_report(context).shortfall;
  snapshot.host.pressure_level = host.pressure_level;
  snapshot.host.config_last_reload_successful = context.reload_ok;
  snapshot.host.holder = context.clerk->kind();
  snapshot.host.holder_usable = context.clerk->holding();
  snapshot.host.holder_losses = context.holder_losses;
  for (const DecisionCount& count : driver.decision_counts()) {
    snapshot.host.decisions.push_back(
        {std::string(policy::word(count.action)), std::string(policy::word(count.reason)), count.count});
  }
  {
    const std::lock_guard lock(context.adoptions_mutex);
    const AdoptionCount& adoptions = context.adoptions;
    if (adoptions.succeeded != 0) snapshot.host.adoptions.push_back({"adopted", "", adoptions.succeeded});
    if (adoptions.failed != 0) snapshot.host.adoptions.push_back({"failed", "", adoptions.failed});
    for (const auto& [code, count] : adoptions.refused) snapshot.host.adoptions.push_back({"refused", code, count});
  }
  const policy::IntakeCounts intake = driver.intake();
  snapshot.host.policy_input_dropped = {{"counters", intake.news_absurd},
                                        {"values", intake.values_absurd},
                                        {"duplicates", intake.duplicate_vms},
                                        {"clock", intake.clock_jumps}};
  snapshot.host.integrity_failures.push_back({"checksum", context.pool->errors().corrupt_pages});
  snapshot.host.adoption_stop = context.adoption_stops.snapshot();
  snapshot.host.policy_tick = driver.tick_times().snapshot();
  for (const telemetry::TrackerStatus& tracker : driver.trackers()) {
    snapshot.host.trackers.push_back({tracker.info.name, tracker.info.usable, tracker.info.cpu, tracker.used,
                                      tracker.info.samples, tracker.info.self_checks_failed, tracker.info.lost,
                                      tracker.info.malformed});
  }
  snapshot.host.dropped_samples = driver.dropped_samples();
  const pool::StoreUsage usage = context.pool->usage();
  snapshot.stores.push_back({context.pool->kind(), usage.used, usage.capacity});
  if (const auto remote = context.pool->remote()) snapshot.server_pool = sample_of(*remote);
  add_kernel_tier(context, snapshot);
  for (const auto& vm : context.vms.all()) {
    snapshot.vms.push_back(sample_of(context, *vm));
    if (const auto paper = driver.dry_run(vm->number()))
      snapshot.vms.back().dry_run = telemetry::DryRunSample{paper->far, paper->stall};
    if (vm->workload) continue;  // its waits are not measured one by one
    snapshot.fault_latency.push_back(
        {context.pool->kind(), snapshot.vms.back().service_class, vm->memory->fault_latency.snapshot()});
  }
  return snapshot;
}

class Endpoint final : public AgentMetrics {
 public:
  explicit Endpoint(std::unique_ptr<telemetry::MetricsEndpoint> endpoint) : endpoint_(std::move(endpoint)) {}

 private:
  std::unique_ptr<telemetry::MetricsEndpoint> endpoint_;
};

}  // namespace

Result<std::unique_ptr<AgentMetrics>> AgentMetrics::serve(const std::string& address, Context& context,
                                                          PolicyDriver& driver) {
  if (address.empty()) return std::make_unique<Endpoint>(nullptr);
  auto endpoint =
      telemetry::MetricsEndpoint::serve(address, [&context, &driver] { return snapshot_of(context, driver); });
  if (!endpoint) return Failure{endpoint.error()};
  return std::make_unique<Endpoint>(std::move(*endpoint));
}

}  // namespace tidepool::daemon
