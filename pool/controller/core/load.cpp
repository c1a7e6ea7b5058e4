// From records to a state, and back.
#include <algorithm>
#include <bit>

#include "pool/controller/core/state.h"

namespace tidepool::pool::controller {
namespace {

Failure contradiction(const std::string& key, const std::string& why) {
  return failure(std::errc::bad_message, "load the record", key, why + ": restore a backup");
}

template <class Record, class Keep>
Result<> take_as(std::string_view key, std::string_view value, Keep&& keep) {
  auto record = decode<Record>(key, value);
  if (!record) return Failure{record.error()};
  keep(std::move(*record));
  return {};
}

Result<> check(const CoreConfig& config) {
  const std::uint64_t bytes = config.slice_bytes.value;
  if (!std::has_single_bit(bytes) || bytes < (std::uint64_t{2} << 20) || bytes > (std::uint64_t{1} << 30))
    return failure(std::errc::invalid_argument, "use", "slices of " + std::to_string(bytes) + " bytes",
                   "a slice has 2 MiB to 1 GiB, a power of two");
  if (config.replicas < 1 || config.replicas > kMostReplicasPerSlice)
    return failure(std::errc::invalid_argument, "use", std::to_string(config.replicas) + " replicas", "1 to 3");
  if (!(config.buffer >= 0 && config.buffer <= 0.5))
    return failure(std::errc::invalid_argument, "use", "the buffer", "0 to 0.5 of the capacity");
  if (config.suspect_after <= config.heartbeat || config.lost_after <= config.suspect_after)
    return failure(std::errc::invalid_argument, "use", "the times of servers",
                   "heartbeat < suspect_after < lost_after");
  return {};
}

Result<> link_vms(State& state) {
  for (VmRecord& record : state.loaded_vms) {
    Host* const host = state.find_host(record.host);
    if (host == nullptr) return contradiction(key_of(record), "its host is not known");
    Vm& vm = host->vms[record.name];
    vm.host = host;
    vm.record = std::move(record);
    ++state.tenant_of(vm.record.tenant).vms;
    for (const LifeRecord& each : vm.record.lives) {
      Life& life = state.lives[each.holder];
      if (life.vm != nullptr) return contradiction(key_of(vm.record), "its holder is another VM's, too");
      life.holder = each.holder;
      life.vm = &vm;
    }
  }
  state.loaded_vms = {};
  return {};
}

Result<> link_slices(State& state) {
  std::ranges::sort(state.loaded_slices, {}, &SliceRecord::id);
  for (SliceRecord& record : state.loaded_slices) {
    const auto life = state.lives.find(record.holder);
    if (life == state.lives.end()) return contradiction(key_of(record), "its holder is not known");
    if (record.id >= state.next.slice) return contradiction(key_of(record), "it is newer than the newest");
    if (record.wanted < 1 || record.wanted > kMostReplicasPerSlice)
      return contradiction(key_of(record), "a slice has 1 to 3 replicas");
    const bool offered = record.phase == SlicePhase::kOffered;
    const Slice& slice = state.create(std::move(record), life->second);
    if (!offered) continue;
    // Its time begins anew: how long nobody was there to be told is not known.
    const std::string& host = life->second.vm->record.host;
    state.offers.push_back({host, life->first, {slice.record.id}, state.context.now + state.config.offer});
  }
  state.loaded_slices = {};
  return {};
}

}  // namespace

Result<> Core::take(std::string_view key, std::string_view value) {
  State& state = *state_;
  const std::string_view kind = key.substr(0, key.find('/'));
  if (kind == "slice")
    return take_as<SliceRecord>(key, value,
                                [&](SliceRecord&& record) { state.loaded_slices.push_back(std::move(record)); });
  if (kind == "vm")
    return take_as<VmRecord>(key, value, [&](VmRecord&& record) { state.loaded_vms.push_back(std::move(record)); });
  if (kind == "history")
    return take_as<HistoryEntry>(key, value,
                                 [&](HistoryEntry&& record) { state.history.push_back(std::move(record)); });
  if (kind == "host")
    return take_as<HostRecord>(key, value, [&](HostRecord&& record) {
      const std::string name = record.name;
      state.hosts[name].record = std::move(record);
    });
  if (kind == "tenant")
    return take_as<TenantRecord>(key, value, [&](TenantRecord&& record) {
      Tenant& tenant = state.tenant_of(record.name);
      tenant.record = std::move(record);
      tenant.stored = true;
    });
  if (kind == "server")
    return take_as<ServerRecord>(key, value, [&](ServerRecord&& record) {
      const std::string name = record.name;
      state.servers[name].record = std::move(record);
    });
  if (key == "meta/cluster")
    return take_as<ClusterRecord>(key, value, [&](ClusterRecord&& record) { state.cluster = std::move(record); });
  if (key == "meta/next") return take_as<NextRecord>(key, value, [&](NextRecord&& record) { state.next = record; });
  return failure(std::errc::not_supported, "read the record", std::string(key),
                 "this program knows no such kind: use the program that wrote it, or a newer one");
}

Result<std::vector<StateChange>> Core::begin(const Context& context) {
  State& state = *state_;
  state.context = context;
  if (const auto checked = check(state.config); !checked) return Failure{checked.error()};
  const bool fresh = state.cluster.slice_bytes == 0;
  if (fresh &&
      !(state.servers.empty() && state.hosts.empty() && state.loaded_slices.empty() && state.loaded_vms.empty()))
    return contradiction("meta/cluster", "there are records, and this one is missing");
  // Without slices there is nothing that the size of one could contradict.
  const bool resized = !fresh && state.cluster.slice_bytes != state.config.slice_bytes.value;
  if (resized && !state.loaded_slices.empty())
    return failure(std::errc::invalid_argument, "use", "slices of " + size_text(state.config.slice_bytes),
                   "the pool's have " + size_text(Bytes{state.cluster.slice_bytes}) + ": set slice_size to that");
  if (fresh || resized) {
    if (fresh) {
      state.cluster.cluster = state.config.cluster;
      state.next = first_numbers(state.cluster.cluster);
    }
    state.cluster.slice_bytes = state.config.slice_bytes.value;
    state.save(state.cluster);
    state.save(state.next);
  }
  for (auto& [name, server] : state.servers) {
    server.domain = state.domain_number(server.record);
    server.seen = context.now;
    // Nobody is called lost by a controller that has not listened yet, nor given anything new.
    server.state = server.record.left ? ServerState::kLost : ServerState::kSuspect;
    if (!state.by_number.emplace(server.record.number, &server).second)
      return contradiction(key_of(server.record), "another server has its number");
  }
  for (auto& [name, host] : state.hosts) host.seen = context.now;
  if (auto linked = link_vms(state); !linked) return Failure{linked.error()};
  if (auto linked = link_slices(state); !linked) return Failure{linked.error()};
  std::ranges::sort(state.history, {}, &HistoryEntry::number);
  for (auto& [name, host] : state.hosts) state.note_ended(host);
  state.recount_claims();
  state.next_round = context.now;
  std::vector<StateChange> changes;
  for (auto& [key, value] : state.changes) changes.push_back({key, std::move(value)});
  state.changes.clear();
  return changes;
}

std::vector<StateChange> Core::records() const {
  const State& state = *state_;
  std::map<std::string, std::optional<std::string>> all;
  const auto put = [&](const auto& record) { all[key_of(record)] = encode(record); };
  put(state.cluster);
  put(state.next);
  for (const auto& [name, tenant] : state.tenants)
    if (tenant.stored) put(tenant.record);
  for (const auto& [name, server] : state.servers) put(server.record);
  for (const auto& [name, host] : state.hosts) {
    put(host.record);
    for (const auto& [vm_name, vm] : host.vms) put(vm.record);
  }
  for (const auto& [id, slice] : state.slices) put(slice.record);
  for (const HistoryEntry& entry : state.history) put(entry);
  std::vector<StateChange> records;
  records.reserve(all.size());
  for (auto& [key, value] : all) records.push_back({key, std::move(value)});
  return records;
}

}  // namespace tidepool::pool::controller
