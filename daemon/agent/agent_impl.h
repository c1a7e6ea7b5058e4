// The agent from inside: its parts, and the calls of the admin API, which are grouped by noun as people type them:
// agent.cpp has start, end and what the parts tell each other, agent_host.cpp the host, agent_vm.cpp VMs,
// agent_pool.cpp the pool. Only these include this; everybody else: agent.h.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "daemon/agent/access_recorder.h"
#include "daemon/agent/adopter.h"
#include "daemon/agent/agent.h"
#include "daemon/agent/agent_metrics.h"
#include "daemon/agent/agent_status.h"
#include "daemon/agent/auto_adopter.h"
#include "daemon/agent/canary.h"
#include "daemon/agent/context.h"
#include "daemon/agent/handoff_server.h"
#include "daemon/agent/operations.h"
#include "daemon/agent/policy_driver.h"
#include "daemon/agent/watchdog.h"

namespace tidepool::daemon {

class AgentImpl final : public Agent {
 public:
  explicit AgentImpl(AgentOptions options)
      : path_(std::move(options.config_path)),
        context_(std::move(options.config)),
        canary_(context_),
        adopter_(context_, canary_),
        auto_(context_, adopter_),
        recorder_(context_),
        started_(std::chrono::system_clock::now()) {}
  ~AgentImpl() override;

  Result<> open();

  Result<> reload() override;
  Result<> come_home() override;
  std::string summary() const override;

  // agent_host.cpp
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
  Result<Operation> operation(std::string_view id) override;
  void audit_trouble(std::string_view problem) override;

  // agent_vm.cpp
  Result<std::vector<VmStatus>> vm_list() override;
  std::vector<RefusedProcess> refused() override { return auto_.refused(); }
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

  // agent_pool.cpp
  Result<PoolStatus> pool_status() override;
  Result<ChangeReport> pool_resize(const Amount& capacity, bool plan) override;

 private:
  Result<> open_pool(const Config& config);
  Result<> open_server_pool(const Config& config);
  Result<> open_controlled_pool(const Config& config);
  Result<> start_pager(const Config& config);
  void start_swap_mover();
  void integrity_failure(PagedVm& memory);
  Result<> listen_for_handoffs(const Config& config);
  void welcome_new(bool on);
  void holder_changed(bool holding);
  // Nothing begins to move out while a person wants it so, or while nobody holds what a crash would lose.
  void update_freeze();
  Result<> release_all();
  Result<> evacuate(const Operations::Handle& handle);
  // By name or UUID.
  Result<std::shared_ptr<ManagedVm>> need(std::string_view name) const;
  Result<std::shared_ptr<ManagedVm>> need_followed(std::string_view name) const;
  template <class T>
  Result<LogPage<T>> log_of(const Record<T>& record, std::string_view vm, std::uint64_t since, std::size_t limit) const;

  const std::string path_;
  Context context_;
  Canary canary_;
  Adopter adopter_;
  AutoAdopter auto_;
  AccessRecorder recorder_;
  const WallTime started_;
  std::unique_ptr<Watchdog> watchdog_;
  std::unique_ptr<PolicyDriver> driver_;
  std::unique_ptr<Operations> operations_;
  std::unique_ptr<AgentMetrics> metrics_;
  std::unique_ptr<HandoffServer> handoffs_;
  std::atomic<bool> holder_was_there_{true};
  std::mutex freeze_mutex_;

  mutable std::mutex mutex_;
  std::string frozen_by_;
  WallTime loaded_ = std::chrono::system_clock::now();
  std::string reload_error_;
  std::vector<std::string> restart_pending_;
  std::string audit_trouble_;
};

}  // namespace tidepool::daemon
