#include "tests/unit/pool/controller/core_rig.h"

namespace tidepool::pool::controller {

CoreConfig CoreRig::small() {
  CoreConfig config;
  config.cluster = "test";
  config.slice_bytes = Bytes{kSlice};
  config.buffer = 0;
  return config;
}

CoreRig::CoreRig(CoreConfig config) : config_(config), core_(config) {
  context_.now = MonoTime{std::chrono::hours(1)};
  context_.actor = "tester";
  const auto begun = core_.begin(context_);
  EXPECT_TRUE(begun);
  if (begun) commit(*begun);
}

void CoreRig::commit(const std::vector<StateChange>& changes) {
  for (const StateChange& change : changes) {
    if (change.value) {
      store[change.key] = *change.value;
    } else {
      store.erase(change.key);
    }
  }
}

Answer CoreRig::apply(const Request& request) {
  Outcome outcome = core_.apply(request, context_);
  EXPECT_TRUE(!std::holds_alternative<Refusal>(outcome.answer) || outcome.changes.empty());
  commit(outcome.changes);
  return std::move(outcome.answer);
}

Refusal CoreRig::refused(const Request& request) {
  const Answer answer = apply(request);
  if (const auto* refusal = std::get_if<Refusal>(&answer)) return *refusal;
  ADD_FAILURE() << "was not refused";
  return {};
}

void CoreRig::tick() {
  while (true) {
    const Core::Tick tick = core_.tick(context_);
    commit(tick.changes);
    if (!tick.again) return;
  }
}

RegisterServer CoreRig::registration(const std::string& name, const std::string& domain, std::uint64_t slices,
                                     std::uint8_t boot) const {
  RegisterServer request;
  request.name = name;
  request.boot = {boot};
  request.address = "unix:/" + name;
  request.domain = domain;
  request.capacity = Bytes{slices * kSlice};
  request.key = {boot, 7};
  return request;
}

void CoreRig::add_server(const std::string& name, const std::string& domain, std::uint64_t slices, std::uint8_t boot) {
  ask<ServerAnswer>(registration(name, domain, slices, boot));
  boots_[name] = boot;
}

ServerAnswer CoreRig::heartbeat(const std::string& name, std::vector<FreeCommand> done, std::uint8_t boot) {
  ServerHeartbeat request;
  request.name = name;
  request.boot = {boot};
  request.free = Bytes{std::uint64_t{1} << 40};
  request.done = std::move(done);
  request.draining = ending.contains(name);
  return ask<ServerAnswer>(request);
}

void CoreRig::heartbeats() {
  for (const auto& [name, boot] : boots_) {
    const ServerAnswer answer = heartbeat(name, {}, boot);
    if (!answer.free.empty()) heartbeat(name, answer.free, boot);
  }
}

SyncHost& CoreRig::report(const std::string& host) {
  for (SyncHost& each : hosts_)
    if (each.host == host) return each;
  SyncHost& made = hosts_.emplace_back();
  made.host = host;
  made.machine = made.boot = made.instance = "1";
  made.spare = Bytes{std::uint64_t{1} << 40};
  return made;
}

SyncAnswer CoreRig::sync(const std::string& host) {
  SyncHost& request = report(host);
  if (request.epoch == 0) request.epoch = ask<SyncAnswer>(request).epoch;
  SyncAnswer answer = ask<SyncAnswer>(request);
  request.tasks.clear();
  request.lost.clear();
  return answer;
}

void CoreRig::add_vm(std::uint8_t holder, const std::string& name, std::uint64_t wanted, const std::string& host,
                     unsigned replicas) {
  VmReport report_of;
  report_of.holder = holder_id(holder);
  report_of.name = name;
  report_of.wanted = Bytes{wanted * kSlice};
  report_of.replicas = replicas;
  report(host).vms.push_back(report_of);
  sync(host);
}

GrantSlices CoreRig::grant(std::uint8_t holder, std::uint32_t slices, const std::string& id, const std::string& host,
                           unsigned replicas) const {
  std::uint64_t epoch = 0;
  for (const SyncHost& each : hosts_)
    if (each.host == host) epoch = each.epoch;
  return {host, epoch, id, holder_id(holder), slices, replicas};
}

std::vector<SliceId> CoreRig::lease(std::uint8_t holder, std::uint32_t slices, const std::string& host) {
  const auto request = grant(holder, slices, "lease-" + std::to_string(++requests_), host);
  const auto granted = ask<GrantAnswer>(request);
  ConfirmSlices confirm{host, request.epoch, request.holder, {}};
  for (const SliceLease& each : granted.leases) confirm.slices.push_back(each.slice);
  for (const SliceStatus& each : ask<ConfirmAnswer>(confirm).slices) EXPECT_EQ(each.status, LeaseStatus::kHeld);
  return confirm.slices;
}

ReleaseSlices CoreRig::release(std::uint8_t holder, std::vector<SliceId> slices, const std::string& host) const {
  return {host, grant(holder, 1, "", host).epoch, holder_id(holder), std::move(slices), false};
}

void CoreRig::pass(std::chrono::milliseconds time) {
  for (std::chrono::milliseconds gone{0}; gone < time; gone += std::chrono::milliseconds(500)) {
    context_.now = context_.now + std::chrono::milliseconds(500);
    tick();
  }
}

void CoreRig::live(std::chrono::milliseconds time) {
  for (std::chrono::milliseconds gone{0}; gone < time; gone += std::chrono::milliseconds(1000)) {
    heartbeats();
    for (const SyncHost& each : std::vector<SyncHost>(hosts_)) sync(each.host);
    pass(std::chrono::milliseconds(1000));
  }
}

VmView CoreRig::vm(const std::string& name) {
  ListVms request;
  request.vm = name;
  const auto answer = ask<VmsAnswer>(request);
  EXPECT_EQ(answer.vms.size(), 1u) << name;
  return answer.vms.empty() ? VmView{} : answer.vms.front();
}

void CoreRig::reload() {
  core_ = Core(config_);
  for (const auto& [key, value] : store) EXPECT_TRUE(core_.take(key, value)) << key;
  const auto begun = core_.begin(context_);
  ASSERT_TRUE(begun) << begun.error().message();
  commit(*begun);
}

}  // namespace tidepool::pool::controller
