#include "pool/client/remote_pool.h"

#include <algorithm>
#include <utility>

namespace tidepool::pool {
namespace {

using namespace std::chrono_literals;

// How long the slices of a VM that ended are waited for, until every server has taken them back. One that is away then
// keeps its own.
constexpr auto kClosingPatience = 30s;
// What a link was asked to give back is on its way for a moment; it says nothing of its arrival.
constexpr auto kGivingBack = 500ms;
constexpr auto kClosingPoll = 20ms;

// The server's entry, made where there is none.
std::vector<RemoteServerFigures>::iterator server_in(RemoteFigures& sum, const std::string& server) {
  const auto found = std::ranges::find(sum.servers, server, &RemoteServerFigures::server);
  if (found != sum.servers.end()) return found;
  RemoteServerFigures& fresh = sum.servers.emplace_back();
  fresh.server = server;
  fresh.up = true;
  return sum.servers.end() - 1;
}

// What happened, and only grows.
void add_history(const RemoteFigures& own, RemoteFigures& sum) {
  for (const RemoteServerFigures& from : own.servers) {
    const auto to = server_in(sum, from.server);
    to->wrong_answers += from.wrong_answers;
    to->hedges += from.hedges;
    to->boots = std::max(to->boots, from.boots);
    to->link.from_files += from.link.from_files;
    to->link.bytes_sent += from.link.bytes_sent;
    to->link.bytes_received += from.link.bytes_received;
  }
  sum.hedges += own.hedges;
  sum.hedges_won += own.hedges_won;
  sum.steals += own.steals;
  sum.replicas_dropped += own.replicas_dropped;
  sum.replicas_rebuilt += own.replicas_rebuilt;
  sum.rebuilds_failed += own.rebuilds_failed;
  sum.rebuilt_pages += own.rebuilt_pages;
  sum.lost_pages += own.lost_pages;
  sum.unavailable_reads += own.unavailable_reads;
  sum.corrupt_reads += own.corrupt_reads;
  sum.stale_reads += own.stale_reads;
  sum.refused_writes += own.refused_writes;
  sum.full_writes += own.full_writes;
  sum.refused_releases += own.refused_releases;
  sum.bad_entries += own.bad_entries;
}

// How it is now.
void add_state(const RemoteFigures& own, RemoteFigures& sum) {
  for (const RemoteServerFigures& from : own.servers) {
    const auto to = server_in(sum, from.server);
    to->up = to->up && from.up;
    to->draining = to->draining || from.draining;
    if (!from.why.empty()) to->why = from.why;
    to->slices += from.slices;
    to->filling += from.filling;
    to->link.typical_read = std::max(to->link.typical_read, from.link.typical_read);
  }
  sum.slices += own.slices;
  sum.degraded_slices += own.degraded_slices;
  sum.close_slices += own.close_slices;
  sum.lost_slices += own.lost_slices;
  sum.filling_slices += own.filling_slices;
  sum.expired_slices += own.expired_slices;
  sum.rebuild_remaining += own.rebuild_remaining;
  sum.closing_slices += own.closing_slices;
  sum.closing += own.closing;
  sum.queued_pages += own.queued_pages;
  sum.under_way_pages += own.under_way_pages;
}

}  // namespace

RemotePool::RemotePool(Bytes capacity, const std::vector<std::string>& servers) : capacity_(capacity) {
  for (const std::string& server : servers) server_in(past_, server);
  closer_ = std::jthread([this](const std::stop_token& stop) { close_stores(stop); });
}

RemotePool::~RemotePool() = default;

void RemotePool::stop_closing() {
  closer_.request_stop();
  closer_.join();
}

std::vector<std::shared_ptr<RemoteStore>> RemotePool::stores() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<RemoteStore>> all;
  for (const auto& [name, vm] : vms_) all.push_back(vm.store);
  for (const auto& [since, vm] : closing_) all.push_back(vm.store);
  return all;
}

std::vector<std::pair<std::string, std::shared_ptr<RemoteStore>>> RemotePool::stores_by_name() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::pair<std::string, std::shared_ptr<RemoteStore>>> all;
  for (const auto& [name, vm] : vms_) all.emplace_back(name, vm.store);
  return all;
}

StoreUsage RemotePool::usage() const {
  StoreUsage sum;
  for (const auto& store : stores()) {
    const StoreUsage own = store->usage();
    sum.used += own.used;
    sum.metadata += own.metadata;
    sum.process_memory += own.process_memory;
    sum.pages = sum.pages + own.pages;
    sum.incompressible += own.incompressible;
  }
  sum.capacity = capacity_;
  return sum;
}

