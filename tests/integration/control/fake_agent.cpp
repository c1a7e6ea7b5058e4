#include "tests/integration/control/fake_agent.h"

#include "base/quantity_text.h"
#include "daemon/control/config_schema.h"

namespace tidepool::daemon::testing {

using namespace literals;

namespace {

constexpr WallTime kThen{std::chrono::seconds(1'700'000'000)};

Failure no_such_vm(std::string_view vm) {
  return failure(std::errc::no_such_file_or_directory, "find VM", std::string(vm), "tidectl vm list shows the names");
}

}  // namespace

VmStatus example_vm(const std::string& name) {
  VmStatus vm;
  vm.name = name;
  vm.uuid = "6f1c0b1e-0000-4000-8000-0000000000" + std::to_string(10 + name.size());
  vm.pid = 4711;
  vm.start_time = 99;
  vm.exe = "/usr/bin/qemu-system-x86_64";
  vm.uid = 64055;
  vm.origin = "asked";
  vm.mechanism = "pager";
  vm.policy.mode = Mode::kActive;
  vm.policy.guarantee = 2_GiB;
  vm.memory.untouched = 2_GiB;
  vm.memory.resident = Bytes{3328599654};
  vm.memory.far = Bytes{3113851290};
  vm.far_stored = 1_GiB;
  vm.stall = 0.004;
  vm.faults_per_second = 120;
  vm.fault_p50 = std::chrono::microseconds(21);
  vm.fault_p99 = std::chrono::microseconds(140);
  vm.mappings = {{{0x7f0000000000, 0x7f0200000000}, "private", "[anon]", "ring", Bytes{kPageSize}}};
  vm.adopted_at = kThen;
  return vm;
}

FakeAgent::FakeAgent() {
  for (std::uint64_t i = 1; i <= 5; ++i) {
    events_.push_back({i, kThen, "web-3", "settings", "event " + std::to_string(i)});
    decisions_.push_back({i, kThen, i % 2 ? "web-3" : "", "demote", "cold", "idle 3m", 2_MiB, true});
  }
}

void FakeAgent::wait_if_held() {
  std::unique_lock lock(mutex_);
  ++waiting_;
  changed_.wait(lock, [this] { return !held_; });
  --waiting_;
}

void FakeAgent::hold_calls() {
  const std::lock_guard lock(mutex_);
  held_ = true;
}

void FakeAgent::let_go() {
  {
    const std::lock_guard lock(mutex_);
    held_ = false;
  }
  changed_.notify_all();
}

void FakeAgent::add_vm(VmStatus vm) {
  const std::lock_guard lock(mutex_);
  vms_[vm.name] = std::move(vm);
}

void FakeAgent::set_running_config(Config config) {
  const std::lock_guard lock(mutex_);
  config_ = std::move(config);
}

AdoptRequest FakeAgent::last_adoption() const {
  const std::lock_guard lock(mutex_);
  return last_adoption_;
}

VmSettings FakeAgent::last_settings() const {
  const std::lock_guard lock(mutex_);
  return last_settings_;
}

RecordRequest FakeAgent::last_recording() const {
  const std::lock_guard lock(mutex_);
  return last_recording_;
}

Caller FakeAgent::frozen_by() const {
  const std::lock_guard lock(mutex_);
  return frozen_by_;
}

Result<VmStatus*> FakeAgent::find(std::string_view vm) {
  for (auto& [name, status] : vms_)
    if (name == vm || status.uuid == vm) return &status;
  return no_such_vm(vm);
}

Result<DoctorReport> FakeAgent::doctor() {
  return DoctorReport{"6.18.0",
                      {{Verdict::kOk, "userfaultfd", "MISSING MINOR WP", ""},
                       {Verdict::kWarn, "tracker:damon", "owned by another user", "fault sampling is used"},
                       {Verdict::kSafe, "evacuation", "far 6.0, free 9.2 GiB", ""}}};
}

Result<HealthReport> FakeAgent::health() {
  return HealthReport{{{"fault-loop", true, ""}, {"keeper", healthy_, healthy_ ? "" : "does not answer"}}};
}

Result<AgentStatus> FakeAgent::status() {
  AgentStatus status;
  status.version = "0.1.0";
  status.started = kThen;
  status.fd_holder = "keeper";
  status.vms_active = 1;
  status.host = *host_show();
  return status;
}

Result<RunningConfig> FakeAgent::config_show() {
  const std::lock_guard lock(mutex_);
  return RunningConfig{"/etc/tidepool/tidepool.toml", config_, kThen, true, "", {}};
}

Result<HostStatus> FakeAgent::host_show() {
  HostStatus host;
  host.hostname = "host-1";
  host.dram = 64_GiB;
  host.available = 9_GiB;
  host.promised = 8_GiB;
  host.touched = 6_GiB;
  host.resident = 3_GiB;
  host.far = 3_GiB;
  host.overhead.pool = 1_GiB - 100_MiB;
  host.overhead.kernel = 100_MiB;
  host.net_saved = static_cast<std::int64_t>((2_GiB).value);
  host.frozen = frozen_;
  return host;
}

Result<> FakeAgent::host_freeze(const Caller& caller) {
  const std::lock_guard lock(mutex_);
  frozen_ = true;
  frozen_by_ = caller;
  return {};
}

Result<> FakeAgent::host_thaw(const Caller&) {
  frozen_ = false;
  return {};
}

Result<FitReport> FakeAgent::host_fits(Bytes guaranteed, Bytes oversubscribed) {
  FitReport report;
  report.capacity = Bytes{16ull << 30};
  report.guaranteed = guaranteed;
  report.oversubscribed = oversubscribed;
  report.fits = guaranteed + oversubscribed <= report.capacity;
  report.arithmetic = report.fits ? "there is room" : "there is no room";
  return report;
}

Result<EvacuationReport> FakeAgent::host_evacuation_plan() {
  EvacuationReport report;
  report.far = 3_GiB;
  report.available = 9_GiB;
  report.estimate = std::chrono::milliseconds(4200);
  report.vms = {{"web-3", 3_GiB, std::chrono::milliseconds(4200), ""}};
  return report;
}

Operation FakeAgent::begin(OperationKind kind, const std::string& vm) {
  Operation operation;
  operation.id = "op-" + std::to_string(next_operation_++);
  operation.kind = kind;
  operation.vm = vm;
  operation.step = "moving";
  operation.total = 4_MiB;
  operation.started = kThen;
  operations_[operation.id] = operation;
  return operation;
}

// Advances with every look at it, so that nothing here depends on time.
Result<Operation> FakeAgent::operation(std::string_view id) {
  const std::lock_guard lock(mutex_);
  const auto found = operations_.find(id);
  if (found == operations_.end())
    return failure(std::errc::no_such_file_or_directory, "find operation", std::string(id));
  Operation& operation = found->second;
  if (operation.finished()) return operation;
  operation.done = std::min(operation.total, operation.done + 2_MiB);
  operation.progress = static_cast<double>(operation.done.value) / static_cast<double>(operation.total.value);
  if (operation.done == operation.total) {
    operation.state = operation_end_;
    operation.ended = kThen;
    if (operation_end_ != OperationState::kSucceeded)
      operation.error =
          Error{std::make_error_code(std::errc::no_space_on_device), "bring home", operation.vm, "free memory"};
  }
  return operation;
}

Result<Operation> FakeAgent::host_evacuate() {
  const std::lock_guard lock(mutex_);
  return begin(OperationKind::kEvacuate, "");
}

Result<std::vector<VmStatus>> FakeAgent::vm_list() {
  wait_if_held();
  const std::lock_guard lock(mutex_);
  std::vector<VmStatus> all;
  for (const auto& [name, vm] : vms_) all.push_back(vm);
  return all;
}

std::vector<RefusedProcess> FakeAgent::refused() {
  const std::lock_guard lock(mutex_);
  return refused_;
}

void FakeAgent::refuse(RefusedProcess process) {
  const std::lock_guard lock(mutex_);
  refused_.push_back(std::move(process));
}

Result<VmStatus> FakeAgent::vm_show(std::string_view vm) {
  const std::lock_guard lock(mutex_);
  const Result<VmStatus*> found = find(vm);
  if (!found) return Failure(found.error());
  return **found;
}

Result<AdoptOutcome> FakeAgent::vm_adopt_check(const AdoptRequest& request) {
  AdoptOutcome outcome;
  outcome.pid = request.pid;
  outcome.name = "guest";
  outcome.exe = "/usr/bin/qemu-system-x86_64";
  outcome.eligible = request.pid != 13;
  if (!outcome.eligible)
    outcome.findings = {{FindingKind::kRefusal, "vfio", "VFIO group 12 pins this memory", "detach the device", false}};
  return outcome;
}

Result<Operation> FakeAgent::vm_adopt(const AdoptRequest& request) {
  const std::lock_guard lock(mutex_);
  last_adoption_ = request;
  if (request.pid == 404) return failure(std::errc::no_such_process, "open process", "404");
  if (vms_.contains(request.name))
    return failure(std::errc::file_exists, "adopt", request.name, "choose another --name");
  Operation operation = begin(OperationKind::kAdopt, request.name.empty() ? "guest" : request.name);
  if (request.pid == 13) {
    operation.state = OperationState::kRefused;
    operation.ended = kThen;
    operation.findings = {
        {FindingKind::kRefusal, "vfio", "VFIO group 12 pins this memory", "detach the device", false}};
    operations_[operation.id] = operation;
  }
  return operation;
}

Result<Operation> FakeAgent::vm_release(std::string_view vm) {
  const std::lock_guard lock(mutex_);
  const Result<VmStatus*> found = find(vm);
  if (!found) return Failure(found.error());
  return begin(OperationKind::kRelease, (*found)->name);
}

Result<ChangeReport> FakeAgent::vm_set(std::string_view vm, const VmSettings& settings, bool plan) {
  const std::lock_guard lock(mutex_);
  const Result<VmStatus*> found = find(vm);
  if (!found) return Failure(found.error());
  last_settings_ = settings;
  VmPolicy& policy = (*found)->policy;
  ChangeReport report;
  if (settings.guarantee) {
    const Bytes wanted = settings.guarantee->resolve(8_GiB);
    report.arithmetic = "guarantee " + exact_text(wanted) + " of 8GiB";
    if (wanted > 8_GiB) {
      report.allowed = false;
      report.remedy = "Try: --guarantee 8GiB";
      return report;
    }
    if (wanted != policy.guarantee)
      report.lines.push_back({"guarantee", exact_text(policy.guarantee), exact_text(wanted)});
    if (!plan) policy.guarantee = wanted;
  }
  if (settings.mode && *settings.mode != policy.mode) {
    report.lines.push_back({"mode", std::string(text_of(policy.mode)), std::string(text_of(*settings.mode))});
    if (!plan) policy.mode = *settings.mode;
  }
  report.applied = !plan;
  return report;
}

Result<> FakeAgent::vm_hold(std::string_view vm, std::string_view reason) {
  const std::lock_guard lock(mutex_);
  const Result<VmStatus*> found = find(vm);
  if (!found) return Failure(found.error());
  (*found)->held = true;
  (*found)->hold_reason = reason;
  return {};
}

Result<Operation> FakeAgent::vm_record(std::string_view vm, const RecordRequest& request) {
  const std::lock_guard lock(mutex_);
  const Result<VmStatus*> found = find(vm);
  if (!found) return Failure(found.error());
  if (request.file == "/exists") return failure(std::errc::file_exists, "create", request.file, "name another one");
  last_recording_ = request;
  recording_ = true;
  return begin(OperationKind::kRecord, (*found)->name);
}

Result<> FakeAgent::vm_record_end(std::string_view vm) {
  const std::lock_guard lock(mutex_);
  const Result<VmStatus*> found = find(vm);
  if (!found) return Failure(found.error());
  if (!recording_)
    return failure(std::errc::no_such_file_or_directory, "stop recording", (*found)->name, "it is not recorded");
  recording_ = false;
  return {};
}

Result<> FakeAgent::vm_unhold(std::string_view vm) {
  const std::lock_guard lock(mutex_);
  const Result<VmStatus*> found = find(vm);
  if (!found) return Failure(found.error());
  (*found)->held = false;
  return {};
}

namespace {

template <class T>
LogPage<T> page_of(const std::vector<T>& all, std::string_view vm, std::uint64_t since, std::size_t limit) {
  LogPage<T> page;
  for (const T& item : all) {
    if (!vm.empty() && item.vm != vm) continue;
    page.last_sequence = item.sequence;
    if (item.sequence > since && page.items.size() < limit) page.items.push_back(item);
  }
  return page;
}

}  // namespace

// Two objects of memory, watched for ten minutes: the first half is hot, the rest is cold and goes.
Result<Heatmap> FakeAgent::vm_heatmap(std::string_view vm, std::chrono::milliseconds last) {
  const std::lock_guard lock(mutex_);
  const Result<VmStatus*> found = find(vm);
  if (!found) return Failure(found.error());
  Heatmap map;
  map.vm = (*found)->name;
  map.period = std::chrono::seconds(15);
  map.until = WallTime{std::chrono::seconds(1'800'000'000)};
  map.from = map.until - last;
  const Bytes stretch{64ull << 20};
  for (std::uint32_t i = 0; i < 8; ++i) {
    const std::uint32_t object = i < 6 ? 0 : 1;
    const Bytes offset{stretch.value * (object == 0 ? i : i - 6)};
    map.stretches.push_back({object, 1, offset, stretch,
                             i == 7 ? std::nullopt : std::optional<std::uint64_t>(0x7f0000000000 + offset.value)});
  }
  for (int c = 0; c < 40; ++c) {
    Heatmap::Column column;
    column.start = map.until - map.period * (40 - c);
    for (int i = 0; i < 8; ++i) {
      column.cells.push_back(i == 7 ? std::optional<Heatmap::Cell>{}
                                    : Heatmap::Cell{i < 4 ? 8.0 : 0.0001, i < 4 ? 0.0 : c / 40.0});
    }
    map.columns.push_back(std::move(column));
  }
  return map;
}

Result<WorkingSet> FakeAgent::vm_working_set(std::string_view vm, std::chrono::milliseconds) {
  const std::lock_guard lock(mutex_);
  const Result<VmStatus*> found = find(vm);
  if (!found) return Failure(found.error());
  WorkingSet set;
  set.vm = (*found)->name;
  set.resident = Bytes{3ull << 30};
  set.far = Bytes{1ull << 30};
  set.minute = Bytes{1ull << 30};
  set.ten_minutes = Bytes{2ull << 30};
  set.uses = 1000;
  set.fault_cost = std::chrono::microseconds(20);
  set.threads = 4;
  set.stall_budget = 0.01;
  for (std::uint64_t i = 0; i <= 32; ++i)
    set.curve.push_back(
        {Bytes{i << 27}, 1000.0 - 31.25 * static_cast<double>(i), 1000.0 - 31.25 * static_cast<double>(i)});
  set.offers.push_back({0.01, Bytes{2ull << 30}, Bytes{1ull << 30}, 2000});
  set.offers.push_back({0.05, Bytes{1ull << 30}, Bytes{2ull << 30}, 10000});
  set.period = std::chrono::minutes(1);
  set.samples.push_back(
      {WallTime{std::chrono::seconds(1'800'000'000)}, set.minute, set.ten_minutes, set.resident, set.far});
  return set;
}

Result<LogPage<VmEvent>> FakeAgent::vm_events(std::string_view vm, std::uint64_t since, std::size_t limit) {
  const std::lock_guard lock(mutex_);
  const Result<VmStatus*> found = find(vm);
  if (!found) return Failure(found.error());
  return page_of(events_, vm, since, limit);
}

Result<LogPage<Decision>> FakeAgent::decisions(std::string_view vm, std::uint64_t since, std::size_t limit) {
  LogPage<Decision> page = page_of(decisions_, vm, since, limit);
  page.began = log_began_;
  return page;
}

Result<Explanation> FakeAgent::explain(std::string_view vm) {
  const std::lock_guard lock(mutex_);
  const Result<VmStatus*> found = find(vm);
  if (!found) return Failure(found.error());
  return Explanation{(*found)->name, {"Slow? No: 0.4% stall, budget 1.0%."}};
}

Result<PoolStatus> FakeAgent::pool_status() {
  PoolStatus status;
  status.store = "compressed";
  status.backing = "DRAM (lz4)";
  status.capacity = 6_GiB;
  status.used = 1_GiB;
  status.stored = 3_GiB;
  status.pages = 786432;
  status.incompressible = 12;
  KernelTierStatus& kernel = status.kernel;
  kernel.kind = "zram";
  kernel.capacity = 4_GiB;
  kernel.free = 1_GiB;
  kernel.stored = 3_GiB;
  kernel.dram = 1_GiB;
  kernel.far = 1_GiB;
  kernel.fault_cost = std::chrono::nanoseconds(5200);
  kernel.store_cost = std::chrono::nanoseconds(9800);
  return status;
}

Result<ChangeReport> FakeAgent::pool_resize(const Amount& capacity, bool plan) {
  ChangeReport report;
  const Bytes wanted = capacity.resolve(64_GiB);
  report.arithmetic = "need 0.9 GiB home, spare 0.4 GiB";
  report.allowed = wanted >= 1_GiB;
  report.applied = report.allowed && !plan;
  if (report.allowed) {
    report.lines.push_back({"capacity", "6GiB", exact_text(wanted)});
  } else {
    report.remedy = "Try: --size 1GiB";
  }
  return report;
}

void FakeAgent::forget_decisions(std::size_t left) {
  const std::lock_guard lock(mutex_);
  if (decisions_.size() > left) decisions_.resize(left);
  log_began_ += std::chrono::hours(1);
}

}  // namespace tidepool::daemon::testing
