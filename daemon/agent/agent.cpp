#include "daemon/agent/agent.h"

#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "base/quantity_text.h"
#include "base/text.h"
#include "daemon/agent/agent_impl.h"
#include "daemon/control/config_loader.h"
#include "daemon/control/config_schema.h"
#include "service/log.h"
#include "service/notify.h"

namespace tidepool::daemon {
namespace {

constexpr std::size_t kReleasesAtOnce = 32;

}  // namespace

AgentImpl::~AgentImpl() {
  context_.stopping = true;
  handoffs_.reset();
  auto_.stop();
  if (context_.clerk) context_.clerk->watch({});
  // A pool without VMs is of no use to a successor; also when the start failed half-way.
  if (context_.clerk && context_.pool && context_.vms.all().empty()) {
    for (const auto& [name, fd] : context_.pool->held_descriptors()) (void)context_.clerk->remove(name);
  }
  metrics_.reset();
  recorder_.end_all();
  operations_.reset();
  if (driver_) driver_->stop();
  if (context_.swap_mover) context_.swap_mover->stop();
  watchdog_.reset();
  if (context_.pager) context_.pager->stop();
}

Result<> AgentImpl::open() {
  const Config config = context_.config();
  // First whether an earlier agent's VMs wait: the store's medium, which is theirs, must not be touched then.
  auto clerk = DescriptorClerk::open(config.keeper, context_.roots);
  if (!clerk) return Failure{clerk.error()};
  context_.clerk = std::move(*clerk);
  if (auto opened = open_pool(config); !opened) return opened;
  for (const auto& [name, fd] : context_.pool->held_descriptors()) {
    if (auto held = context_.clerk->store(name, fd); !held) return held;
  }
  if (auto started = start_pager(config); !started) return started;
  watchdog_ = std::make_unique<Watchdog>([this] { return context_.pager->heartbeat(); }, ServiceManager::watchdog,
                                         context_.clock);
  watchdog_->start();
  start_swap_mover();
  driver_ = std::make_unique<PolicyDriver>(context_, recorder_,
                                           [this](const std::shared_ptr<ManagedVm>& vm) { adopter_.bury(vm); });
  operations_ = std::make_unique<Operations>();
  auto metrics = AgentMetrics::serve(config.api.metrics, context_, *driver_);
  if (!metrics) return Failure{metrics.error()};
  metrics_ = std::move(*metrics);
  context_.clerk->watch([this](bool holding) { holder_changed(holding); });
  driver_->start();
  auto_.start();
  return listen_for_handoffs(config);
}

Result<> AgentImpl::start_pager(const Config& config) {
  PagerConfig pager;
  pager.roots = context_.roots;
  pager.fault_threads = config.pager.fault_threads;
  pager.loop.spin_share = config.limits.spin_cpu;
  pager.demoter.grace = config.pager.grace;
  PagerHooks hooks;
  hooks.hold = [this](PagedVm& memory, const std::vector<DescriptorToHold>& descriptors, std::function<void()> held) {
    context_.clerk->store_later(descriptors, [vm = memory.name, held = std::move(held)](const Result<>& result) {
      if (result) return held();
      spdlog::error("msg=\"a forked child is not held yet and waits\" vm={} error={}", vm,
                    in_quotes(result.error().message()));
    });
  };
  hooks.let_go = [this](PagedVm&, std::vector<std::string> names) { context_.clerk->remove_later(std::move(names)); };
  hooks.out_of_memory = [this](PagedVm& memory) { driver_->relieve(memory.id); };
  hooks.integrity_failure = [this](PagedVm& memory, MemoryObject&, PageIndex) { integrity_failure(memory); };
  hooks.child_lost = [this](PagedVm& memory) {
    const std::string what = "no memory for what a forked child has far: it is sent SIGBUS where it needs it";
    spdlog::error("msg={} vm={}", in_quotes(what), memory.name);
    context_.event(memory.name, "child", what);
  };
  auto started = Pager::start(pager, std::move(hooks), context_.clock);
  if (!started) return Failure{started.error()};
  context_.pager = std::move(*started);
  context_.pager->bound_restores(config.limits.promote_bandwidth);
  return {};
}

void AgentImpl::start_swap_mover() {
  SwapMoverHooks hooks;
  hooks.may_join = [this](const kernel::ProcessId& id) { return adopter_.may_join_workload(id); };
  hooks.frozen = [this] { return context_.frozen.load(); };
  hooks.cpu_per_100_gib = [this] { return context_.config().limits.tracker_cpu; };
  context_.swap_mover = std::make_unique<SwapMover>(context_.roots, std::move(hooks));
  context_.swap_mover->start();
}

// Wrong bytes never reach the guest: its thread stays blocked, and the whole VM stops, or ends, so that nobody builds
// on half a state.
void AgentImpl::integrity_failure(PagedVm& memory) {
  const auto vm = context_.vms.find(memory.id);
  const bool kill = context_.config().safety.on_integrity_failure == IntegrityAction::kKill;
  const int signal = kill ? SIGKILL : SIGSTOP;
  for (const auto& space : memory.spaces()) {
    if (space->pidfd.valid()) ::syscall(SYS_pidfd_send_signal, space->pidfd.get(), signal, nullptr, 0);
  }
  if (vm == nullptr) return;
  spdlog::error("msg=\"a far page is damaged or lost; the VM is {}\" vm={}", kill ? "killed" : "stopped", vm->name);
  context_.event(vm->name, "integrity",
                 "a far page is damaged or lost; the process was sent signal " + std::to_string(signal));
  const std::lock_guard lock(vm->mutex);
  vm->state = VmState::kIntegrity;
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

void AgentImpl::holder_changed(bool holding) {
  update_freeze();
  if (holding == holder_was_there_.exchange(holding)) return;
  if (holding) {
    spdlog::info("msg=\"the {} is back and holds everything again\"", context_.clerk->kind());
    context_.event("", "holder", "it is back, and holds everything again");
    return;
  }
  ++context_.holder_losses;
  const std::string trouble = context_.clerk->trouble();
  spdlog::error("msg=\"nobody holds the VMs' descriptors\" error={}", in_quotes(trouble));
  context_.event("", "holder", trouble);
}

void AgentImpl::update_freeze() {
  const std::lock_guard lock(freeze_mutex_);
  context_.pager->halt(context_.frozen            ? Halt::kEverything
                       : !context_.may_move_out() ? Halt::kOutward
                                                  : Halt::kNothing);
}

// Nobody is taken in while the agent is on its way out.
void AgentImpl::welcome_new(bool on) {
  auto_.pause(!on);
  if (handoffs_) handoffs_->accept(on);
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
    if (auto resized = context_.pool->set_capacity(next.pool.capacity.resolve(context_.pool->whole())); !resized) {
      restart_pending_.emplace_back("pool.embedded.capacity");
      next.pool.capacity = old.pool.capacity;
    }
  }
  context_.pager->bound_restores(next.limits.promote_bandwidth);
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

std::string AgentImpl::summary() const {
  Bytes far;
  const auto vms = context_.vms.all();
  for (const auto& vm : vms) far += memory_of(*vm).far;
  return std::to_string(vms.size()) + " VMs, " + short_text(far) + " far" + (context_.frozen ? ", frozen" : "");
}

Result<std::unique_ptr<Agent>> Agent::start(AgentOptions options) {
  auto agent = std::make_unique<AgentImpl>(std::move(options));
  if (auto opened = agent->open(); !opened) return Failure{opened.error()};
  return agent;
}

}  // namespace tidepool::daemon
