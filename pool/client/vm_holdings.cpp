#include "pool/client/vm_holdings.h"

#include <algorithm>
#include <utility>

namespace tidepool::pool {
namespace {

using controller::LeaseStatus;
using controller::TaskKind;
using protocol::SliceId;
using State = SliceReport::State;

// Empty slices are kept for what comes next: a demotion does not wait for a grant.
constexpr std::size_t kMostStock = 4;
constexpr std::size_t kSlicesPerStock = 16;
// While much moves out it is more, within these bounds: what was granted is used up so soon, or has lasted so long.
constexpr Bytes kMostStockBytes{512ull << 20};
constexpr Nanoseconds kUsedUpSoon = std::chrono::seconds(5);
constexpr Nanoseconds kLastsLong = std::chrono::seconds(20);

GrantedReplica granted_of(const controller::ReplicaLease& lease, const std::map<std::string, std::string>& domains) {
  const auto domain = domains.find(lease.server);
  return {lease.server, lease.address, domain == domains.end() ? "" : domain->second, {lease.claims, lease.secret}};
}

}  // namespace

std::size_t VmHoldings::stock() const {
  const auto busy = static_cast<std::size_t>(
      std::ranges::count_if(slices_, [](const SliceReport& slice) { return slice.pages != 0; }));
  return std::max(std::min(1 + busy / kSlicesPerStock, kMostStock), ahead_);
}

std::size_t VmHoldings::most_stock() const {
  return std::clamp<std::size_t>(kMostStockBytes.value / slice_.value, kMostStock, controller::kMostSlicesPerRequest);
}

void VmHoldings::look(RemoteStore& store, MonoTime now) {
  slices_ = store.slices();
  if (now - granted_at_ > kLastsLong) ahead_ = 1;
  for (const SliceReport& slice : slices_) {
    if (slice.state != State::kRefused) continue;
    store.withdraw(slice.slice);
    to_release_.push_back(slice.slice);
  }
  // One more than is kept in stock may stay: what is needed in a moment is not given back now.
  const std::vector<SliceId> empty = store.give_back_empty(gives_back_ ? 0 : stock() + 1);
  to_release_.insert(to_release_.end(), empty.begin(), empty.end());
  if (!empty.empty()) slices_ = store.slices();
  const std::uint64_t full = store.figures().full_writes;
  turned_away_ += full - full_writes_;
  full_writes_ = full;
  used_ =
      used_ || turned_away_ != 0 || std::ranges::any_of(slices_, [](const auto& slice) { return slice.pages != 0; });
  for (auto& [key, job] : jobs_) {
    if (job.done || !job.failed.empty()) continue;
    const auto slice = std::ranges::find(slices_, job.task.slice, &SliceReport::slice);
    if (slice == slices_.end()) {
      job.done = job.task.kind == TaskKind::kDropReplica;
      if (!job.done) job.failed = "this host does not hold the slice";
      continue;
    }
    const auto replica = std::ranges::find(slice->replicas, job.task.server, &SliceReport::Replica::server);
    if (job.task.kind == TaskKind::kDropReplica) {
      job.done = store.drop_replica(job.task.slice, job.task.server);
    } else if (replica == slice->replicas.end() || (!replica->in_force && !replica->filling)) {
      job.failed = "the server took no slice, or went away";
    } else {
      job.done = replica->in_force && replica->epoch == static_cast<std::uint64_t>(job.task.epoch);
    }
  }
}

controller::VmReport VmHoldings::report(RemoteStore& store) {
  controller::VmReport report;
  report.holder = store.holder();
  report.name = name_;
  report.used = to_bytes(store.usage().pages);
  report.replicas = replicas_;
  report.wanted = report.used;
  // Whoever has moved nothing out yet wants nothing.
  if (used_) report.wanted += Bytes{stock() * slice_.value} + Bytes{std::exchange(turned_away_, 0) * kPageSize};
  return report;
}

std::vector<controller::LostReplica> VmHoldings::lost() const {
  std::vector<controller::LostReplica> lost;
  for (const SliceReport& slice : slices_) {
    for (const SliceReport::Replica& replica : slice.replicas) {
      if (slice.state == State::kOffered || replica.in_force || replica.filling) continue;
      lost.push_back({slice.slice, replica.server, protocol::LeaseEpoch{replica.epoch}});
    }
  }
  return lost;
}

std::vector<controller::TaskReport> VmHoldings::task_reports() const {
  std::vector<controller::TaskReport> reports;
  for (const auto& [key, job] : jobs_) {
    if (!job.done && job.failed.empty()) continue;
    reports.push_back({job.task.kind, job.task.slice, job.task.server, job.task.epoch, job.done, job.failed});
  }
  return reports;
}

std::uint32_t VmHoldings::wants(MonoTime now) const {
  if (!used_ || gives_back_ || now < ask_at_) return 0;
  const auto spare = static_cast<std::size_t>(std::ranges::count_if(slices_, [](const SliceReport& slice) {
    return slice.state != State::kRefused && slice.state != State::kClosing && slice.pages == 0;
  }));
  return spare < stock() ? std::min(static_cast<std::uint32_t>(stock() - spare), at_once_) : 0;
}

void VmHoldings::granted(RemoteStore& store, const controller::GrantAnswer& answer,
                         const std::map<std::string, std::string>& domains, MonoTime now) {
  refusal_.clear();
  if (granted_at_ != MonoTime{} && now - granted_at_ < kUsedUpSoon) ahead_ = std::min(2 * ahead_, most_stock());
  granted_at_ = now;
  at_once_ = std::min<std::uint32_t>(2 * at_once_, controller::kMostSlicesPerRequest);
  for (const controller::SliceLease& lease : answer.leases) {
    GrantedSlice granted{lease.slice, {}};
    for (const controller::ReplicaLease& replica : lease.replicas)
      granted.replicas.push_back(granted_of(replica, domains));
    const auto offered = store.offer(granted);
    if (offered) continue;
    refusal_ = offered.error().message();
    to_release_.push_back(lease.slice);
  }
  slices_ = store.slices();
}

void VmHoldings::refused(std::uint32_t asked, MonoTime again, std::string why) {
  ask_at_ = again;
  at_once_ = std::max(asked / 2, 1u);
  ahead_ = std::max<std::size_t>(ahead_ / 2, 1);
  refusal_ = std::move(why);
}

std::vector<SliceId> VmHoldings::to_confirm() const {
  std::vector<SliceId> all;
  for (const SliceReport& slice : slices_)
    if (slice.state == State::kAttached && all.size() < controller::kMostSlicesPerRequest) all.push_back(slice.slice);
  return all;
}

void VmHoldings::confirmed(RemoteStore& store, const controller::ConfirmAnswer& answer) {
  for (const controller::SliceStatus& slice : answer.slices) {
    if (slice.status == LeaseStatus::kHeld) {
      store.confirm(slice.slice);
    } else if (slice.status != LeaseStatus::kOffered) {
      store.withdraw(slice.slice);
    }
  }
  slices_ = store.slices();
}

std::vector<SliceId> VmHoldings::to_release() const {
  const auto count = std::min(to_release_.size(), controller::kMostSlicesPerRequest);
  return {to_release_.begin(), to_release_.begin() + static_cast<std::ptrdiff_t>(count)};
}

void VmHoldings::released(const controller::ReleaseAnswer& answer) {
  for (const controller::SliceStatus& slice : answer.slices) std::erase(to_release_, slice.slice);
}

void VmHoldings::take_share(RemoteStore& store, const controller::VmShare& share) {
  const std::uint64_t back = (share.give_back.value + slice_.value - 1) / slice_.value;
  gives_back_ = back != 0;
  const auto ready = static_cast<std::size_t>(std::ranges::count_if(slices_, [](const SliceReport& slice) {
    return slice.state == State::kReady || slice.state == State::kClosing;
  }));
  // What is on its way back counts for the controller still.
  const std::uint64_t more = back - std::min<std::uint64_t>(back, to_release_.size());
  keep_ = gives_back_ ? ready - std::min<std::size_t>(ready, more) : SIZE_MAX;
  store.keep_slices(keep_);
}

void VmHoldings::take_tasks(RemoteStore& store, std::vector<controller::Task> tasks,
                            const std::map<std::string, std::string>& domains) {
  std::map<std::pair<SliceId, std::string>, Job> jobs;
  for (controller::Task& task : tasks) {
    const std::pair key{task.slice, task.server};
    const auto known = jobs_.find(key);
    if (known != jobs_.end() && known->second.task.kind == task.kind && known->second.task.epoch == task.epoch) {
      jobs.emplace(key, std::move(known->second));
      jobs_.erase(known);
      continue;
    }
    Job job{.task = std::move(task)};
    if (job.task.kind == TaskKind::kAddReplica) {
      if (!job.task.lease) {
        job.failed = "there is no lease with the task";
      } else if (auto added = store.add_replica(job.task.slice, granted_of(*job.task.lease, domains)); !added) {
        job.failed = added.error().message();
      }
    }
    jobs.emplace(key, std::move(job));
  }
  std::swap(jobs_, jobs);
  // What is wanted no more: a copy that is not complete is left.
  for (const auto& [key, job] : jobs) {
    if (jobs_.contains(key) || job.done || job.task.kind != TaskKind::kAddReplica) continue;
    const auto slice = std::ranges::find(slices_, job.task.slice, &SliceReport::slice);
    if (slice == slices_.end()) continue;
    const auto replica = std::ranges::find(slice->replicas, job.task.server, &SliceReport::Replica::server);
    if (replica != slice->replicas.end() && replica->filling) (void)store.drop_replica(job.task.slice, job.task.server);
  }
  slices_ = store.slices();
}

void VmHoldings::fenced(RemoteStore& store, const controller::TaskReport& report) {
  jobs_.erase({report.slice, report.server});
  (void)store.drop_replica(report.slice, report.server);
}

void VmHoldings::compare(RemoteStore& store, const Known& known) {
  unknown_ = 0;
  std::set<SliceId> here;
  for (const SliceReport& slice : slices_) {
    here.insert(slice.slice);
    if (slice.state != State::kReady && slice.state != State::kClosing) continue;
    const auto counted = known.find(slice.slice);
    if (counted == known.end()) {
      ++unknown_;
      continue;
    }
    const auto good = std::ranges::count_if(slice.replicas, [&](const SliceReport::Replica& replica) {
      return replica.in_force && counted->second.contains(replica.server);
    });
    for (const SliceReport::Replica& replica : slice.replicas)
      if (!counted->second.contains(replica.server) && good >= static_cast<std::ptrdiff_t>(replicas_))
        (void)store.drop_replica(slice.slice, replica.server);
  }
  for (const auto& [slice, servers] : known)
    if (!here.contains(slice) && std::ranges::find(to_release_, slice) == to_release_.end())
      to_release_.push_back(slice);
}

}  // namespace tidepool::pool
