// The admin API's calls about the agent itself and its host.
#include <unistd.h>

#include <thread>

#include "base/quantity_text.h"
#include "daemon/agent/agent_impl.h"
#include "daemon/vm/doctor.h"
#include "kmod-interfaces/kernel_features.h"

namespace tidepool::daemon {
namespace {

// Fault loops go round twice a second.
constexpr auto kStandstill = std::chrono::seconds(20);

}  // namespace

Result<DoctorReport> AgentImpl::doctor() {
  DoctorReport report = diagnose(kernel::probe_kernel_features(context_.roots));
  const EvacuationReport evacuation = evacuation_report(context_);
  report.rows.push_back({evacuation.possible ? Verdict::kSafe : Verdict::kFail, "evacuation",
                         "far " + short_text(evacuation.far) + ", free " + short_text(evacuation.available),
                         evacuation.possible ? "" : "free " + short_text(evacuation.shortfall) + " of memory"});
  return report;
}

Result<HealthReport> AgentImpl::health() {
  HealthReport report;
  const bool serves = watchdog_->silence() < kStandstill;
  report.checks.push_back({"fault-loop", serves, serves ? "going round" : "stands still"});
  const bool decides = driver_->alive();
  report.checks.push_back({"policy", decides, decides ? "ticking" : "stands still"});
  const std::string trouble = context_.clerk->trouble();
  report.checks.push_back({"holder", trouble.empty(), trouble.empty() ? context_.clerk->kind() : trouble});
  const pool::StoreErrors errors = context_.pool->errors();
  report.checks.push_back(
      {"pool", errors.corrupt_pages == 0, std::to_string(errors.corrupt_pages) + " pages failed their checksum"});
  {
    const std::lock_guard lock(mutex_);
    report.checks.push_back({"audit-log", audit_trouble_.empty(), audit_trouble_.empty() ? "written" : audit_trouble_});
  }
  const EvacuationReport evacuation = evacuation_report(context_);
  report.checks.push_back({"evacuation", evacuation.possible,
                           "far " + short_text(evacuation.far) + ", room " + short_text(evacuation.available)});
  for (const auto& vm : context_.vms.all()) {
    const VmStatus status = status_of(context_, *vm, false);
    if (status.state == VmState::kIntegrity || status.state == VmState::kDegraded) {
      report.checks.push_back({"vm:" + vm->name, false,
                               status.state == VmState::kIntegrity ? "stopped: a far page is damaged or lost"
                               : vm->memory && vm->memory->blocked_by == kStoreAway
                                   ? "waits for far pages that no memory server gives now"
                                   : "degraded"});
    }
  }
  return report;
}

Result<AgentStatus> AgentImpl::status() {
  AgentStatus status;
  status.version = TIDEPOOL_VERSION;
  status.mode = context_.config().mode;
  status.pid = ::getpid();
  status.started = started_;
  status.fd_holder = context_.clerk->kind();
  for (const auto& vm : context_.vms.all()) {
    const std::lock_guard lock(vm->mutex);
    (vm->policy.mode == Mode::kActive ? status.vms_active : status.vms_observed) += 1;
  }
  status.host = host_status(context_, *driver_);
  status.evacuation_shortfall = evacuation_report(context_).shortfall;
  const std::lock_guard lock(mutex_);
  status.host.frozen_by = frozen_by_;
  status.config_last_reload_ok = reload_error_.empty();
  return status;
}

Result<RunningConfig> AgentImpl::config_show() {
  const std::lock_guard lock(mutex_);
  return RunningConfig{path_, context_.config(), loaded_, reload_error_.empty(), reload_error_, restart_pending_};
}

Result<HostStatus> AgentImpl::host_show() {
  return host_status(context_, *driver_);
}

Result<> AgentImpl::host_freeze(const Caller& caller) {
  context_.frozen = true;
  update_freeze();
  const std::lock_guard lock(mutex_);
  frozen_by_ = "uid " + std::to_string(caller.uid) + ", pid " + std::to_string(caller.pid);
  context_.event("", "frozen", frozen_by_);
  return {};
}

Result<> AgentImpl::host_thaw(const Caller& caller) {
  context_.frozen = false;
  update_freeze();
  const std::lock_guard lock(mutex_);
  frozen_by_.clear();
  context_.event("", "thawed", "uid " + std::to_string(caller.uid) + ", pid " + std::to_string(caller.pid));
  return {};
}

Result<FitReport> AgentImpl::host_fits(Bytes guaranteed, Bytes oversubscribed) {
  policy::Fit fit = driver_->fits(guaranteed, oversubscribed);
  return FitReport{fit.fits,   fit.capacity, fit.guaranteed, fit.oversubscribed,
                   fit.window, fit.spare,    fit.shortfall,  std::move(fit.arithmetic)};
}

Result<EvacuationReport> AgentImpl::host_evacuation_plan() {
  return evacuation_report(context_);
}

Result<Operation> AgentImpl::host_evacuate() {
  return operations_->start(OperationKind::kEvacuate, "", "bringing everything home",
                            [this](const Operations::Handle& handle) { return evacuate(handle); });
}

Result<> AgentImpl::evacuate(const Operations::Handle& handle) {
  const auto vms = context_.vms.all();
  for (const auto& vm : vms) {
    const std::lock_guard lock(vm->mutex);
    vm->policy.mode = Mode::kObserve;
    // What is on its way out must not arrive there behind our back.
    vm->evacuating = true;
    vm->settle_demotion();
  }
  const auto far = [&] {
    std::uint64_t pages = 0;
    for (const auto& vm : vms) {
      if (vm->by_kernel() && !vm->dead()) pages += vm->swapped().value >> kPageShift;
      if (vm->memory && !vm->memory->dead)
        pages += vm->memory->count(PageState::kFar) + vm->memory->count(PageState::kFetching) +
                 vm->memory->count(PageState::kDropping);
    }
    return to_bytes(PageCount{pages});
  };
  // Regions that were ordered out before: they are let go of, or end.
  const auto leaving = [&] {
    return std::ranges::any_of(vms, [](const auto& vm) {
      return !vm->dead() && ((vm->memory && vm->memory->demotions_in_flight != 0) ||
                             (vm->by_kernel() && vm->by_kernel()->moves_in_flight != 0));
    });
  };
  const Bytes total = far();
  Result<> result;
  auto under_way = std::make_shared<std::atomic<std::size_t>>(0);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(10);
  for (Bytes left = far(); left != Bytes{} || leaving(); left = far()) {
    handle.step("bringing everything home", saturating_sub(total, left), total);
    if (std::chrono::steady_clock::now() > deadline || context_.stopping) {
      result = failure(std::errc::timed_out, "bring home", short_text(left),
                       "tidectl host evacuate --plan names the obstacles");
      break;
    }
    // Once more when all have ended: a drop that was under way may have made a page far since.
    for (const auto& vm : vms) {
      if (*under_way != 0 && vm == vms.front()) break;
      if (vm->by_kernel()) {
        context_.swap_mover->bring_home(
            vm->by_kernel(), [&](Bytes) { return !context_.stopping && std::chrono::steady_clock::now() < deadline; });
      }
      if (vm->workload) continue;
      for (const auto& object : vm->memory->objects) {
        ++*under_way;
        context_.pager->restore(vm->memory, object.get(), {PageRun{PageIndex{0}, object->map->pages().value}},
                                RestoreKind::kAsked, [under_way](std::uint64_t) { --*under_way; });
      }
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  for (const auto& vm : vms) {
    const std::lock_guard lock(vm->mutex);
    vm->evacuating = false;
    vm->settle_demotion();
  }
  return result;
}

Result<Operation> AgentImpl::operation(std::string_view id) {
  return operations_->find(id);
}

void AgentImpl::audit_trouble(std::string_view problem) {
  const std::lock_guard lock(mutex_);
  audit_trouble_ = problem;
}

}  // namespace tidepool::daemon
