#include "bench/controller/large_pool.h"

#include <cstring>
#include <stdexcept>

namespace tidepool::pool::controller {
namespace {

std::string server_name(unsigned server) {
  return "server-" + std::to_string(server);
}

std::string host_name(unsigned host) {
  return "host-" + std::to_string(host);
}

template <class Id>
Id id_of(std::uint64_t number) {
  Id id{};
  ++number;
  std::memcpy(id.data(), &number, sizeof number);
  return id;
}

}  // namespace

std::unique_ptr<Core> load(const std::map<std::string, std::string>& records, const CoreConfig& config,
                           const Context& context) {
  auto core = std::make_unique<Core>(config);
  for (const auto& [key, value] : records)
    if (!core->take(key, value)) return nullptr;
  return core->begin(context) ? std::move(core) : nullptr;
}

LargePool::LargePool(const LargePoolShape& shape, std::uint64_t seed)
    : shape_(shape), random_(seed), epochs_(shape.hosts), reports_(shape.hosts), freed_(shape.servers) {
  config_.cluster = "large";
  config_.history = 1000;
  context_.now = MonoTime{std::chrono::hours(1)};
  core_ = std::make_unique<Core>(config_);
  auto begun = core_->begin(context_);
  if (!begun) throw std::runtime_error(begun.error().message());
  commit(std::move(*begun));
  for (unsigned i = 0; i < shape.servers; ++i) {
    RegisterServer request;
    request.name = server_name(i);
    request.boot = id_of<BootId>(i);
    request.address = "tcp:10.0.0.1:" + std::to_string(i);
    request.domain = "rack-" + std::to_string(i % shape.domains);
    // Not all alike.
    const std::uint64_t slices = shape.slices_per_server / 2 + random_.below(shape.slices_per_server);
    request.capacity = Bytes{slices * config_.slice_bytes.value};
    ask(request);
  }
  for (unsigned i = 0; i < shape.tenants; ++i) {
    SetTenant request;
    request.tenant = "tenant-" + std::to_string(i);
    request.bounds.weight = 1 + static_cast<double>(random_.below(4));
    ask(request);
  }
  for (unsigned i = 0; i < shape.hosts * shape.vms_per_host; ++i)
    wanted_.push_back(1 + random_.below(shape.most_wanted));
  for (unsigned i = 0; i < shape.hosts; ++i) {
    epochs_[i] = std::get<SyncAnswer>(ask(sync_of(i))).epoch;
    sync(i);
    for (unsigned v = 0; v < shape.vms_per_host; ++v) {
      SetVm request;
      request.host = host_name(i);
      request.vm = "vm-" + std::to_string(v);
      request.bounds.weight = 0.5 + static_cast<double>(random_.below(16)) / 4;
      ask(request);
    }
  }
}

void LargePool::commit(std::vector<StateChange> changes) {
  for (StateChange& change : changes) {
    if (change.value) {
      records_[change.key] = std::move(*change.value);
    } else {
      records_.erase(change.key);
    }
  }
}

Answer LargePool::ask(const Request& request) {
  Outcome outcome = core_->apply(request, context_);
  if (const auto* refusal = std::get_if<Refusal>(&outcome.answer))
    throw std::runtime_error(refusal->message + " " + refusal->arithmetic);
  commit(std::move(outcome.changes));
  return std::move(outcome.answer);
}

bool LargePool::tick() {
  Core::Tick tick = core_->tick(context_);
  commit(std::move(tick.changes));
  return tick.again;
}

SyncHost LargePool::sync_of(unsigned host) {
  SyncHost request;
  request.host = host_name(host);
  request.machine = "machine";
  request.boot = "boot";
  request.instance = "agent";
  request.epoch = epochs_[host];
  for (unsigned v = 0; v < shape_.vms_per_host; ++v) {
    const std::uint64_t number = std::uint64_t{host} * shape_.vms_per_host + v;
    VmReport report;
    report.holder = id_of<HolderId>(number);
    report.name = "vm-" + std::to_string(v);
    report.tenant = "tenant-" + std::to_string(number % shape_.tenants);
    report.wanted = Bytes{wanted_[number] * config_.slice_bytes.value};
    request.vms.push_back(std::move(report));
  }
  std::swap(request.tasks, reports_[host]);
  return request;
}

std::vector<Task> LargePool::sync(unsigned host) {
  return std::get<SyncAnswer>(ask(sync_of(host))).tasks;
}

void LargePool::finish(unsigned host, const Task& task) {
  if (reports_[host].size() < kMostReports)
    reports_[host].push_back({task.kind, task.slice, task.server, task.epoch, true, {}});
}

void LargePool::heartbeat(unsigned server) {
  ServerHeartbeat request;
  request.name = server_name(server);
  request.boot = id_of<BootId>(server);
  std::swap(request.done, freed_[server]);
  freed_[server] = std::get<ServerAnswer>(ask(request)).free;
}

std::size_t LargePool::renew(unsigned host) {
  std::size_t renewed = 0;
  for (unsigned v = 0; v < shape_.vms_per_host; ++v) {
    const auto holder = id_of<HolderId>(std::uint64_t{host} * shape_.vms_per_host + v);
    renewed += std::get<RenewAnswer>(ask(RenewLeases{host_name(host), epochs_[host], holder, {}, {}})).leases.size();
  }
  return renewed;
}

void LargePool::fill(std::uint32_t slices_per_vm) {
  for (unsigned host = 0; host < shape_.hosts; ++host) {
    for (unsigned v = 0; v < shape_.vms_per_host; ++v) {
      GrantSlices grant;
      grant.host = host_name(host);
      grant.epoch = epochs_[host];
      grant.request = "fill-" + std::to_string(v);
      grant.holder = id_of<HolderId>(std::uint64_t{host} * shape_.vms_per_host + v);
      grant.slices = slices_per_vm;
      ConfirmSlices confirm{grant.host, grant.epoch, grant.holder, {}};
      const Answer granted = ask(grant);
      for (const SliceLease& lease : std::get<GrantAnswer>(granted).leases) confirm.slices.push_back(lease.slice);
      ask(confirm);
    }
  }
}

}  // namespace tidepool::pool::controller
