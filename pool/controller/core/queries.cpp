// What can be asked without changing anything.
#include <algorithm>
#include <charconv>

#include "pool/controller/core/state.h"

namespace tidepool::pool::controller {
namespace {

using enum Refusal::Code;

std::uint64_t milliseconds_since(const State& state, MonoTime then) {
  const Nanoseconds span = state.context.now - then;
  return static_cast<std::uint64_t>(std::max<std::int64_t>(0, span.count() / 1'000'000));
}

bool is_silent(const State& state, const Host& host) {
  return state.context.now - host.seen >= state.config.host_silent_after;
}

std::size_t most_of(const Page& page) {
  return page.limit == 0 ? kMostPage : std::min<std::size_t>(page.limit, kMostPage);
}

// Where a page of numbered things begins; nothing: the cursor is not one of ours.
std::optional<std::uint64_t> number_of(const Page& page, std::uint64_t if_first) {
  if (page.after.empty()) return if_first;
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(page.after.data(), page.after.data() + page.after.size(), number);
  if (error != std::errc{} || end != page.after.data() + page.after.size()) return std::nullopt;
  return number;
}

tl::unexpected<Refusal> bad_cursor(const Page& page) {
  return refuse(kInvalid, "no list goes on after '" + page.after.substr(0, kMostNameBytes) + "'",
                "give the `next` of the page before, or nothing");
}

void add_server(const State& state, const Server& server, StatusAnswer& status, std::vector<DomainView>& domains) {
  status.servers_up += server.state == ServerState::kUp ? 1 : 0;
  status.servers_suspect += server.state == ServerState::kSuspect ? 1 : 0;
  status.servers_lost += server.state == ServerState::kLost ? 1 : 0;
  status.servers_draining += server.draining() ? 1 : 0;
  DomainView& domain = domains[server.domain];
  ++domain.servers;
  if (!server.trusted()) return;
  domain.capacity += state.to_bytes(state.capacity_of(server));
  const std::uint64_t freeing = server.freeing.size() + server.orphans.size();
  domain.leased += state.to_bytes(server.slices.size() - server.freeing.size());
  status.freeing += state.to_bytes(freeing);
  if (server.usable()) domain.free += state.to_bytes(state.room_of(server));
}

void add_domains(const State& state, StatusAnswer& status) {
  std::vector<DomainView> domains(state.domains.size());
  for (const auto& [name, number] : state.domains) domains[number].name = name;
  for (const auto& [name, server] : state.servers) add_server(state, server, status, domains);
  const std::vector<std::uint64_t> free = state.free_by_domain();
  const std::uint64_t groups = most_groups(free, state.config.replicas);
  for (std::size_t i = 0; i < domains.size(); ++i) {
    if (domains[i].servers == 0) continue;
    // Only what a domain has beyond the number of groups can find no partner.
    domains[i].stranded = state.to_bytes(free[i] > groups ? free[i] - groups : 0);
    status.capacity += domains[i].capacity;
    status.leased += domains[i].leased;
    status.free += domains[i].free;
    status.domains.push_back(std::move(domains[i]));
  }
  std::ranges::sort(status.domains, {}, &DomainView::name);
  status.grantable = state.to_bytes(groups);
  status.stranded = status.free - state.to_bytes(groups * state.config.replicas);
}

VmView view_of(const State& state, const Vm& vm) {
  VmView view;
  view.host = vm.record.host;
  view.name = vm.record.name;
  view.tenant = vm.record.tenant;
  if (!vm.record.lives.empty()) view.holder = vm.record.lives.back().holder;
  view.present = vm.present;
  view.replicas = vm.record.replicas;
  view.reservation = Bytes{vm.record.bounds.reservation};
  view.limit = Bytes{vm.record.bounds.limit};
  view.weight = vm.record.bounds.weight;
  view.wanted = Bytes{vm.wanted};
  view.used = Bytes{vm.used};
  view.held = state.to_bytes(vm.held);
  view.share = state.to_bytes(vm.share);
  view.give_back = state.to_bytes(vm.give_back);
  view.give_back_overdue = vm.overdue;
  view.slices = vm.held;
  view.under_replicated = vm.under_replicated;
  return view;
}

ReplicaStatus status_of(const ReplicaRecord& replica, const Server* server) {
  if (server == nullptr) return ReplicaStatus::kGone;
  switch (replica.phase) {
    case ReplicaPhase::kInForce:
      return ReplicaStatus::kInForce;
    case ReplicaPhase::kJoining:
      return ReplicaStatus::kJoining;
    case ReplicaPhase::kMoving:
    case ReplicaPhase::kLeaving:
      return ReplicaStatus::kLeaving;
    case ReplicaPhase::kFreeing:
      break;
  }
  return ReplicaStatus::kFreeing;
}

LeaseView view_of(const State& state, const Slice& slice) {
  LeaseView view;
  view.slice = SliceId{slice.record.id};
  view.host = slice.life->vm->record.host;
  view.vm = slice.life->vm->record.name;
  view.holder = slice.record.holder;
  view.status = slice.record.phase == SlicePhase::kOffered ? LeaseStatus::kOffered
                : slice.record.phase == SlicePhase::kHeld  ? LeaseStatus::kHeld
                                                           : LeaseStatus::kReleasing;
  for (const ReplicaRecord& replica : slice.record.replicas) {
    const Server* const server = state.server_of(replica);
    // One of before: the name is that of the server, whatever boot.
    const auto named = state.by_number.find(replica.server);
    const std::string name = named == state.by_number.end() ? "(forgotten)" : named->second->record.name;
    view.replicas.push_back({name, status_of(replica, server), LeaseEpoch{replica.epoch}});
  }
  return view;
}

}  // namespace

Handled handle(State& state, const GetStatus&) {
  StatusAnswer status;
  status.cluster = state.cluster.cluster;
  status.slice_bytes = Bytes{state.cluster.slice_bytes};
  status.replicas = state.config.replicas;
  add_domains(state, status);
  status.buffer = state.to_bytes(state.buffer / state.config.replicas);
  status.hosts = static_cast<std::uint32_t>(state.hosts.size());
  for (const auto& [name, host] : state.hosts) {
    status.hosts_silent += is_silent(state, host) ? 1 : 0;
    status.vms += static_cast<std::uint32_t>(host.vms.size());
    status.held += state.to_bytes(host.held);
    for (const auto& [vm_name, vm] : host.vms) {
      status.wanted += Bytes{vm.wanted};
      status.used += Bytes{vm.used};
      status.reclaims_overdue += vm.overdue ? 1 : 0;
    }
  }
  status.slices = state.slices.size();
  status.offered = state.totals.offered;
  status.releasing = state.totals.releasing;
  status.under_replicated = state.totals.under_replicated;
  status.lost_slices = state.totals.lost;
  status.rebuild_running = state.totals.copying;
  status.rebuild_remaining = state.to_bytes(state.totals.to_copy + state.totals.copying);
  for (const auto& [name, tenant] : state.tenants)
    status.tenants.push_back({name, Bytes{tenant.record.bounds.reservation}, Bytes{tenant.record.bounds.limit},
                              tenant.record.bounds.weight, state.to_bytes(tenant.held), state.to_bytes(tenant.share),
                              tenant.vms});
  return Answer{std::move(status)};
}

Handled handle(State& state, const ListServers& request) {
  ServersAnswer answer;
  for (auto each = state.servers.upper_bound(request.page.after); each != state.servers.end(); ++each) {
    if (answer.servers.size() == most_of(request.page)) {
      answer.next = answer.servers.back().name;
      break;
    }
    const Server& server = each->second;
    ServerView view;
    view.name = each->first;
    view.address = server.record.address;
    view.domain = server.record.domain;
    view.boot = server.record.boot;
    view.state = server.state;
    view.draining = server.draining();
    view.capacity = state.to_bytes(state.capacity_of(server));
    view.leased = state.to_bytes(server.slices.size() - server.freeing.size());
    view.freeing = state.to_bytes(server.freeing.size() + server.orphans.size());
    view.free = state.to_bytes(state.room_of(server));
    view.reported_free = Bytes{server.reported_free};
    view.slices = server.slices.size();
    view.slices_to_move = server.draining() ? server.slices.size() : 0;
    view.last_seen_ms = milliseconds_since(state, server.seen);
    answer.servers.push_back(std::move(view));
  }
  return Answer{std::move(answer)};
}

Handled handle(State& state, const ListHosts& request) {
  HostsAnswer answer;
  for (auto each = state.hosts.upper_bound(request.page.after); each != state.hosts.end(); ++each) {
    if (answer.hosts.size() == most_of(request.page)) {
      answer.next = answer.hosts.back().name;
      break;
    }
    const Host& host = each->second;
    HostView view;
    view.name = each->first;
    view.epoch = host.record.epoch;
    view.limit = Bytes{host.record.bounds.limit};
    view.weight = host.record.bounds.weight;
    view.held = state.to_bytes(host.held);
    view.spare = Bytes{host.spare};
    view.vms = static_cast<std::uint32_t>(host.vms.size());
    view.silent = is_silent(state, host);
    view.seen = host.heard;
    view.last_seen_ms = milliseconds_since(state, host.seen);
    answer.hosts.push_back(std::move(view));
  }
  return Answer{std::move(answer)};
}

Handled handle(State& state, const ListVms& request) {
  VmsAnswer answer;
  // The cursor is HOST/NAME; names of hosts have no slash.
  const std::size_t slash = request.page.after.find('/');
  if (!request.page.after.empty() && slash == std::string::npos) return bad_cursor(request.page);
  const std::string from_host = request.page.after.substr(0, slash);
  for (auto host = state.hosts.lower_bound(std::max(from_host, request.host)); host != state.hosts.end(); ++host) {
    if (!request.host.empty() && host->first != request.host) break;
    const auto& vms = host->second.vms;
    auto each = host->first == from_host && slash != std::string::npos
                    ? vms.upper_bound(request.page.after.substr(slash + 1))
                    : vms.begin();
    for (; each != vms.end(); ++each) {
      if (!request.vm.empty() && each->first != request.vm) continue;
      if (!request.tenant.empty() && each->second.record.tenant != request.tenant) continue;
      if (answer.vms.size() == most_of(request.page)) {
        answer.next = answer.vms.back().host + "/" + answer.vms.back().name;
        return Answer{std::move(answer)};
      }
      answer.vms.push_back(view_of(state, each->second));
    }
  }
  return Answer{std::move(answer)};
}

Handled handle(State& state, const ListLeases& request) {
  const auto after = number_of(request.page, 0);
  if (!after) return bad_cursor(request.page);
  LeasesAnswer answer;
  const auto add = [&](const Slice& slice) {
    if (answer.leases.size() == most_of(request.page)) {
      answer.next = std::to_string(static_cast<std::uint64_t>(answer.leases.back().slice));
      return false;
    }
    const Vm& vm = *slice.life->vm;
    if (!request.host.empty() && vm.record.host != request.host) return true;
    if (!request.vm.empty() && vm.record.name != request.vm) return true;
    answer.leases.push_back(view_of(state, slice));
    return true;
  };
  if (request.server.empty()) {
    for (auto each = state.slices.upper_bound(*after); each != state.slices.end(); ++each)
      if (!add(each->second)) break;
    return Answer{std::move(answer)};
  }
  const auto server = state.servers.find(request.server);
  if (server == state.servers.end()) return refuse(kNotFound, "no memory server " + request.server);
  const auto& ids = server->second.slices;
  for (auto each = ids.upper_bound(*after); each != ids.end(); ++each)
    if (!add(state.slices.at(*each))) break;
  return Answer{std::move(answer)};
}

Handled handle(State& state, const ListHistory& request) {
  const auto before = number_of(request.page, UINT64_MAX);
  if (!before) return bad_cursor(request.page);
  HistoryAnswer answer;
  const auto end = std::ranges::lower_bound(state.history, *before, {}, &HistoryEntry::number);
  for (auto each = end; each != state.history.begin();) {
    --each;
    if (!request.subject.empty() && each->subject != request.subject) continue;
    if (answer.entries.size() == most_of(request.page)) {
      answer.next = std::to_string(answer.entries.back().number);
      break;
    }
    answer.entries.push_back(*each);
  }
  return Answer{std::move(answer)};
}

}  // namespace tidepool::pool::controller
