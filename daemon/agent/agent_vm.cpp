// The admin API's calls about VMs, and what is recorded of them.
#include <spdlog/spdlog.h>

#include "base/text.h"
#include "daemon/agent/agent_impl.h"
#include "daemon/agent/change_plan.h"
#include "daemon/agent/process_search.h"
#include "daemon/vm/vm_name.h"
#include "service/log.h"

namespace tidepool::daemon {
namespace {

Failure no_such_vm(std::string_view name) {
  return failure(std::errc::no_such_file_or_directory, "find VM", std::string(name),
                 "tidectl vm list shows the adopted ones");
}

}  // namespace

Result<std::shared_ptr<ManagedVm>> AgentImpl::need(std::string_view name) const {
  auto vm = context_.vms.find(name);
  if (vm == nullptr && is_uuid(name)) vm = context_.vms.find_uuid(lower_case(name));
  if (vm == nullptr) return no_such_vm(name);
  return vm;
}

// Of VMs that are gone as well: what was last with them is what one looks for.
template <class T>
Result<LogPage<T>> AgentImpl::log_of(const Record<T>& record, std::string_view vm, std::uint64_t since,
                                     std::size_t limit) const {
  if (vm.empty()) return record.since(vm, since, limit);
  const auto known = need(vm);
  const std::string name = known ? (*known)->name : std::string(vm);
  if (!known && !record.newest([&](const T& item) { return item.vm == name; })) return Failure{known.error()};
  return record.since(name, since, limit);
}

Result<std::vector<VmStatus>> AgentImpl::vm_list() {
  std::vector<VmStatus> list;
  for (const auto& vm : context_.vms.all()) list.push_back(status_of(context_, *vm, false));
  return list;
}

Result<VmStatus> AgentImpl::vm_show(std::string_view name) {
  auto vm = need(name);
  if (!vm) return Failure{vm.error()};
  return status_of(context_, **vm, true);
}

Result<AdoptOutcome> AgentImpl::vm_adopt_check(const AdoptRequest& request) {
  return adopter_.check(request);
}

Result<Operation> AgentImpl::vm_adopt(const AdoptRequest& request) {
  if (request.settings.mode == Mode::kActive) {
    if (auto allowed = canary_.allows(request.name); !allowed) return Failure{allowed.error()};
  }
  if (!request.cgroup.empty()) {
    if (auto members = processes_of_cgroup(context_.roots, request.cgroup); !members) return Failure{members.error()};
  }
  return operations_->start(
      OperationKind::kAdopt, request.name, "waiting", [this, request](const Operations::Handle& handle) -> Result<> {
        auto vm = adopter_.adopt(request, VmOrigin::kAsked, &handle);
        if (!vm) {
          spdlog::warn("msg=\"not adopted\" error={}", in_quotes(vm.error().message()));
          return Failure{vm.error()};
        }
        handle.update([&](Operation& operation) { operation.vm = (*vm)->name; });
        spdlog::info("msg=adopted vm={} pid={} stopped_us={}", (*vm)->name, (*vm)->id.pid,
                     std::chrono::duration_cast<std::chrono::microseconds>((*vm)->stopped).count());
        return {};
      });
}

Result<Operation> AgentImpl::vm_release(std::string_view name) {
  auto vm = need(name);
  if (!vm) return Failure{vm.error()};
  return operations_->start(OperationKind::kRelease, (*vm)->name, "bringing pages home",
                            [this, vm = *vm](const Operations::Handle& handle) -> Result<> {
                              auto_.leave_alone(vm->id);
                              return adopter_.release(vm, &handle);
                            });
}

Result<ChangeReport> AgentImpl::vm_set(std::string_view name, const VmSettings& settings, bool plan) {
  auto found = need(name);
  if (!found) return Failure{found.error()};
  ManagedVm& vm = **found;
  const Bytes promised = memory_of(vm).promised();
  SettingsPlan change;
  bool was_active = false;
  {
    const std::lock_guard lock(vm.mutex);
    was_active = vm.policy.mode == Mode::kActive;
    change = plan_settings(context_.config(), vm.policy, settings, promised, vm.immovable);
  }
  ChangeReport& report = change.report;
  if (report.allowed && change.after.mode == Mode::kActive && !was_active) {
    if (auto allowed = plan ? canary_.allows(vm.name) : canary_.activate(vm); !allowed) {
      report.allowed = false;
      report.arithmetic = allowed.error().remedy;
    }
  }
  if (plan || !report.allowed) return report;
  {
    const std::lock_guard lock(vm.mutex);
    vm.policy = change.after;
    vm.settle_demotion();
  }
  report.applied = true;
  for (const auto& changed : report.lines)
    context_.event(vm.name, "settings", changed.what + ": " + changed.before + " -> " + changed.after);
  return report;
}

Result<> AgentImpl::vm_hold(std::string_view name, std::string_view reason) {
  auto vm = need(name);
  if (!vm) return Failure{vm.error()};
  const std::lock_guard lock((*vm)->mutex);
  (*vm)->held = true;
  (*vm)->hold_reason = reason;
  (*vm)->settle_demotion();
  context_.event((*vm)->name, "held", (*vm)->hold_reason);
  return {};
}

Result<> AgentImpl::vm_unhold(std::string_view name) {
  auto vm = need(name);
  if (!vm) return Failure{vm.error()};
  const std::lock_guard lock((*vm)->mutex);
  (*vm)->held = false;
  (*vm)->hold_reason.clear();
  (*vm)->settle_demotion();
  context_.event((*vm)->name, "unheld", "");
  return {};
}

Result<Operation> AgentImpl::vm_record(std::string_view name, const RecordRequest& request) {
  auto vm = need(name);
  if (!vm) return Failure{vm.error()};
  return recorder_.start(*operations_, **vm, request);
}

Result<> AgentImpl::vm_record_end(std::string_view name) {
  auto vm = need(name);
  if (!vm) return Failure{vm.error()};
  return recorder_.end(**vm);
}

// Its memory over time is only followed where the pager moves it.
Result<std::shared_ptr<ManagedVm>> AgentImpl::need_followed(std::string_view name) const {
  auto vm = need(name);
  if (vm && (*vm)->memory == nullptr)
    return failure(std::errc::operation_not_supported, "show the memory of", std::string(name),
                   "only of what is adopted with the mechanism pager");
  return vm;
}

Result<Heatmap> AgentImpl::vm_heatmap(std::string_view name, std::chrono::milliseconds last) {
  auto vm = need_followed(name);
  if (!vm) return Failure{vm.error()};
  return driver_->heatmap(**vm, last);
}

Result<WorkingSet> AgentImpl::vm_working_set(std::string_view name, std::chrono::milliseconds last) {
  auto vm = need_followed(name);
  if (!vm) return Failure{vm.error()};
  return driver_->working_set(**vm, last);
}

Result<LogPage<VmEvent>> AgentImpl::vm_events(std::string_view vm, std::uint64_t since, std::size_t limit) {
  return log_of(context_.events, vm, since, limit);
}

Result<LogPage<Decision>> AgentImpl::decisions(std::string_view vm, std::uint64_t since, std::size_t limit) {
  return log_of(context_.decisions, vm, since, limit);
}

Result<Explanation> AgentImpl::explain(std::string_view name) {
  auto vm = need(name);
  if (!vm) return Failure{vm.error()};
  return explanation_of(context_, *driver_, **vm);
}

}  // namespace tidepool::daemon
