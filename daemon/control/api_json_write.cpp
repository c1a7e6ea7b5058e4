#include <array>
#include <boost/json.hpp>

#include "base/quantity_text.h"
#include "daemon/control/api_error.h"
#include "daemon/control/api_json.h"
#include "daemon/control/config_schema.h"

namespace tidepool::daemon {
namespace {

namespace json = boost::json;

std::string_view text_of(Verdict verdict) {
  switch (verdict) {
    case Verdict::kOk:
      return "ok";
    case Verdict::kSafe:
      return "safe";
    case Verdict::kWarn:
      return "warn";
    case Verdict::kFail:
      return "fail";
  }
  return "fail";
}

std::string_view text_of(FindingKind kind) {
  switch (kind) {
    case FindingKind::kRefusal:
      return "refusal";
    case FindingKind::kWarning:
      return "warning";
    case FindingKind::kNote:
      return "note";
  }
  return "refusal";
}

std::string_view text_of(OperationKind kind) {
  switch (kind) {
    case OperationKind::kAdopt:
      return "adopt";
    case OperationKind::kRelease:
      return "release";
    case OperationKind::kEvacuate:
      return "evacuate";
    case OperationKind::kRecord:
      return "record";
  }
  return "adopt";
}

std::string_view text_of(OperationState state) {
  switch (state) {
    case OperationState::kRunning:
      return "running";
    case OperationState::kSucceeded:
      return "succeeded";
    case OperationState::kFailed:
      return "failed";
    case OperationState::kRefused:
      return "refused";
    case OperationState::kPartial:
      return "partial";
  }
  return "failed";
}

std::string_view text_of(VmState state) {
  switch (state) {
    case VmState::kOk:
      return "ok";
    case VmState::kAdopting:
      return "adopting";
    case VmState::kReleasing:
      return "releasing";
    case VmState::kHeld:
      return "held";
    case VmState::kFrozen:
      return "frozen";
    case VmState::kStopped:
      return "stopped";
    case VmState::kDegraded:
      return "degraded";
    case VmState::kIntegrity:
      return "integrity";
    case VmState::kGone:
      return "gone";
  }
  return "degraded";
}

template <class T>
json::array list_of(const std::vector<T>& items) {
  json::array list;
  list.reserve(items.size());
  for (const T& item : items) {
    if constexpr (std::is_same_v<T, std::string>) {
      list.emplace_back(item);
    } else {
      list.emplace_back(to_json(item));
    }
  }
  return list;
}

json::object range_of(AddressRange range) {
  return {{"start", range.start}, {"end", range.end}};
}

json::object mapping_of(const VmMappingStatus& mapping) {
  return {{"range", range_of(mapping.range)},
          {"size_bytes", mapping.range.size()},
          {"kind", mapping.kind},
          {"description", mapping.description},
          {"dropper", mapping.dropper},
          {"page_size_bytes", mapping.page_size.value}};
}

json::array mappings_of(const std::vector<VmMappingStatus>& mappings) {
  json::array list;
  for (const VmMappingStatus& mapping : mappings) list.emplace_back(mapping_of(mapping));
  return list;
}

json::object memory_of(const VmMemory& memory) {
  return {{"promised_bytes", memory.promised().value},
          {"in_dram_bytes", memory.in_dram().value},
          {"untouched_bytes", memory.untouched.value},
          {"resident_bytes", memory.resident.value},
          {"clean_copy_bytes", memory.clean_copy.value},
          {"moving_out_bytes", memory.moving_out.value},
          {"far_bytes", memory.far.value},
          {"fetching_bytes", memory.fetching.value},
          {"released_bytes", memory.released.value},
          {"excluded_bytes", memory.excluded.value}};
}

}  // namespace

json::object to_json(const DoctorReport& report) {
  json::array rows;
  for (const DoctorRow& row : report.rows)
    rows.push_back(
        {{"verdict", text_of(row.verdict)}, {"check", row.check}, {"detail", row.detail}, {"hint", row.hint}});
  return {{"kernel", report.kernel}, {"rows", std::move(rows)}};
}

std::string doctor_document(const DoctorReport& report) {
  return json::serialize(to_json(report));
}

json::object to_json(const HealthReport& report) {
  json::array checks;
  for (const HealthCheck& check : report.checks)
    checks.push_back({{"name", check.name}, {"healthy", check.healthy}, {"detail", check.detail}});
  return {{"healthy", report.healthy()}, {"checks", std::move(checks)}};
}

json::object to_json(const Finding& finding) {
  return {{"kind", text_of(finding.kind)},
          {"code", finding.code},
          {"message", finding.message},
          {"remedy", finding.remedy},
          {"forceable", finding.forceable}};
}

json::object to_json(const Operation& operation) {
  json::object result{{"id", operation.id},
                      {"kind", text_of(operation.kind)},
                      {"state", text_of(operation.state)},
                      {"finished", operation.finished()},
                      {"vm", operation.vm},
                      {"step", operation.step},
                      {"progress", operation.progress},
                      {"done_bytes", operation.done.value},
                      {"total_bytes", operation.total.value},
                      {"started", rfc3339(operation.started)},
                      {"findings", list_of(operation.findings)}};
  result["ended"] = operation.ended ? json::value(rfc3339(*operation.ended)) : json::value(nullptr);
  result["error"] =
      operation.error ? json::value(error_object(*operation.error, operation.findings)) : json::value(nullptr);
  return result;
}

json::object to_json(const VmPolicy& policy) {
  json::object result{{"mode", text_of(policy.mode)},
                      {"class", policy.service_class},
                      {"guarantee_bytes", policy.guarantee.value},
                      {"stall_budget", policy.stall_budget},
                      {"min_cold_age_ms", policy.min_cold_age.count()}};
  result["limit_bytes"] = policy.limit ? json::value(policy.limit->value) : json::value(nullptr);
  return result;
}

json::object to_json(const VmStatus& vm) {
  return {{"name", vm.name},
          {"uuid", vm.uuid},
          {"pid", vm.pid},
          {"start_time", vm.start_time},
          {"exe", vm.exe},
          {"uid", vm.uid},
          {"origin", vm.origin},
          {"mechanism", vm.mechanism},
          {"state", text_of(vm.state)},
          {"held", vm.held},
          {"hold_reason", vm.hold_reason},
          {"settings", to_json(vm.policy)},
          {"memory", memory_of(vm.memory)},
          {"far_swapped_bytes", vm.far_swapped.value},
          {"far_stored_bytes", vm.far_stored.value},
          {"metadata_bytes", vm.metadata.value},
          {"stall", vm.stall},
          {"faults_per_second", vm.faults_per_second},
          {"fault_p50_ns", vm.fault_p50.count()},
          {"fault_p99_ns", vm.fault_p99.count()},
          {"faults_total", vm.faults},
          {"demoted_bytes_total", vm.demoted.value},
          {"promoted_bytes_total", vm.promoted.value},
          {"blocked", list_of(vm.blocked)},
          {"mappings", mappings_of(vm.mappings)},
          {"adopted_at", rfc3339(vm.adopted_at)}};
}

json::object to_json(const AdoptOutcome& outcome) {
  return {{"eligible", outcome.eligible},
          {"name", outcome.name},
          {"pid", outcome.pid},
          {"exe", outcome.exe},
          {"mappings", mappings_of(outcome.mappings)},
          {"findings", list_of(outcome.findings)}};
}

json::object to_json(const RefusedProcess& process) {
  return {{"name", process.name}, {"pid", process.pid}, {"exe", process.exe}, {"reason", process.reason}};
}

json::object to_json(const VmEvent& event) {
  return {{"sequence", event.sequence},
          {"at", rfc3339(event.at)},
          {"vm", event.vm},
          {"kind", event.kind},
          {"message", event.message}};
}

json::object to_json(const Decision& decision) {
  return {{"sequence", decision.sequence}, {"at", rfc3339(decision.at)},         {"vm", decision.vm},
          {"action", decision.action},     {"reason", decision.reason},          {"detail", decision.detail},
          {"bytes", decision.bytes.value}, {"carried_out", decision.carried_out}};
}

json::object to_json(const Explanation& explanation) {
  return {{"vm", explanation.vm}, {"sentences", list_of(explanation.sentences)}};
}

json::object to_json(const ChangeReport& report) {
  json::array lines;
  for (const ChangeReport::Line& line : report.lines)
    lines.push_back({{"what", line.what}, {"before", line.before}, {"after", line.after}});
  return {{"allowed", report.allowed},
          {"applied", report.applied},
          {"changes", std::move(lines)},
          {"arithmetic", report.arithmetic},
          {"remedy", report.remedy}};
}

json::object to_json(const HostStatus& host) {
  return {{"hostname", host.hostname},
          {"dram_bytes", host.dram.value},
          {"available_bytes", host.available.value},
          {"reserve_bytes", host.reserve.value},
          {"max_far_bytes", host.max_far.value},
          {"promised_bytes", host.promised.value},
          {"touched_bytes", host.touched.value},
          {"resident_bytes", host.resident.value},
          {"far_bytes", host.far.value},
          {"overhead",
           {{"pool_bytes", host.overhead.pool.value},
            {"kernel_bytes", host.overhead.kernel.value},
            {"metadata_bytes", host.overhead.metadata.value},
            {"frames_bytes", host.overhead.frames.value},
            {"agent_bytes", host.overhead.agent.value},
            {"keeper_bytes", host.overhead.keeper.value},
            {"total_bytes", host.overhead.total().value}}},
          {"net_saved_bytes", host.net_saved},
          {"pressure_level", host.pressure_level},
          {"frozen", host.frozen},
          {"frozen_by", host.frozen_by}};
}

json::object to_json(const AgentStatus& status) {
  return {{"version", status.version},
          {"mode", text_of(status.mode)},
          {"pid", status.pid},
          {"started", rfc3339(status.started)},
          {"fd_holder", status.fd_holder},
          {"vms_active", status.vms_active},
          {"vms_observed", status.vms_observed},
          {"host", to_json(status.host)},
          {"evacuation_shortfall_bytes", status.evacuation_shortfall.value},
          {"config_last_reload_ok", status.config_last_reload_ok}};
}

json::object to_json(const EvacuationReport& report) {
  json::array vms;
  for (const EvacuationVm& vm : report.vms)
    vms.push_back(
        {{"vm", vm.vm}, {"far_bytes", vm.far.value}, {"estimate_ms", vm.estimate.count()}, {"obstacle", vm.obstacle}});
  return {{"possible", report.possible},
          {"far_bytes", report.far.value},
          {"available_bytes", report.available.value},
          {"shortfall_bytes", report.shortfall.value},
          {"estimate_ms", report.estimate.count()},
          {"vms", std::move(vms)}};
}

json::object to_json(const FitReport& report) {
  return {{"fits", report.fits},
          {"capacity_bytes", report.capacity.value},
          {"guaranteed_bytes", report.guaranteed.value},
          {"oversubscribed_bytes", report.oversubscribed.value},
          {"window", report.window},
          {"spare_bytes", report.spare.value},
          {"shortfall_bytes", report.shortfall.value},
          {"arithmetic", report.arithmetic}};
}

json::object to_json(const KernelTierStatus& tier) {
  return {{"kind", tier.kind},
          {"refused", tier.refused},
          {"capacity_bytes", tier.capacity.value},
          {"free_bytes", tier.free.value},
          {"stored_bytes", tier.stored.value},
          {"dram_bytes", tier.dram.value},
          {"far_bytes", tier.far.value},
          {"fault_cost_ns", tier.fault_cost.count()},
          {"store_cost_ns", tier.store_cost.count()},
          {"trouble", tier.trouble}};
}

json::value to_json(const PoolControllerStatus& controller) {
  if (!controller.present) return nullptr;
  return json::object{{"answers", controller.answers},
                      {"why", controller.why},
                      {"silent_ns", controller.silent.count()},
                      {"held_bytes", controller.held.value},
                      {"share_bytes", controller.share.value},
                      {"to_give_back_bytes", controller.to_give_back.value},
                      {"unknown_slices", controller.unknown_slices},
                      {"strays", controller.strays},
                      {"refusal", controller.refusal}};
}

json::object to_json(const PoolStatus& pool) {
  json::array servers;
  for (const PoolServerStatus& server : pool.servers) {
    servers.push_back(json::object{{"name", server.name},
                                   {"up", server.up},
                                   {"draining", server.draining},
                                   {"why", server.why},
                                   {"slices", server.slices},
                                   {"typical_read_ns", server.typical_read.count()},
                                   {"reads_in_place_total", server.reads_in_place},
                                   {"wrong_answers_total", server.wrong_answers},
                                   {"restarts_total", server.restarts}});
  }
  return {{"store", pool.store},
          {"backing", pool.backing},
          {"capacity_bytes", pool.capacity.value},
          {"used_bytes", pool.used.value},
          {"stored_bytes", pool.stored.value},
          {"pages", pool.pages},
          {"incompressible_total", pool.incompressible},
          {"integrity_failures_total", pool.integrity_failures},
          {"kernel", to_json(pool.kernel)},
          {"servers", std::move(servers)},
          {"slices", pool.slices},
          {"degraded_slices", pool.degraded_slices},
          {"lost_slices", pool.lost_slices},
          {"filling_slices", pool.filling_slices},
          {"expired_slices", pool.expired_slices},
          {"rebuild_remaining_bytes", pool.rebuild_remaining.value},
          {"closing_slices", pool.closing_slices},
          {"closing_bytes", pool.closing.value},
          {"controller", to_json(pool.controller)},
          {"lost_pages_total", pool.lost_pages}};
}

json::object to_json(const RunningConfig& running) {
  json::object values;
  for (const auto& [key, value] : config_entries(running.config)) values[key] = value;
  return {{"path", running.path},
          {"loaded", rfc3339(running.loaded)},
          {"last_reload_ok", running.last_reload_ok},
          {"last_reload_error", running.last_reload_error},
          {"restart_pending", list_of(running.restart_pending)},
          {"values", std::move(values)}};
}

}  // namespace tidepool::daemon
