#include "daemon/agent/agent.h"

#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <thread>

#include "base/quantity_text.h"
#include "base/text.h"
#include "daemon/agent/access_recorder.h"
#include "daemon/agent/adopter.h"
#include "daemon/agent/agent_metrics.h"
#include "daemon/agent/agent_status.h"
#include "daemon/agent/auto_adopter.h"
#include "daemon/agent/canary.h"
#include "daemon/agent/context.h"
#include "daemon/agent/handoff_server.h"
#include "daemon/agent/operations.h"
#include "daemon/agent/policy_driver.h"
#include "daemon/agent/process_search.h"
#include "daemon/agent/vm_rules.h"
#include "daemon/control/config_loader.h"
#include "daemon/control/config_schema.h"
#include "daemon/control/log.h"
#include "daemon/vm/doctor.h"
#include "daemon/vm/vm_name.h"
#include "kmod-interfaces/kernel_features.h"
#include "pool/store/medium.h"

namespace tidepool::daemon {
namespace {

using std::chrono::milliseconds;

constexpr std::size_t kReleasesAtOnce = 32;

Failure no_such_vm(std::string_view name) {
  return failure(std::errc::no_such_file_or_directory, "find VM", std::string(name),
                 "tidectl vm list shows the adopted ones");
}

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

  Result<DoctorReport> doctor() override { return diagnose(kernel::probe_kernel_features(context_.roots)); }
  Result<HealthReport> health() override;
  Result<AgentStatus> status() override;
  Result<RunningConfig> config_show() override;
  Result<HostStatus> host_show() override { return host_status(context_, *driver_); }
  Result<> host_freeze(const Caller& caller) override;
  Result<> host_thaw(const Caller& caller) override;
  Result<EvacuationReport> host_evacuation_plan() override { return evacuation_report(context_); }
  Result<FitReport> host_fits(Bytes guaranteed, Bytes oversubscribed) override {
    policy::Fit fit = driver_->fits(guaranteed, oversubscribed);
    return FitReport{fit.fits,   fit.capacity, fit.guaranteed, fit.oversubscribed,
                     fit.window, fit.spare,    fit.shortfall,  std::move(fit.arithmetic)};
  }
  Result<Operation> host_evacuate() override;
  Result<std::vector<VmStatus>> vm_list() override;
  Result<VmStatus> vm_show(std::string_view vm) override;
  Result<AdoptOutcome> vm_adopt_check(const AdoptRequest& request) override { return adopter_.check(request); }
  Result<Operation> vm_adopt(const AdoptRequest& request) override;
  Result<Operation> vm_release(std::string_view vm) override;
  Result<ChangeReport> vm_set(std::string_view vm, const VmSettings& settings, bool plan) override;
  Result<> vm_hold(std::string_view vm, std::string_view reason) override;
  Result<> vm_unhold(std::string_view vm) override;
  Result<Operation> vm_record(std::string_view vm, const RecordRequest& request) override;
  Result<> vm_record_end(std::string_view vm) override;
  Result<LogPage<VmEvent>> vm_events(std::string_view vm, std::uint64_t since, std::size_t limit) override;
  Result<LogPage<Decision>> decisions(std::string_view vm, std::uint64_t since, std::size_t limit) override;
  Result<Explanation> explain(std::string_view vm) override;
  Result<PoolStatus> pool_status() override;
  Result<ChangeReport> pool_resize(const Amount& capacity, bool plan) override;
  Result<Operation> operation(std::string_view id) override { return operations_->find(id); }
  void audit_trouble(std::string_view problem) override {
    const std::lock_guard lock(mutex_);
    audit_trouble_ = problem;
  }

 private:
  Result<> open_store(const Config& config);
  Result<> start_pager(const Config& config);
  void integrity_failure(PagedVm& memory);
  Result<std::shared_ptr<ManagedVm>> need(std::string_view name) const;
  Result<> listen_for_handoffs(const Config& config);
  void welcome_new(bool on);
  Result<> release_all();
  Result<> evacuate(const Operations::Handle& handle);
  template <class T>
  Result<LogPage<T>> log_of(const Record<T>& record, std::string_view vm, std::uint64_t since, std::size_t limit) const;

  const std::string path_;
  Context context_;
  Canary canary_;
  Adopter adopter_;
  AutoAdopter auto_;
  AccessRecorder recorder_;
  const WallTime started_;
  std::unique_ptr<PolicyDriver> driver_;
  std::unique_ptr<Operations> operations_;
  std::unique_ptr<AgentMetrics> metrics_;
  std::unique_ptr<HandoffServer> handoffs_;

