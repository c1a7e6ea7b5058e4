#include "tests/unit/pool/controller/simulated_pool.h"

#include <algorithm>

#include "pool/controller/core/state.h"
#include "tests/unit/pool/controller/audit.h"

namespace tidepool::pool::controller {
namespace {

constexpr std::size_t kMostUnderWay = 40;

CoreConfig simulated_config(const PoolShape& shape) {
  CoreConfig config;
  config.cluster = "simulated";
  config.slice_bytes = Bytes{kSimulatedSlice};
  config.replicas = shape.replicas;
  config.heartbeat = std::chrono::seconds(1);
  config.suspect_after = std::chrono::seconds(4);
  config.lost_after = std::chrono::seconds(12);
  config.host_silent_after = std::chrono::seconds(10);
  config.offer = std::chrono::seconds(15);
  config.sync = std::chrono::seconds(1);
  config.reclaim = std::chrono::seconds(20);
  config.buffer = 0.05;
  config.history = 50;
  return config;
}

std::string describe_needy(const State& state) {
  std::string text;
  for (const auto& [id, slice] : state.slices) {
    if (slice.need == Need::kNothing && !slice.under_replicated && !slice.copying) continue;
    text += "slice " + std::to_string(id) + " of " + slice.life->vm->record.name + " need " +
            std::to_string(static_cast<int>(slice.need));
    for (const ReplicaRecord& replica : slice.record.replicas)
      text += " " + std::to_string(replica.server) + "." + std::to_string(static_cast<int>(replica.phase));
    text += "; ";
  }
  for (const auto& [name, server] : state.servers)
    text += " " + std::to_string(server.record.number) + " " + server.record.domain + " room " +
            std::to_string(state.room_of(server)) + " orphans " + std::to_string(server.orphans.size());
  return text;
}

}  // namespace

// What holders have of slices with too few copies, by their own account.
std::string SimulatedPool::describe_copies() {
  std::string text;
  for (auto& [name, host] : hosts_) {
    text += "\n  " + name + " epoch " + std::to_string(host.epoch) + ", lost " + std::to_string(host.lost.size()) +
            ", reports " + std::to_string(host.reports.size());
    for (SimulatedVm& vm : host.vms) {
      for (auto& [id, slice] : vm.slices) {
        if (slice.copies.size() >= shape_.replicas) continue;
        text += "; " + vm.name + " " + std::to_string(id) + (slice.confirmed ? "" : " (not confirmed)");
        for (const auto& [server, copy] : slice.copies)
          text += " " + server + "/" + std::to_string(copy.epoch) + (copy.settled ? "" : " filling") +
                  (servers_.at(server).reach(id, copy.epoch, copy.boot) == nullptr ? " gone" : "");
      }
    }
  }
  return text;
}

SimulatedPool::SimulatedPool(const PoolShape& shape, std::uint64_t seed)
    : shape_(shape), random_(seed), config_(simulated_config(shape)) {
  context_.now = MonoTime{std::chrono::hours(1)};
  for (unsigned i = 0; i < shape.servers; ++i) {
    SimulatedServer server;
    server.name = "server-" + std::to_string(i);
    server.domain = "rack-" + std::to_string(i % shape.domains);
    server.capacity = shape.slices_per_server;
    server.boot = 1000 + next_name_++;
    servers_[server.name] = server;
  }
  for (unsigned i = 0; i < shape.hosts; ++i) {
    SimulatedHost host;
    host.name = "host-" + std::to_string(i);
    hosts_[host.name] = host;
  }
  load();
}

SimulatedPool::~SimulatedPool() = default;

void SimulatedPool::fail(std::string what) {
  if (wrong_.empty()) wrong_ = std::move(what);
}

void SimulatedPool::load() {
  ++loads_;
  core_ = std::make_unique<Core>(config_);
  for (const auto& [key, value] : store_)
    if (const auto taken = core_->take(key, value); !taken) fail(taken.error().message());
  const auto begun = core_->begin(context_);
  if (!begun) return fail(begun.error().message());
  commit(*begun);
}

void SimulatedPool::commit(const std::vector<StateChange>& changes) {
  if (changes.size() > kMostChanges) fail("a call changes " + std::to_string(changes.size()) + " records");
  for (const StateChange& change : changes) {
    if (change.value) {
      store_[change.key] = *change.value;
    } else {
      store_.erase(change.key);
    }
  }
}

// Nothing: whoever asked gets no answer.
std::optional<Answer> SimulatedPool::ask(const Request& request) {
  Outcome outcome = core_->apply(request, context_);
  if (std::holds_alternative<Refusal>(outcome.answer) && !outcome.changes.empty())
    fail("a refusal changes records: " + std::get<Refusal>(outcome.answer).message);
  // A word of a former boot that was believed while the server was silent: its room is not known until it is heard.
  if (const auto* registration = std::get_if<RegisterServer>(&request))
    if (!std::holds_alternative<Refusal>(outcome.answer))
      misled_ = misled_ || registration->boot != servers_.at(registration->name).boot_id();
  const bool ends_before = chance(1);
  if (!ends_before) commit(outcome.changes);
  if (ends_before || chance(1)) {
    load();
    return std::nullopt;
  }
  return std::move(outcome.answer);
}

void SimulatedPool::tick() {
  const Core::Tick tick = core_->tick(context_);
  if (chance(1)) return load();
  commit(tick.changes);
}

void SimulatedPool::send(std::string from, Request request) {
  if (chance(5)) return;  // lost
  if (messages_.size() > kMostUnderWay) messages_.erase(messages_.begin());
  messages_.push_back({std::move(from), std::move(request)});
}

// Any message, or any reply, whatever came first.
void SimulatedPool::deliver() {
  const std::size_t count = messages_.size() + replies_.size();
  if (count == 0) return;
  std::size_t at = shape_.faults ? random_.below(count) : 0;
  if (at < messages_.size()) {
    const Message message = messages_[at];
    // Doubled: it stays under way.
    if (!chance(7)) messages_.erase(messages_.begin() + static_cast<std::ptrdiff_t>(at));
    auto answer = ask(message.request);
    if (answer && !chance(5)) replies_.push_back({message.from, message.request, std::move(*answer)});
    return;
  }
  at -= messages_.size();
  const Reply reply = replies_[at];
  if (!chance(5)) replies_.erase(replies_.begin() + static_cast<std::ptrdiff_t>(at));
  if (replies_.size() > kMostUnderWay) replies_.erase(replies_.begin());
  take(reply);
}

void SimulatedPool::take(const Reply& reply) {
  const std::string name = reply.to.substr(0, reply.to.find('#'));
  const std::string life = reply.to.substr(reply.to.find('#') + 1);
  if (const auto server = servers_.find(name); server != servers_.end()) {
    if (life != std::to_string(server->second.boot) || !server->second.up) return;
    if (const auto* answer = std::get_if<ServerAnswer>(&reply.answer)) {
      if (std::holds_alternative<RegisterServer>(reply.request)) server->second.registered = true;
      take_server(server->second, *answer);
    } else if (std::get<Refusal>(reply.answer).code == Refusal::Code::kStale) {
      server->second.registered = false;
    }
    return;
  }
  SimulatedHost& host = hosts_.at(name);
  if (life != std::to_string(host.agents) || !host.up) return;
  if (const auto* refusal = std::get_if<Refusal>(&reply.answer)) {
    if (refusal->code == Refusal::Code::kStale) host.epoch = 0;
    return;
  }
  if (const auto* answer = std::get_if<GrantAnswer>(&reply.answer)) {
    take_grant(host, std::get<GrantSlices>(reply.request), *answer);
  } else if (const auto* confirmed = std::get_if<ConfirmAnswer>(&reply.answer)) {
    take_confirm(host, std::get<ConfirmSlices>(reply.request), *confirmed);
  } else if (const auto* renewed = std::get_if<RenewAnswer>(&reply.answer)) {
    take_renewal(host, std::get<RenewLeases>(reply.request), *renewed);
  } else if (const auto* synced = std::get_if<SyncAnswer>(&reply.answer)) {
    const auto& request = std::get<SyncHost>(reply.request);
    if (request.epoch != 0) {
      const auto told = [](const auto& all, const auto& each) {
        return std::ranges::any_of(all, [&](const auto& other) {
          return other.slice == each.slice && other.server == each.server && other.epoch == each.epoch;
        });
      };
      std::erase_if(host.lost, [&](const LostReplica& each) { return told(request.lost, each); });
      for (const TaskReport& report : request.tasks) {
        if (report.kind != TaskKind::kAddReplica || !report.done || told(synced->refused, report)) continue;
        for (SimulatedVm& vm : host.vms)
          if (const auto slice = vm.slices.find(static_cast<std::uint64_t>(report.slice)); slice != vm.slices.end())
            if (const auto copy = slice->second.copies.find(report.server);
                copy != slice->second.copies.end() && copy->second.epoch == static_cast<std::uint64_t>(report.epoch))
              copy->second.settled = true;
      }
      std::erase_if(host.reports, [&](const TaskReport& each) { return told(request.tasks, each); });
    }
    take_sync(host, *synced);
  }
}

std::string SimulatedPool::told() {
  const Outcome outcome = core_->apply(ListHistory{{{}, 20}, {}}, context_);
  std::string text;
  for (const HistoryEntry& entry : std::get<HistoryAnswer>(outcome.answer).entries)
    text += "\n  " + entry.event + " " + entry.subject + ": " + entry.text;
  return text;
}

// ---- what is wrong with the world --------------------------------------------------------------------------------

void SimulatedPool::disturb() {
  auto server = servers_.begin();
  std::advance(server, static_cast<std::ptrdiff_t>(random_.below(servers_.size())));
  auto host = hosts_.begin();
  std::advance(host, static_cast<std::ptrdiff_t>(random_.below(hosts_.size())));
  SimulatedServer& at = server->second;
  SimulatedHost& on = host->second;
  switch (random_.below(14)) {
    case 0:
      at.begin_anew(1000 + next_name_++);
      break;
    case 1:
      at.cut = !at.cut;
      break;
    case 2:
      at.up = !at.up;
      break;
    case 3:
      if (random_.below(2) == 0) {
        at.ending = !at.ending;
      } else {
        ask(DrainServer{at.name, random_.below(2) == 0, false});
      }
      break;
    case 4:  // the agent ends; what it had not confirmed is forgotten
      ++on.agents;
      on.epoch = 0;
      on.reports.clear();  // what is out of force stands in its table, and is told again
      for (SimulatedVm& vm : on.vms) std::erase_if(vm.slices, [](const auto& each) { return !each.second.confirmed; });
      break;
    case 5:  // the machine boots
      if (random_.below(3) != 0) break;
      ++on.agents;
      ++on.boots;
      on.epoch = 0;
      on.vms.clear();
      on.gone.clear();
      on.lost.clear();
      on.reports.clear();
      break;
    case 6:
      on.up = !on.up;
      break;
    case 7:
      if (on.vms.empty()) break;
      on.gone.push_back(on.vms.back().holder);
      on.vms.pop_back();
      break;
    case 8:
      if (on.up) break;
      for (SimulatedVm& vm : on.vms) vm.forgotten = true;
      ask(ForgetHost{on.name, false});
      break;
    case 9:
      if (on.vms.empty()) break;
      {
        SetVm set;
        set.host = on.name;
        set.vm = on.vms.front().name;
        set.bounds.limit = Bytes{random_.below(8) * kSimulatedSlice};
        if (random_.below(2) == 0) set.bounds.reservation = Bytes{random_.below(3) * kSimulatedSlice};
        ask(set);
      }
      break;
    case 10:
      load();
      break;
    default:
      context_.now = context_.now + std::chrono::seconds(random_.below(8));
      break;
  }
}

void SimulatedPool::step() {
  context_.now = context_.now + std::chrono::milliseconds(random_.below(400));
  auto server = servers_.begin();
  std::advance(server, static_cast<std::ptrdiff_t>(random_.below(servers_.size())));
  auto host = hosts_.begin();
  std::advance(host, static_cast<std::ptrdiff_t>(random_.below(hosts_.size())));
  const std::uint64_t what = random_.below(100);
  if (what < 50) {
    deliver();
  } else if (what < 62) {
    server_speaks(server->second);
  } else if (what < 74) {
    if (host->second.up) host_speaks(host->second);
  } else if (what < 90) {
    for (int i = 0; i < 3 && host->second.up; ++i) host_acts(host->second);
  } else if (what < 96) {
    tick();
  } else if (what < 98) {
    server->second.up = host->second.up = true;
    server->second.cut = false;
  } else if (shape_.faults) {
    disturb();
  }
  check();
}

void SimulatedPool::settle() {
  shape_.faults = false;
  for (auto& [name, server] : servers_) {
    server.up = true;
    server.cut = server.ending = false;
    ask(DrainServer{name, false, false});
  }
  for (auto& [name, host] : hosts_) {
    host.up = true;
    for (SimulatedVm& vm : host.vms) vm.wanted = std::min<std::uint64_t>(vm.wanted, 1);
  }
  for (int round = 0; round < 120 && wrong_.empty(); ++round) {
    context_.now = context_.now + std::chrono::seconds(1);
    for (auto& [name, server] : servers_) server_speaks(server);
    for (auto& [name, host] : hosts_) {
      host_speaks(host);
      for (SimulatedVm& vm : host.vms) {
        for (; vm.give_back > 0 && !vm.slices.empty(); --vm.give_back) release(host, vm, vm.slices.begin()->first);
        if (host.epoch != 0)
          send(name + "#" + std::to_string(host.agents), RenewLeases{name, host.epoch, vm.holder, {}, {}});
      }
    }
    while (!messages_.empty() || !replies_.empty()) deliver();
    tick();
    check();
  }
  if (!wrong_.empty()) return;
  const State& state = core_->state();
  if (state.totals.offered + state.totals.releasing > 0) return fail("something is never ended");
  if (state.totals.copying + state.totals.to_copy + state.totals.under_replicated > state.totals.lost)
    return fail("something is never copied: " + describe_needy(state) + describe_copies());
  for (const auto& [name, server] : servers_) {
    std::set<std::uint64_t> has;
    for (const auto& [id, held] : server.slices) has.insert(id);
    if (has == state.servers.at(name).slices) continue;
    std::string text = "server " + name + " has";
    for (const std::uint64_t id : has) text += " " + std::to_string(id);
    text += ", the records say";
    for (const std::uint64_t id : state.servers.at(name).slices) text += " " + std::to_string(id);
    text += ", orphans";
    for (const auto& [id, orphan] : state.servers.at(name).orphans)
      text += " " + std::to_string(id) + "/" + std::to_string(orphan.epoch) + "/" + std::to_string(orphan.below);
    return fail(text);
  }
  check_records();
}

// ---- what must hold ----------------------------------------------------------------------------------------------

void SimulatedPool::check_records() {
  std::vector<StateChange> records = core_->records();
  std::map<std::string, std::string> now;
  for (StateChange& record : records) now[record.key] = std::move(*record.value);
  if (now != store_) return fail("the records are not what was stored");
  Core again(config_);
  for (const auto& [key, value] : store_)
    if (const auto taken = again.take(key, value); !taken) return fail(taken.error().message());
  const auto begun = again.begin(context_);
  if (!begun) return fail("loaded anew: " + begun.error().message());
  if (!begun->empty()) return fail("loading changes records");
  now.clear();
  for (StateChange& record : again.records()) now[record.key] = std::move(*record.value);
  if (now != store_) return fail("loaded anew, the records are others");
  if (const std::string found = audit(again.state()); !found.empty()) fail("loaded anew: " + found);
}

void SimulatedPool::check() {
  if (random_.below(4) == 0)
    if (const std::string found = audit(core_->state()); !found.empty()) fail(found);
  if (random_.below(60) == 0) check_records();
  for (const auto& [id, slice] : core_->state().slices)
    if (owners_.try_emplace(id, slice.record.holder).first->second != slice.record.holder)
      fail("slice " + std::to_string(id) + " has another holder than it had");
  for (auto& [host_name, host] : hosts_) {
    for (SimulatedVm& vm : host.vms) {
      if (vm.forgotten) continue;
      for (auto& [id, slice] : vm.slices) {
        if (!slice.confirmed) continue;
        for (auto& [name, copy] : slice.copies) {
          SimulatedServer& server = servers_.at(name);
          if (!copy.settled || server.boot_id() != copy.boot) continue;
          const auto found = server.slices.find(id);
          if (found == server.slices.end() || found->second.holder != vm.holder)
            return fail("slice " + std::to_string(id) + " of " + vm.name + " was freed at " + name);
          if (found->second.epoch != copy.epoch)
            return fail("slice " + std::to_string(id) + " of " + vm.name + " is fenced at " + name);
          if (found->second.content != slice.content)
            return fail("slice " + std::to_string(id) + " of " + vm.name + " has another content at " + name);
        }
      }
    }
  }
}

}  // namespace tidepool::pool::controller
