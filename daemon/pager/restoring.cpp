// Restores: memory that comes home without a fault, in sweeps, each with its turn beside the others.
#include <algorithm>
#include <utility>

#include "base/byte_budget.h"
#include "daemon/pager/fault_service.h"

namespace tidepool::daemon {
namespace {

// Of a restore, when its VM has as many operations under way as it may.
constexpr auto kBusyPause = std::chrono::milliseconds(1);
constexpr auto kRestorePause = std::chrono::milliseconds(5);
// Of a restore of our own accord, when as much has come home as may.
constexpr auto kUnpaidPause = std::chrono::milliseconds(1);
// Of a restore, in which nothing is far: what a step looks at before faults have their turn again.
constexpr std::size_t kRunsPerStep = 256;
// For how long the sweeps of a restore may bring nothing home before it gives up on what is left.
constexpr auto kFruitlessPatience = std::chrono::seconds(10);

}  // namespace

void FaultService::restore(std::shared_ptr<PagedVm> vm, MemoryObject* object, std::vector<PageRun> runs,
                           RestoreKind kind, std::function<void(std::uint64_t)> done) {
  const std::uint64_t pages = object->map->pages().value;
  for (PageRun& run : runs) run.count = std::min(run.end(), pages) - std::min(run.first.value, pages);
  std::shared_ptr<AddressSpace> owner;
  for (const auto& space : vm->spaces()) {
    for (const auto& forked : space->forked_objects) {
      if (forked.get() == object) owner = space;
    }
  }
  restores_.push_back({next_restore_++, std::move(vm), object, std::move(runs), kind, 0, 0, ~0ull, MonoTime{},
                       MonoTime{}, std::move(done), std::move(owner)});
  begin_sweep(restores_.back());
}

void FaultService::begin_sweep(RestoreJob& job) {
  job.run = 0;
  job.cursor = job.runs.empty() ? 0 : job.runs.front().first.value;
}

bool FaultService::restore_ready() const {
  if (restores_.empty() || !any_free(FetchReason::kRestore)) return false;
  const MonoTime now = clock_.now();
  return std::ranges::any_of(restores_, [&](const RestoreJob& job) { return job.not_before <= now && may_go_on(job); });
}

bool FaultService::is_paid(const RestoreJob& job, MonoTime now) const {
  return job.kind == RestoreKind::kAsked || config_.own_accord == nullptr || config_.own_accord->is_paid(now);
}

bool FaultService::restore_step() {
  if (restores_.empty() || !any_free(FetchReason::kRestore)) return false;
  const auto next_turn = [this] { restores_.splice(restores_.end(), restores_, restores_.begin()); };
  // The next one that can go on: nobody's wait delays a neighbour.
  const MonoTime now = clock_.now();
  std::size_t looked_at = 0;
  for (; looked_at < restores_.size(); ++looked_at) {
    RestoreJob& candidate = restores_.front();
    const bool due = candidate.not_before <= now && may_go_on(candidate);
    if (due && !is_paid(candidate, now)) {
      candidate.not_before = now + kUnpaidPause;
    } else if (due && may_fetch_more(*candidate.vm, FetchReason::kRestore)) {
      break;
    } else if (due) {
      candidate.not_before = now + kBusyPause;
    }
    next_turn();
  }
  if (looked_at == restores_.size()) return false;
  const std::uint64_t id = restores_.front().id;
  if (!sweep(restores_.front())) {
    end_restore_sweep(restores_.front());
  } else if (!restores_.empty() && restores_.front().id == id) {
    // Nobody's size delays a neighbour. (The operation may have ended this one with its VM.)
    next_turn();
  }
  return true;
}

// Any process that shows the page will do for shared memory; a page that nobody shows goes home through the file.
std::shared_ptr<AddressSpace> FaultService::space_for(const RestoreJob& job) {
  if (job.owner != nullptr) return job.owner->alive ? job.owner : nullptr;
  std::shared_ptr<AddressSpace> space;
  for (const auto& candidate : job.vm->spaces()) {
    const bool shows = candidate->own_segments().showing(*job.object, PageIndex{job.cursor}) != nullptr;
    if (candidate->alive && (shows || (space == nullptr && job.object->shared))) space = candidate;
  }
  if (space == nullptr && !job.vm->spaces().empty()) space = job.vm->spaces().front();
  return space;
}

// One operation's worth of it, or some stretches in which nothing is far. False: the sweep is at its end.
bool FaultService::sweep(RestoreJob& job) {
  const std::uint64_t id = job.id;
  for (std::size_t looked_at = 0; job.run < job.runs.size(); ++looked_at) {
    if (looked_at == kRunsPerStep) return true;
    const std::shared_ptr<AddressSpace> space = space_for(job);
    if (space == nullptr) return false;
    const RestoreKind kind = job.kind;
    const Run run = start_run(job.vm, space, *job.object, job.cursor, job.runs[job.run].end(), FetchReason::kRestore);
    if (kind == RestoreKind::kOwnAccord && config_.own_accord != nullptr)
      config_.own_accord->spend(Bytes{run.pages * kPageSize});
    if (!run.at_end) {
      // The operation may have ended this one with its VM.
      if (!restores_.empty() && restores_.front().id == id) restores_.front().cursor = run.next;
      return true;
    }
    if (++job.run < job.runs.size()) job.cursor = job.runs[job.run].first.value;
  }
  return false;
}

std::uint64_t FaultService::count_left(const RestoreJob& job) {
  std::uint64_t left = 0;
  // Pages being dropped count as resident in their region: only while there are any do such regions need a look.
  const bool dropping = job.object->map->count(PageState::kDropping) != 0;
  for (const PageRun& run : job.runs) {
    for (std::uint64_t page = run.first.value; page < run.end(); ++page) {
      const RegionCounters& region = job.object->map->region(page / kPagesPerRegion);
      if (page % kPagesPerRegion == 0 && region.far == 0 && (region.resident == 0 || !dropping)) {
        page += kPagesPerRegion - 1;
        continue;
      }
      const PageState state = job.object->map->load(PageIndex{page}).state();
      if (state == PageState::kFar || state == PageState::kFetching || state == PageState::kDropping) ++left;
    }
  }
  return left;
}

void FaultService::end_restore_sweep(RestoreJob& job) {
  std::uint64_t left = count_left(job);
  const MonoTime now = clock_.now();
  if (left < job.left_before || job.progress_at == MonoTime{}) job.progress_at = now;
  job.left_before = left;
  const bool gone = job.vm->dead || (job.owner != nullptr && !job.owner->alive);
  if (gone) left = 0;
  if (left != 0 && now - job.progress_at < kFruitlessPatience) {
    begin_sweep(job);
    job.not_before = now + kRestorePause;
    return;
  }
  auto done = std::move(job.done);
  restores_.pop_front();
  if (done) done(left);
}

}  // namespace tidepool::daemon