  mutable std::mutex mutex_;
  std::string frozen_by_;
  WallTime loaded_ = std::chrono::system_clock::now();
  std::string reload_error_;
  std::vector<std::string> restart_pending_;
  std::string audit_trouble_;
};

AgentImpl::~AgentImpl() {
  context_.stopping = true;
  handoffs_.reset();
  auto_.stop();
  // A pool without VMs is of no use to a successor; also when the start failed half-way.
  if (context_.clerk && context_.store.store && context_.vms.all().empty()) {
    for (const auto& [name, fd] : context_.store->held_descriptors()) (void)context_.clerk->remove(name);
  }
  metrics_.reset();
  recorder_.end_all();
  operations_.reset();
  if (driver_) driver_->stop();
  if (context_.pager) context_.pager->stop();
}

Result<> AgentImpl::open() {
  const Config config = context_.config();
  // First whether an earlier agent's VMs wait: the store's medium, which is theirs, must not be touched then.
  auto clerk = DescriptorClerk::open(config.keeper, context_.roots);
  if (!clerk) return Failure{clerk.error()};
  context_.clerk = std::move(*clerk);
  if (auto opened = open_store(config); !opened) return opened;
  for (const auto& [name, fd] : context_.store->held_descriptors()) {
    if (auto held = context_.clerk->store(name, fd); !held) return held;
  }
  if (auto started = start_pager(config); !started) return started;
  driver_ = std::make_unique<PolicyDriver>(context_, recorder_,
                                           [this](const std::shared_ptr<ManagedVm>& vm) { adopter_.bury(vm); });
  operations_ = std::make_unique<Operations>();
  auto metrics = AgentMetrics::serve(config.api.metrics, context_, *driver_);
  if (!metrics) return Failure{metrics.error()};
  metrics_ = std::move(*metrics);
  driver_->start();
  auto_.start();
  return listen_for_handoffs(config);
}

Result<> AgentImpl::listen_for_handoffs(const Config& config) {
  if (config.adopt.handoff_socket.empty()) return {};
  HandoffServerOptions options;
  options.socket = config.adopt.handoff_socket;
  options.group = config.adopt.handoff_group;
  auto server = HandoffServer::start(options, [this](Handoff& handoff) -> Result<std::string> {
    auto vm = adopter_.take_over(handoff);
    if (!vm) return Failure{vm.error()};
    return (*vm)->name;
  });
  if (!server) return Failure{server.error()};
  handoffs_ = std::move(*server);
  return {};
}

// Nobody is taken in while the agent is on its way out.
void AgentImpl::welcome_new(bool on) {
  auto_.pause(!on);
  if (handoffs_) handoffs_->accept(on);
}

Result<> AgentImpl::open_store(const Config& config) {
  const auto whole = pool::medium_size(config.pool.path, context_.roots);
  if (!whole) return Failure{whole.error()};
  pool::StoreConfig wanted;
  wanted.kind = config.pool.store == StoreKind::kMapped ? pool::StoreChoice::kMapped : pool::StoreChoice::kCompressed;
  wanted.path = config.pool.path;
  wanted.capacity = config.pool.capacity.resolve(*whole);
  wanted.codec = config.pool.codec == Codec::kZstd ? pool::CodecKind::kZstd : pool::CodecKind::kLz4;
  wanted.roots = context_.roots;
  auto store = pool::create_store(wanted);
  if (!store) return Failure{store.error()};
  context_.store = std::move(*store);
  return {};
}

Result<> AgentImpl::start_pager(const Config& config) {
  PagerConfig pager;
  pager.roots = context_.roots;
  pager.fault_threads = config.pager.fault_threads;
  pager.loop.spin_share = config.limits.spin_cpu;
  pager.demoter.grace = config.pager.grace;
  PagerHooks hooks;
  hooks.hold = [this](PagedVm& memory, std::vector<DescriptorToHold> descriptors, std::function<void()> held) {
    context_.clerk->store_later(std::move(descriptors),
                                [vm = memory.name, held = std::move(held)](const Result<>& result) {
                                  if (result) return held();
                                  spdlog::error("msg=\"a forked child is not held yet and waits\" vm={} error={}", vm,
                                                in_quotes(result.error().message()));
                                });
  };
  hooks.let_go = [this](PagedVm&, std::vector<std::string> names) { context_.clerk->remove_later(std::move(names)); };
  hooks.out_of_memory = [this](PagedVm& memory) { driver_->relieve(memory.id); };
  hooks.integrity_failure = [this](PagedVm& memory, MemoryObject&, PageIndex) { integrity_failure(memory); };
  auto started = Pager::start(pager, std::move(hooks), context_.clock);
  if (!started) return Failure{started.error()};
  context_.pager = std::move(*started);
  return {};
}

// Wrong bytes never reach the guest: its thread stays blocked, and the whole VM stops so that nobody builds on half a
// state.
void AgentImpl::integrity_failure(PagedVm& memory) {
  const auto vm = context_.vms.find(memory.id);
  const int signal = memory.kill_on_integrity_failure ? SIGKILL : SIGSTOP;
  for (const auto& space : memory.spaces()) {
    if (space->pidfd.valid()) ::syscall(SYS_pidfd_send_signal, space->pidfd.get(), signal, nullptr, 0);
  }
  if (vm == nullptr) return;
  spdlog::error("msg=\"a far page failed its checksum; the VM is stopped\" vm={}", vm->name);
  context_.event(vm->name, "integrity",
                 "a far page failed its checksum; the process was sent signal " + std::to_string(signal));
  const std::lock_guard lock(vm->mutex);
  vm->state = VmState::kIntegrity;
}

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

Result<> AgentImpl::reload() {
  if (path_.empty()) return {};
  ConfigCheck check = load_config(path_);
  const std::lock_guard lock(mutex_);
  if (!check.ok()) {
    context_.reload_ok = false;
    reload_error_ = check.problems.front().text(path_);
    spdlog::error("msg=\"configuration not reloaded\" problem={}", in_quotes(reload_error_));
    return failure(std::errc::invalid_argument, "reload", reload_error_);
  }
  const Config old = context_.config();
  Config next = check.config;
  restart_pending_.clear();
  for (const ConfigField& field : config_fields()) {
    if (!field.restart || field.text(next) == field.text(old)) continue;
    restart_pending_.push_back(field.key);
    field.copy(old, next);  // what is in force is what is shown
  }
  if (next.pool.capacity != old.pool.capacity) {
    if (const auto whole = pool::medium_size(old.pool.path, context_.roots)) {
      if (auto resized = context_.store->set_capacity(next.pool.capacity.resolve(*whole)); !resized) {
        restart_pending_.emplace_back("pool.embedded.capacity");
        next.pool.capacity = old.pool.capacity;
      }
    }
  }
  set_log_level(next.log.level);
  context_.set_config(std::move(next));
  auto_.configuration_changed();
  loaded_ = std::chrono::system_clock::now();
  context_.reload_ok = true;
  reload_error_.clear();
  spdlog::info("msg=\"configuration reloaded\" restart_pending={}", restart_pending_.size());
  return {};
}

Result<> AgentImpl::come_home() {
  const EvacuationReport report = evacuation_report(context_);
  if (!report.possible) {
    return failure(std::errc::not_enough_memory, "bring home " + short_text(report.far), "",
                   short_text(report.shortfall) + " of memory is missing, and with it this would take about " +
                       exact_text(report.estimate) + ": free memory, or end VMs, then stop again");
  }
  welcome_new(false);
  if (auto released = release_all(); !released) {
    welcome_new(true);
    return released;
  }
  return {};
}

std::string AgentImpl::summary() const {
  Bytes far;
  const auto vms = context_.vms.all();
  for (const auto& vm : vms) far += memory_of(*vm->memory).far;
  return std::to_string(vms.size()) + " VMs, " + short_text(far) + " far" + (context_.frozen ? ", frozen" : "");
}

Result<HealthReport> AgentImpl::health() {
  HealthReport report;
  report.checks.push_back({"fault-loop", driver_->alive(), driver_->alive() ? "going round" : "stands still"});
  const std::string trouble = context_.clerk->trouble();
  report.checks.push_back({"holder", trouble.empty(), trouble.empty() ? context_.clerk->kind() : trouble});
  const pool::StoreErrors errors = context_.store->errors();
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
      report.checks.push_back(
          {"vm:" + vm->name, false,
           status.state == VmState::kIntegrity ? "stopped: a page failed its checksum" : "degraded"});
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

Result<> AgentImpl::host_freeze(const Caller& caller) {
  context_.frozen = true;
  context_.pager->freeze_host(true);
  const std::lock_guard lock(mutex_);
  frozen_by_ = "uid " + std::to_string(caller.uid) + ", pid " + std::to_string(caller.pid);
  context_.event("", "frozen", frozen_by_);
  return {};
}

Result<> AgentImpl::host_thaw(const Caller& caller) {
  context_.frozen = false;
  context_.pager->freeze_host(false);
  const std::lock_guard lock(mutex_);
  frozen_by_.clear();
  context_.event("", "thawed", "uid " + std::to_string(caller.uid) + ", pid " + std::to_string(caller.pid));
  return {};
}

// Many at once: one that is stopped, and takes for ever, must not keep the others away.
Result<> AgentImpl::release_all() {
  const auto vms = context_.vms.all();
  std::atomic<std::size_t> next{0};
  std::mutex mutex;
  Result<> first;
  std::vector<std::jthread> threads;
  for (std::size_t i = 0; i < std::min(kReleasesAtOnce, vms.size()); ++i) {
    threads.emplace_back([&] {
      for (std::size_t mine = next++; mine < vms.size(); mine = next++) {
        const Result<> released = adopter_.release(vms[mine], nullptr);
        const std::lock_guard lock(mutex);
        if (!released && first) first = released;
      }
    });
  }
  threads.clear();  // joins
  return first;
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
    vm->memory->demotion_allowed = false;
  }
  const auto far = [&] {
    std::uint64_t pages = 0;
    for (const auto& vm : vms) {
      if (!vm->memory->dead)
        pages += vm->memory->count(PageState::kFar) + vm->memory->count(PageState::kFetching) +
                 vm->memory->count(PageState::kDropping);
    }
    return to_bytes(PageCount{pages});
  };
  const Bytes total = far();
  Result<> result;
  auto under_way = std::make_shared<std::atomic<std::size_t>>(0);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(10);
  for (Bytes left = far(); left != Bytes{}; left = far()) {
    handle.step("bringing everything home", saturating_sub(total, left), total);
    if (std::chrono::steady_clock::now() > deadline || context_.stopping) {
      result = failure(std::errc::timed_out, "bring home", short_text(left),
                       "tidectl host evacuate --plan names the obstacles");
      break;
    }
    // Once more when all have ended: a drop that was under way may have made a page far since.
    for (const auto& vm : vms) {
      if (*under_way != 0 && vm == vms.front()) break;
      for (const auto& object : vm->memory->objects) {
        ++*under_way;
        context_.pager->restore(vm->memory, object.get(), {PageIndex{0}, object->map->pages().value},
                                [under_way](std::uint64_t) { --*under_way; });
      }
    }
    std::this_thread::sleep_for(milliseconds(100));
  }
  for (const auto& vm : vms) {
    const std::lock_guard lock(vm->mutex);
    vm->memory->demotion_allowed = !vm->held;
  }
  return result;
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

Result<Operation> AgentImpl::vm_adopt(const AdoptRequest& request) {
  if (request.settings.mode == Mode::kActive) {
    if (auto allowed = canary_.allows(request.name); !allowed) return Failure{allowed.error()};
  }
  if (!request.cgroup.empty()) {
    if (auto path = cgroup_path(context_.roots, request.cgroup); !path) return Failure{path.error()};
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
  const Bytes promised = memory_of(*vm.memory).promised();
  VmPolicy before;
  std::optional<Finding> immovable;
  {
    const std::lock_guard lock(vm.mutex);
    before = vm.policy;
    immovable = vm.immovable;
  }
  VmPolicy after = before;
  if (settings.mode) after.mode = *settings.mode;
  if (settings.service_class) apply_class(context_.config(), *settings.service_class, after);
  if (settings.guarantee) after.guarantee = settings.guarantee->resolve(promised);
  if (settings.limit) after.limit = settings.limit->resolve(promised);
  if (settings.no_limit) after.limit.reset();
  if (settings.stall_budget) after.stall_budget = *settings.stall_budget;
  if (settings.min_cold_age) after.min_cold_age = *settings.min_cold_age;
  ChangeReport report;
  const auto line = [&](const char* what, const std::string& old, const std::string& now) {
    if (old != now) report.lines.push_back({what, old, now});
  };
  const auto mode = [](Mode m) { return std::string(text_of(m)); };
  const auto limit = [](const std::optional<Bytes>& l) { return l ? short_text(*l) : std::string("none"); };
  line("mode", mode(before.mode), mode(after.mode));
  line("class", before.service_class, after.service_class);
  line("guarantee", short_text(before.guarantee), short_text(after.guarantee));
  line("limit", limit(before.limit), limit(after.limit));
  line("stall_budget", share_text(before.stall_budget), share_text(after.stall_budget));
  line("min_cold_age", exact_text(before.min_cold_age), exact_text(after.min_cold_age));
  if (after.guarantee > promised) {
    report.allowed = false;
    report.arithmetic = "guarantee " + short_text(after.guarantee) + " > promised " + short_text(promised);
    report.remedy = "guarantee at most what was promised";
  } else if (after.limit && *after.limit < after.guarantee) {
    report.allowed = false;
    report.arithmetic = "limit " + short_text(*after.limit) + " < guarantee " + short_text(after.guarantee);
    report.remedy = "lower the guarantee too, or raise the limit";
  } else if (after.mode == Mode::kActive && before.mode != Mode::kActive) {
    const auto refuse = [&](std::string why, std::string remedy) {
      report.allowed = false;
      report.arithmetic = std::move(why);
      report.remedy = std::move(remedy);
    };
    if (immovable) {
      refuse(immovable->message, immovable->remedy);
    } else if (auto allowed = plan ? canary_.allows(vm.name) : canary_.activate(vm); !allowed) {
      refuse(allowed.error().remedy, "");
    }
  }
  if (plan || !report.allowed) return report;
  {
    const std::lock_guard lock(vm.mutex);
    vm.policy = after;
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
  (*vm)->memory->demotion_allowed = false;
  context_.event((*vm)->name, "held", (*vm)->hold_reason);
  return {};
}

Result<> AgentImpl::vm_unhold(std::string_view name) {
  auto vm = need(name);
  if (!vm) return Failure{vm.error()};
  const std::lock_guard lock((*vm)->mutex);
  (*vm)->held = false;
  (*vm)->hold_reason.clear();
  (*vm)->memory->demotion_allowed = true;
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

Result<PoolStatus> AgentImpl::pool_status() {
  const Config config = context_.config();
  const pool::StoreUsage usage = context_.store->usage();
  PoolStatus status;
  status.store = context_.store->kind();
  status.backing = config.pool.path.empty() ? (config.pool.store == StoreKind::kMapped
                                                   ? "memfd"
                                                   : (config.pool.codec == Codec::kZstd ? "DRAM (zstd)" : "DRAM (lz4)"))
                                            : config.pool.path;
  status.capacity = usage.capacity;
  status.used = usage.used;
  status.stored = to_bytes(usage.pages);
  status.pages = usage.pages.value;
  status.incompressible = usage.incompressible;
  for (const auto& vm : context_.vms.all()) status.integrity_failures += vm->memory->counters.integrity_failures;
  return status;
}

Result<ChangeReport> AgentImpl::pool_resize(const Amount& capacity, bool plan) {
  const auto whole = pool::medium_size(context_.config().pool.path, context_.roots);
  if (!whole) return Failure{whole.error()};
  const pool::StoreUsage usage = context_.store->usage();
  const Bytes wanted = capacity.resolve(*whole);
  ChangeReport report;
  if (wanted != usage.capacity) report.lines.push_back({"capacity", short_text(usage.capacity), short_text(wanted)});
  const policy::HostView host = host_view_of(context_);
  if (wanted == Bytes{}) {
    report.allowed = false;
    report.arithmetic = "a pool of 0 could hold nothing";
    report.remedy = "to stop all movement: tidectl host freeze";
    return report;
  }
  if (context_.store->uses_host_dram() && wanted + host.reserve > host.total) {
    report.allowed = false;
    report.arithmetic = "capacity " + short_text(wanted) + " + reserve " + short_text(host.reserve) + " > DRAM " +
                        short_text(host.total);
    report.remedy = "try --size " + short_text(saturating_sub(host.total, host.reserve));
    return report;
  }
  if (wanted < usage.used) {
    // Nothing is thrown out: what is stored must go home first.
    report.allowed = false;
    const Bytes home = usage.used - wanted;
    report.arithmetic = "used " + short_text(usage.used) + ", so " + short_text(home) +
                        " would have to come home first; available " + short_text(host.available) + ", reserve " +
                        short_text(host.reserve);
    report.remedy = "raise the VMs' limits or release one, or try --size " + short_text(usage.used);
    return report;
  }
  if (plan) return report;
  if (auto resized = context_.store->set_capacity(wanted); !resized) return Failure{resized.error()};
  report.applied = true;
  context_.event("", "pool", "capacity " + short_text(usage.capacity) + " -> " + short_text(wanted));
  return report;
}

}  // namespace

Result<std::unique_ptr<Agent>> Agent::start(AgentOptions options) {
  auto agent = std::make_unique<AgentImpl>(std::move(options));
  if (auto opened = agent->open(); !opened) return Failure{opened.error()};
  return agent;
}

}  // namespace tidepool::daemon