StoreErrors RemotePool::errors() const {
  StoreErrors sum;
  const RemoteFigures all = figures();
  sum.refused_releases = all.refused_releases;
  sum.refused_writes = all.refused_writes;
  sum.stale_reads = all.stale_reads;
  sum.corrupt_pages = all.corrupt_reads;
  sum.bad_entries = all.bad_entries;
  return sum;
}

Result<std::shared_ptr<PageStore>> RemotePool::open_for(const std::string& vm) {
  {
    const std::lock_guard lock(mutex_);
    if (vms_.contains(vm)) return failure(std::errc::file_exists, "open a store at memory servers for", vm);
  }
  auto secret = VmSecret::create();
  if (!secret) return Failure{secret.error()};
  VmStore made;
  made.secret = std::move(*secret);
  auto store = make_store(vm, made.secret);
  if (!store) return Failure{store.error()};
  made.store = std::move(*store);
  const std::lock_guard lock(mutex_);
  const auto [at, fresh] = vms_.emplace(vm, std::move(made));
  if (!fresh) return failure(std::errc::file_exists, "open a store at memory servers for", vm);
  return std::shared_ptr<PageStore>(at->second.store);
}

std::vector<std::pair<std::string, int>> RemotePool::held_descriptors(const std::string& vm) const {
  const std::lock_guard lock(mutex_);
  std::vector<std::pair<std::string, int>> held;
  const std::string folder = "vm/" + vm + "/pool/";
  if (const auto found = vms_.find(vm); found != vms_.end()) {
    for (const auto& [name, fd] : found->second.store->held_descriptors()) held.emplace_back(folder + name, fd);
  }
  return held;
}

void RemotePool::close_for(const std::string& vm) {
  const std::lock_guard lock(mutex_);
  const auto found = vms_.find(vm);
  if (found == vms_.end()) return;
  closing_.emplace_back(clock_.now(), std::move(found->second));
  vms_.erase(found);
  closing_some_.notify_all();
}

void RemotePool::end(VmStore& vm) {
  const protocol::HolderId holder = vm.store->holder();
  vm.store.reset();
  vm.secret->wipe();
  ended(holder);
}

// Empty slices go back by themselves; the key is of no use to anybody then.
void RemotePool::close_stores(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (!stop.stop_requested()) {
    closing_some_.wait(lock, stop, [this] { return !closing_.empty(); });
    std::list<std::pair<MonoTime, VmStore>> done;
    for (auto at = closing_.begin(); at != closing_.end();) {
      // Only when nobody else has it any more is nothing under way.
      const bool ours = at->second.store.use_count() == 1;
      if (ours && at->second.given_back == MonoTime{}) {
        at->second.store->give_back_all();
        at->second.given_back = clock_.now();
      }
      const bool ended =
          (at->second.store->figures().slices == 0 && clock_.now() - at->second.given_back > kGivingBack) ||
          clock_.now() - at->first > kClosingPatience;
      const auto next = std::next(at);
      if (ours && ended) {
        add_history(at->second.store->figures(), past_);
        done.splice(done.end(), closing_, at);
      }
      at = next;
    }
    lock.unlock();
    for (auto& [since, vm] : done) end(vm);
    lock.lock();
    if (!closing_.empty()) closing_some_.wait_for(lock, stop, kClosingPoll, [] { return false; });
  }
  // At the end what is leased for VMs that are no more goes back in one go.
  bool any = false;
  for (auto& [since, vm] : closing_) {
    if (vm.store.use_count() != 1) continue;
    any = true;
    if (vm.given_back == MonoTime{}) vm.store->give_back_all();
  }
  lock.unlock();
  if (any) std::this_thread::sleep_for(kGivingBack);
  for (auto& [since, vm] : closing_) {
    if (vm.store.use_count() == 1) end(vm);
  }
}

RemoteFigures RemotePool::figures() const {
  // One that is being closed is counted once: with those that are, or in the past.
  RemoteFigures sum;
  std::vector<std::shared_ptr<RemoteStore>> all;
  {
    const std::lock_guard lock(mutex_);
    sum = past_;
    for (const auto& [name, vm] : vms_) all.push_back(vm.store);
    for (const auto& [since, vm] : closing_) all.push_back(vm.store);
  }
  for (const auto& store : all) {
    const RemoteFigures own = store->figures();
    add_state(own, sum);
    add_history(own, sum);
  }
  return sum;
}

}  // namespace tidepool::pool
