// An agent without memory to manage: keeps what it was told, so that server and tidectl can be driven end to end.
#pragma once

#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "daemon/control/agent_service.h"

namespace tidepool::daemon::testing {

class FakeAgent final : public AgentService {
 public:
  FakeAgent();

  Result<DoctorReport> doctor() override;
  Result<HealthReport> health() override;
  Result<AgentStatus> status() override;
  Result<RunningConfig> config_show() override;
  Result<HostStatus> host_show() override;
  Result<> host_freeze(const Caller& caller) override;
  Result<> host_thaw(const Caller& caller) override;
  Result<EvacuationReport> host_evacuation_plan() override;
  Result<FitReport> host_fits(Bytes guaranteed, Bytes oversubscribed) override;
  Result<Operation> host_evacuate() override;
  Result<std::vector<VmStatus>> vm_list() override;
  std::vector<RefusedProcess> refused() override;
  Result<VmStatus> vm_show(std::string_view vm) override;
  Result<AdoptOutcome> vm_adopt_check(const AdoptRequest& request) override;
  Result<Operation> vm_adopt(const AdoptRequest& request) override;
  Result<Operation> vm_release(std::string_view vm) override;
  Result<ChangeReport> vm_set(std::string_view vm, const VmSettings& settings, bool plan) override;
  Result<> vm_hold(std::string_view vm, std::string_view reason) override;
  Result<> vm_unhold(std::string_view vm) override;
  Result<Operation> vm_record(std::string_view vm, const RecordRequest& request) override;
  Result<> vm_record_end(std::string_view vm) override;
  Result<Heatmap> vm_heatmap(std::string_view vm, std::chrono::milliseconds last) override;
  Result<WorkingSet> vm_working_set(std::string_view vm, std::chrono::milliseconds last) override;
  Result<LogPage<VmEvent>> vm_events(std::string_view vm, std::uint64_t since, std::size_t limit) override;
  Result<LogPage<Decision>> decisions(std::string_view vm, std::uint64_t since, std::size_t limit) override;
  Result<Explanation> explain(std::string_view vm) override;
  Result<PoolStatus> pool_status() override;
  Result<ChangeReport> pool_resize(const Amount& capacity, bool plan) override;
  Result<Operation> operation(std::string_view id) override;

  // What tests set and see.
  void add_vm(VmStatus vm);
  // Calls of vm_list wait until let_go(): a wedged agent.
  void hold_calls();
  void let_go();
  int calls_waiting() const { return waiting_; }
  void refuse(RefusedProcess process);
  void set_healthy(bool healthy) { healthy_ = healthy; }
  void set_running_config(Config config);
  void end_operations_as(OperationState state) { operation_end_ = state; }
  AdoptRequest last_adoption() const;
  VmSettings last_settings() const;
  RecordRequest last_recording() const;
  Caller frozen_by() const;
  bool frozen() const { return frozen_; }
  // As a new agent: it has made no more decisions than so many, numbered from one.
  void forget_decisions(std::size_t left);

 private:
  Result<VmStatus*> find(std::string_view vm);
  Operation begin(OperationKind kind, const std::string& vm);
  void wait_if_held();

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool held_ = false;
  std::atomic<int> waiting_{0};
  std::atomic<bool> healthy_{true};
  std::atomic<bool> frozen_{false};
  Caller frozen_by_;
  Config config_;
  std::map<std::string, VmStatus> vms_;
  std::vector<RefusedProcess> refused_;
  std::map<std::string, Operation, std::less<>> operations_;
  OperationState operation_end_ = OperationState::kSucceeded;
  unsigned next_operation_ = 1;
  AdoptRequest last_adoption_;
  VmSettings last_settings_;
  RecordRequest last_recording_;
  bool recording_ = false;
  std::vector<VmEvent> events_;
  std::vector<Decision> decisions_;
  WallTime log_began_{std::chrono::hours(1)};
};

// web-3 of the documentation: 8 GiB promised, 3.1 resident, 2.9 far.
VmStatus example_vm(const std::string& name);

}  // namespace tidepool::daemon::testing
