// How simulated servers and agents behave.
#include <algorithm>
#include <cstring>

#include "tests/unit/pool/controller/simulated_pool.h"

namespace tidepool::pool::controller {
namespace {

constexpr std::size_t kMostVms = 3;

HolderId holder_id(std::uint64_t number) {
  HolderId holder{};
  std::memcpy(holder.data(), &number, sizeof number);
  return holder;
}

}  // namespace

// ---- servers -----------------------------------------------------------------------------------------------------

BootId SimulatedServer::boot_id() const {
  BootId id{};
  std::memcpy(id.data(), &boot, sizeof boot);
  return id;
}

bool SimulatedServer::attach(const protocol::Claims& claims, const BootId& boot_known, bool& full) {
  const auto id = static_cast<std::uint64_t>(claims.slice);
  const auto epoch = static_cast<std::uint64_t>(claims.epoch);
  if (!up || boot_known != boot_id()) return false;
  if (const auto fence = fences.find(id); fence != fences.end() && epoch < fence->second) return false;
  if (const auto found = slices.find(id); found != slices.end()) {
    if (found->second.holder != claims.holder || epoch < found->second.epoch) return false;
    found->second.epoch = epoch;
    return true;
  }
  if ((claims.rights & protocol::kRightCreate) == 0) return false;
  full = slices.size() >= capacity;
  if (full) return false;
  slices[id] = {claims.holder, epoch, 0};
  return true;
}

SimulatedServer::Held* SimulatedServer::reach(std::uint64_t id, std::uint64_t epoch, const BootId& boot_known) {
  if (!up || boot_known != boot_id()) return nullptr;
  const auto found = slices.find(id);
  return found != slices.end() && found->second.epoch == epoch ? &found->second : nullptr;
}

void SimulatedServer::begin_anew(std::uint64_t next_boot) {
  boot = next_boot;
  up = true;
  registered = ending = false;
  slices.clear();
  fences.clear();
  done.clear();
}

void SimulatedPool::server_speaks(SimulatedServer& server) {
  if (!server.up || server.cut) return;
  const std::string from = server.name + "#" + std::to_string(server.boot);
  if (!server.registered) {
    RegisterServer request;
    request.name = server.name;
    request.boot = server.boot_id();
    request.address = "unix:/" + server.name;
    request.domain = server.domain;
    request.capacity = Bytes{server.capacity * kSimulatedSlice};
    for (const auto& [id, held] : server.slices) request.slices.push_back({SliceId{id}, LeaseEpoch{held.epoch}});
    return send(from, request);
  }
  ServerHeartbeat request;
  request.name = server.name;
  request.boot = server.boot_id();
  request.draining = server.ending;
  request.free = Bytes{(server.capacity - server.slices.size()) * kSimulatedSlice};
  const std::size_t count = std::min(server.done.size(), kMostSlicesPerRequest);
  request.done.assign(server.done.begin(), server.done.begin() + static_cast<std::ptrdiff_t>(count));
  server.done.erase(server.done.begin(), server.done.begin() + static_cast<std::ptrdiff_t>(count));
  send(from, request);
}

void SimulatedPool::take_server(SimulatedServer& server, const ServerAnswer& answer) {
  if (answer.register_again) server.registered = false;
  for (const FreeCommand& command : answer.free) free_at(server, command);
}

void SimulatedPool::free_at(SimulatedServer& server, const FreeCommand& command) {
  const auto id = static_cast<std::uint64_t>(command.slice);
  const auto below = static_cast<std::uint64_t>(command.below);
  std::uint64_t& fence = server.fences[id];
  fence = std::max(fence, below);
  if (const auto found = server.slices.find(id); found != server.slices.end() && found->second.epoch < below)
    server.slices.erase(found);  // check() sees whether somebody misses it
  server.done.push_back(command);
}

// ---- hosts -------------------------------------------------------------------------------------------------------

SimulatedVm* SimulatedPool::vm_of(SimulatedHost& host, const HolderId& holder) {
  const auto found = std::ranges::find(host.vms, holder, &SimulatedVm::holder);
  return found == host.vms.end() ? nullptr : &*found;
}

// Copies from which the page could be read now, but for that server's.
unsigned SimulatedPool::whole_copies(SimulatedSlice& slice, std::uint64_t id, const std::string& but) {
  unsigned whole = 0;
  for (const auto& [name, copy] : slice.copies)
    if (name != but)
      if (const auto* held = servers_.at(name).reach(id, copy.epoch, copy.boot); held && held->content == slice.content)
        ++whole;
  return whole;
}

// That replica is never used again, whatever task of it is still under way.
void SimulatedPool::give_up(SimulatedHost& host, SimulatedVm& vm, std::uint64_t id, const std::string& server,
                            std::uint64_t epoch) {
  host.lost.push_back({SliceId{id}, server, LeaseEpoch{epoch}});
  vm.given_up.emplace(id, server, epoch);
}

// Its links see that a server has begun anew.
void SimulatedPool::see_boots(SimulatedHost& host) {
  for (SimulatedVm& vm : host.vms) {
    for (auto& [id, slice] : vm.slices) {
      for (auto copy = slice.copies.begin(); slice.confirmed && copy != slice.copies.end();) {
        const auto& [name, at] = *copy;
        const bool gone = servers_.at(name).up && servers_.at(name).boot_id() != at.boot;
        if (gone) give_up(host, vm, id, name, at.epoch);
        copy = gone ? slice.copies.erase(copy) : std::next(copy);
      }
    }
  }
}

void SimulatedPool::host_speaks(SimulatedHost& host) {
  see_boots(host);
  SyncHost request;
  request.host = host.name;
  request.machine = "machine of " + host.name;
  request.boot = "boot " + std::to_string(host.boots);
  request.instance = "agent " + std::to_string(host.agents);
  request.epoch = host.epoch;
  request.spare = Bytes{100 * kSimulatedSlice};
  for (const SimulatedVm& vm : host.vms) {
    VmReport report;
    report.holder = vm.holder;
    report.name = vm.name;
    report.tenant = vm.name.back() % 2 == 0 ? "blue" : "";
    report.wanted = Bytes{vm.wanted * kSimulatedSlice};
    report.replicas = shape_.replicas;
    for (const auto& [id, slice] : vm.slices) report.used += Bytes{slice.content != 0 ? kSimulatedSlice : 0};
    request.vms.push_back(report);
  }
  request.gone = host.gone;
  request.lost.assign(host.lost.begin(),
                      host.lost.begin() + static_cast<std::ptrdiff_t>(std::min(host.lost.size(), kMostReports)));
  request.tasks.assign(host.reports.begin(),
                       host.reports.begin() + static_cast<std::ptrdiff_t>(std::min(host.reports.size(), kMostReports)));
  send(host.name + "#" + std::to_string(host.agents), request);
}

void SimulatedPool::host_acts(SimulatedHost& host) {
  const std::string from = host.name + "#" + std::to_string(host.agents);
  if (host.vms.size() < kMostVms && random_.below(host.vms.empty() ? 2 : 20) == 0) {
    SimulatedVm vm;
    vm.name = "vm-" + std::to_string(random_.below(6));
    if (std::ranges::find(host.vms, vm.name, &SimulatedVm::name) != host.vms.end()) return;
    vm.holder = holder_id(next_name_++);
    vm.wanted = 1 + random_.below(8);
    host.vms.push_back(vm);
    return;
  }
  if (host.vms.empty() || host.epoch == 0) return;
  SimulatedVm& vm = host.vms[random_.below(host.vms.size())];
  const std::uint64_t what = random_.below(10);
  auto slice = vm.slices.begin();
  if (!vm.slices.empty()) std::advance(slice, static_cast<std::ptrdiff_t>(random_.below(vm.slices.size())));
  if (vm.give_back > 0 && what < 5 && slice != vm.slices.end()) {
    --vm.give_back;
    release(host, vm, slice->first);
  } else if (what < 4 && vm.slices.size() < vm.wanted) {
    const auto count = static_cast<std::uint32_t>(1 + random_.below(2));
    const std::string id = std::to_string(host.agents) + "-" + std::to_string(random_.below(1000));
    send(from, GrantSlices{host.name, host.epoch, id, vm.holder, count, shape_.replicas});
  } else if (what < 8 && slice != vm.slices.end()) {
    write(host, vm, slice->first);
  } else if (what == 8) {
    send(from, RenewLeases{host.name, host.epoch, vm.holder, {}, {}});
  } else if (slice != vm.slices.end() && random_.below(3) == 0) {
    release(host, vm, slice->first);
  } else {
    vm.wanted = random_.below(8);
  }
}

void SimulatedPool::write(SimulatedHost& host, SimulatedVm& vm, std::uint64_t id) {
  SimulatedSlice& slice = vm.slices.at(id);
  if (!slice.confirmed) return;
  std::vector<SimulatedServer::Held*> reached;
  std::vector<std::string> missed;
  for (const auto& [name, copy] : slice.copies) {
    auto* const held = chance(3) ? nullptr : servers_.at(name).reach(id, copy.epoch, copy.boot);
    if (held != nullptr) {
      reached.push_back(held);
    } else {
      missed.push_back(name);
    }
  }
  if (reached.empty()) return;  // the page stays at home
  slice.content = ++writes_;
  for (auto* held : reached) held->content = slice.content;
  for (const std::string& name : missed) {
    give_up(host, vm, id, name, slice.copies.at(name).epoch);
    slice.copies.erase(name);
  }
}

void SimulatedPool::release(SimulatedHost& host, SimulatedVm& vm, std::uint64_t id) {
  vm.slices.erase(id);  // its page came home
  vm.released.insert(id);
  send(host.name + "#" + std::to_string(host.agents),
       ReleaseSlices{host.name, host.epoch, vm.holder, {SliceId{id}}, false});
}

bool SimulatedPool::attach_all(const SliceLease& lease, SimulatedSlice& slice) {
  for (const ReplicaLease& replica : lease.replicas) {
    SimulatedServer& server = servers_.at(replica.server);
    bool full = false;
    const bool attached = !chance(3) && server.attach(replica.claims, replica.boot, full);
    if (full && !misled_) fail("server " + replica.server + " has no room for a slice that it was chosen for");
    if (!attached) return false;
    slice.copies[replica.server] = {static_cast<std::uint64_t>(replica.claims.epoch), replica.boot, true};
  }
  return true;
}

void SimulatedPool::take_grant(SimulatedHost& host, const GrantSlices& request, const GrantAnswer& answer) {
  const std::string from = host.name + "#" + std::to_string(host.agents);
  SimulatedVm* const vm = vm_of(host, request.holder);
  ConfirmSlices confirm{host.name, host.epoch, request.holder, {}};
  ReleaseSlices release{host.name, host.epoch, request.holder, {}, false};
  for (const SliceLease& lease : answer.leases) {
    const auto id = static_cast<std::uint64_t>(lease.slice);
    const auto owner = owners_.try_emplace(id, request.holder).first;
    if (owner->second != request.holder) fail("slice " + std::to_string(id) + " is granted to two holders");
    std::set<std::string> domains;
    bool first = true;  // as granted; asked for again later, replicas may have been made anew
    for (const ReplicaLease& replica : lease.replicas) {
      domains.insert(servers_.at(replica.server).domain);
      first = first && static_cast<std::uint64_t>(replica.claims.epoch) == 1;
    }
    if (first && domains.size() != lease.replicas.size()) fail("two replicas in one failure domain");
    if (vm == nullptr || vm->slices.contains(id) || vm->released.contains(id)) continue;
    SimulatedSlice slice;
    if (lease.replicas.size() == request.replicas && attach_all(lease, slice)) {
      vm->slices[id] = slice;
      confirm.slices.push_back(lease.slice);
      ++grants_;
    } else {
      release.slices.push_back(lease.slice);
      vm->released.insert(id);
    }
  }
  if (!confirm.slices.empty()) send(from, confirm);
  if (!release.slices.empty()) send(from, release);
}

void SimulatedPool::take_confirm(SimulatedHost& host, const ConfirmSlices& request, const ConfirmAnswer& answer) {
  SimulatedVm* const vm = vm_of(host, request.holder);
  if (vm == nullptr) return;
  for (const SliceStatus& status : answer.slices) {
    const auto found = vm->slices.find(static_cast<std::uint64_t>(status.slice));
    if (found == vm->slices.end() || found->second.confirmed) continue;
    if (status.status == LeaseStatus::kHeld) {
      found->second.confirmed = true;
    } else {
      vm->slices.erase(found);
    }
  }
}

// The agent compares what it has with what the controller thinks that it has.
void SimulatedPool::take_renewal(SimulatedHost& host, const RenewLeases& request, const RenewAnswer& answer) {
  SimulatedVm* const vm = vm_of(host, request.holder);
  if (vm == nullptr) return;
  ReleaseSlices release{host.name, host.epoch, vm->holder, {}, false};
  ConfirmSlices confirm{host.name, host.epoch, vm->holder, {}};
  for (const SliceLease& lease : answer.leases) {
    const auto found = vm->slices.find(static_cast<std::uint64_t>(lease.slice));
    if (found == vm->slices.end()) {
      if (release.slices.size() == kMostSlicesPerRequest) continue;
      release.slices.push_back(lease.slice);
      vm->released.insert(static_cast<std::uint64_t>(lease.slice));
    } else if (!found->second.confirmed) {
      if (confirm.slices.size() < kMostSlicesPerRequest) confirm.slices.push_back(lease.slice);
    } else {
      // A copy whose task was given up while its agent began anew.
      std::erase_if(found->second.copies, [&](const auto& each) {
        const bool listed =
            std::ranges::find(lease.replicas, each.first, &ReplicaLease::server) != lease.replicas.end();
        if (!listed && !each.second.settled) give_up(host, *vm, found->first, each.first, each.second.epoch);
        return !listed && !each.second.settled;
      });
    }
  }
  const std::string from = host.name + "#" + std::to_string(host.agents);
  if (!release.slices.empty()) send(from, release);
  if (!confirm.slices.empty()) send(from, confirm);
}

void SimulatedPool::take_sync(SimulatedHost& host, const SyncAnswer& answer) {
  host.epoch = answer.epoch;
  for (const TaskReport& report : answer.refused)
    for (SimulatedVm& vm : host.vms)
      if (const auto slice = vm.slices.find(static_cast<std::uint64_t>(report.slice)); slice != vm.slices.end())
        if (const auto copy = slice->second.copies.find(report.server);
            copy != slice->second.copies.end() && copy->second.epoch == static_cast<std::uint64_t>(report.epoch))
          slice->second.copies.erase(copy);
  for (const VmShare& share : answer.vms)
    if (SimulatedVm* const vm = vm_of(host, share.holder)) vm->give_back = share.give_back.value / kSimulatedSlice;
  for (const HolderId& stray : answer.strays)
    if (vm_of(host, stray) == nullptr && std::ranges::find(host.gone, stray) == host.gone.end())
      host.gone.push_back(stray);
  for (const Task& task : answer.tasks)
    if (SimulatedVm* const vm = vm_of(host, task.holder); vm != nullptr && !chance(10)) do_task(host, *vm, task);
}

void SimulatedPool::do_task(SimulatedHost& host, SimulatedVm& vm, const Task& task) {
  const auto id = static_cast<std::uint64_t>(task.slice);
  const auto epoch = static_cast<std::uint64_t>(task.epoch);
  const auto found = vm.slices.find(id);
  if (found == vm.slices.end() || !found->second.confirmed) return;
  SimulatedSlice& slice = found->second;
  const auto copy = slice.copies.find(task.server);
  TaskReport report{task.kind, task.slice, task.server, task.epoch, true, {}};
  if (task.kind == TaskKind::kDropReplica) {
    if (copy != slice.copies.end() && copy->second.epoch == epoch) {
      if (slice.content != 0 && whole_copies(slice, id, task.server) == 0) return;  // never the last one
      slice.copies.erase(copy);
    }
  } else if (vm.given_up.contains({id, task.server, epoch})) {
    report.done = false;
  } else if (copy == slice.copies.end() || copy->second.epoch < epoch) {
    SimulatedServer& server = servers_.at(task.server);
    bool full = false;
    const bool room = slice.copies.size() < kMostReplicasPerSlice || copy != slice.copies.end();
    const bool readable = slice.content == 0 || whole_copies(slice, id, task.server) > 0;
    report.done = room && readable && !chance(5) && server.attach(task.lease->claims, task.lease->boot, full);
    if (full && !misled_) fail("server " + task.server + " has no room for a copy that it was chosen for");
    if (report.done) {
      server.reach(id, epoch, task.lease->boot)->content = slice.content;
      slice.copies[task.server] = {epoch, task.lease->boot, false};
      ++copies_;
    }
  }
  host.reports.push_back(report);
}

}  // namespace tidepool::pool::controller
