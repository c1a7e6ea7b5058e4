#include "daemon/pager/demoter.h"

#include <pthread.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <deque>
#include <list>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <unordered_map>

#include "daemon/pager/copy_places.h"
#include "daemon/pager/demotion_job.h"

namespace tidepool::daemon {
namespace {

constexpr std::size_t kMaxQueued = 65536;
constexpr std::size_t kAdmittedAtOnce = 16;
constexpr unsigned kRunBits = 16;
constexpr Nanoseconds kDropPoll = std::chrono::microseconds(200);
// Demotions of private memory begin together, in turns with pauses between them: the kernel's thread that takes their
// drops polls for up to two of its ticks (8 ms at 250 Hz) after the last one, on a processor that the process itself,
// or we, may want. Not the drops alone: what waits for its drop is protected, and most of what is written meanwhile
// does not leave.
constexpr Nanoseconds kPrivatePause = std::chrono::milliseconds(25);
constexpr Nanoseconds kPrivateTurn = std::chrono::milliseconds(50);  // at most
// Regions of one VM whose memory is not fixed: its drops are few at a time, and nothing is frozen long before its own.
constexpr std::size_t kWaitingForTurn = 2;
constexpr auto kIdle = std::chrono::milliseconds(200);
// Regions of one VM being stored at once: what a store that answers later may hold of its memory.
constexpr std::size_t kStoringPerVm = 4;
constexpr auto kRecallPoll = std::chrono::milliseconds(1);

struct Request {
  std::shared_ptr<PagedVm> vm;
  RegionToDemote region;
};

struct Running {
  std::uint64_t id;
  std::unique_ptr<DemotionJob> job;
  std::byte* copies = nullptr;  // while it stores, where the store lends no places
  bool gone = false;            // what it moves is nobody's any more
};

class Thread final : public Demoter {
 public:
  Thread(const DemoterConfig& config, std::function<FaultLoop&(PagedVm&)> loop_of, const Clock& clock)
      : config_(config), loop_of_(std::move(loop_of)), clock_(clock) {}
  ~Thread() override { stop(); }

  Result<> start() {
    if (auto prepared = places_.prepare(); !prepared) return prepared;
    thread_ = std::thread([this] { run(); });
    ::pthread_setname_np(thread_.native_handle(), "demoter");
    return {};
  }

  bool demote(const std::shared_ptr<PagedVm>& vm, RegionToDemote region) override {
    const std::lock_guard lock(mutex_);
    if (frozen_ || stopping_ || vm->releasing || !vm->demotion_allowed || vm->dead || queued_ >= kMaxQueued)
      return false;
    if (!wanted_.insert({region.object, region.region}).second) return true;  // already on its way
    queue_[vm.get()].push_back({vm, region});
    ++queued_;
    vm->demotions_in_flight.fetch_add(1, std::memory_order_relaxed);
    wake_.notify_one();
    return true;
  }
  void freeze_host(bool frozen) override {
    const std::lock_guard lock(mutex_);
    frozen_ = frozen;
    wake_.notify_one();
  }
  void drain(std::shared_ptr<PagedVm> vm, std::function<void()> done) override {
    const std::lock_guard lock(mutex_);
    drains_.push_back({std::move(vm), std::move(done)});
    wake_.notify_one();
  }
  void abandon(std::shared_ptr<PagedVm> vm) override {
    const std::lock_guard lock(mutex_);
    abandoned_.push_back(std::move(vm));
    wake_.notify_one();
  }
  std::size_t queued() const override {
    const std::lock_guard lock(mutex_);
    return wanted_.size();
  }
  Bytes buffers() const override { return places_.size(); }
  void stop() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      wake_.notify_one();
    }
    if (thread_.joinable()) thread_.join();
  }

 private:
  struct Drain {
    std::shared_ptr<PagedVm> vm;
    std::function<void()> done;
  };

  void run() {
    std::unique_lock lock(mutex_);
    while (!stopping_) {
      wait(lock);
      const MonoTime now = clock_.now();
      count_turns(now);
      std::vector<Request> fresh = admit(now);
      const bool cancel_frozen = frozen_;
      std::vector<std::shared_ptr<PagedVm>> abandoned;
      abandoned.swap(abandoned_);
      lock.unlock();
      for (Request& request : fresh) begin(request);
      for (const auto& vm : abandoned) abandon_now(*vm);
      advance(cancel_frozen, clock_.now());
      reap();
      retire();
      lock.lock();
      if (private_turn(now)) end_private_turn(now);
      finish_drains(lock);
    }
    lock.unlock();
    for (Running& running : running_) {
      DemotionJob& job = *running.job;
      if (job.stage == DemotionJob::Stage::kFrozen) job.cancel();
      if (job.stage != DemotionJob::Stage::kStoring) continue;
      while (!job.recall()) std::this_thread::sleep_for(kRecallPoll);
    }
  }

  void wait(std::unique_lock<std::mutex>& lock) {
    const bool work = !queue_.empty() && !frozen_ && all_.jobs < config_.max_jobs;
    const MonoTime now = clock_.now();
    if (!abandoned_.empty() || (work && (admitting_ || (running_.empty() && private_turn(now))))) return;
    Nanoseconds pause = kIdle;
    if (work && !private_turn(now)) pause = private_begins_ - now;
    for (const Running& running : running_) pause = std::min(pause, until_due(running, now));
    if (pause > Nanoseconds{0}) wake_.wait_for(lock, pause);
  }

  // How long a job can be left alone.
  Nanoseconds until_due(const Running& running, MonoTime now) const {
    const DemotionJob& job = *running.job;
    if (job.overdue) return std::chrono::milliseconds(20);
    MonoTime due = now;
    if (job.stage == DemotionJob::Stage::kFrozen) due = std::max(due, job.frozen_at + config_.grace);
    const bool begins = job.stage == DemotionJob::Stage::kFrozen ||
                        (job.stage == DemotionJob::Stage::kDropping && job.drops_in_flight() == 0);
    if (!job.object().shared && begins) due = std::max(due, private_begins_);
    // What is due was not possible just now, or waits for somebody's answer.
    return due > now ? due - now : kDropPoll;
  }

  // Called with the lock held. A few at a time: how many pages a region moves is known when it is frozen. One stuck VM
  // never delays another: its requests wait, the next VM's go ahead.
  std::vector<Request> admit(MonoTime now) {
    std::vector<Request> fresh;
    admitting_ = false;
    if (frozen_) return fresh;
    const bool private_too = private_turn(now);
    auto next = queue_.upper_bound(last_admitted_);
    for (std::size_t vms = queue_.size(); vms != 0; --vms) {
      if (next == queue_.end()) next = queue_.begin();
      admit_from(next->second, private_too, fresh);
      last_admitted_ = next->first;
      next = next->second.empty() ? queue_.erase(next) : std::next(next);
    }
    admitting_ = !fresh.empty();
    return fresh;
  }

  bool private_turn(MonoTime now) const { return now >= private_begins_; }
  // Called with the lock held, after a pass in which it was the turn of private memory: it ends when nothing is left to
  // begin, or after a while.
  void end_private_turn(MonoTime now) {
    const bool more = !queue_.empty() || std::ranges::any_of(running_, [&](const Running& running) {
      return !running.job->object().shared && is_due(*running.job, now) && !has_begun(*running.job);
    });
    if (turn_since_ == MonoTime{}) turn_since_ = now;
    if (more && now - turn_since_ < kPrivateTurn) return;
    turn_since_ = MonoTime{};
    private_begins_ = now + kPrivatePause;
  }

  void admit_from(std::deque<Request>& requests, bool private_too, std::vector<Request>& fresh) {
    while (!requests.empty()) {
      Request& request = requests.front();
      if (request.vm->releasing || request.vm->dead) {
        forget(request);
      } else {
        if (fresh.size() >= kAdmittedAtOnce || all_.jobs + fresh.size() >= config_.max_jobs) return;
        if (!private_too && !request.region.object->shared) return;
        if (!has_room(request, fresh)) return;
        fresh.push_back(std::move(request));
      }
      requests.pop_front();
      --queued_;
    }
  }

  // Whether one more region of its VM may be frozen now. Where drops go one by one, nothing is frozen long before its
  // turn: it would only be disturbed.
  bool has_room(const Request& request, const std::vector<Request>& fresh) const {
    const PagedVm& vm = *request.vm;
    const auto of_vm = active_.find(&vm);
    const Active own = of_vm == active_.end() ? Active{} : of_vm->second;
    const auto begun = static_cast<std::size_t>(
        std::ranges::count_if(fresh, [&](const Request& each) { return each.vm == request.vm; }));
    if (vm.drops_overdue != 0 || own.jobs + begun >= config_.max_jobs_per_vm) return false;
    if (own.pages + begun * kPagesPerRegion >= config_.max_pages_per_vm) return false;
    if (all_.pages + fresh.size() * kPagesPerRegion >= config_.max_pages) return false;
    return !object_goes_alone(vm, *request.region.object) ||
           (own.drops_in_flight < kDropsInFlight &&
            own.waiting_for_turn + count_if_careful(fresh, vm) < kWaitingForTurn);
  }

  // Private memory whose owner may unmap it (AddressSpace::fixed).
  static bool object_goes_alone(const PagedVm& vm, const MemoryObject& object) {
    return !object.shared && !vm.fixed_memory;
  }
  static std::size_t count_if_careful(const std::vector<Request>& requests, const PagedVm& vm) {
    return static_cast<std::size_t>(std::ranges::count_if(requests, [&](const Request& request) {
      return request.vm.get() == &vm && object_goes_alone(vm, *request.region.object);
    }));
  }
  // What all have under way that counts against the bounds of all. Not what a VM has whose drops do not end (a stopped
  // process: it has its own bounds, and begins no more): whoever stands still takes no room from others.
  void count_all() {
    all_ = {};
    for (const Running& running : running_) {
      if (running.job->vm()->drops_overdue != 0) continue;
      ++all_.jobs;
      all_.pages += running.job->pages();
    }
  }
  // What of each VM goes one by one, once per pass.
  void count_turns(MonoTime now) {
    for (auto& [vm, own] : active_) own.waiting_for_turn = own.at_work = own.drops_in_flight = 0;
    for (const Running& running : running_) {
      const DemotionJob& job = *running.job;
      if (!object_goes_alone(*job.vm(), job.object()) || job.stage == DemotionJob::Stage::kDone) continue;
      Active& own = active_[job.vm().get()];
      own.drops_in_flight += job.drops_in_flight();
      if (has_begun(job)) continue;
      if (is_due(job, now)) ++own.waiting_for_turn;
      if (job.stage != DemotionJob::Stage::kFrozen) ++own.at_work;
    }
  }
  // Its grace is over.
  bool is_due(const DemotionJob& job, MonoTime now) const {
    return job.stage != DemotionJob::Stage::kFrozen || now - job.frozen_at >= config_.grace;
  }
  // Nothing of it is left to do but to wait for its drops.
  static bool has_begun(const DemotionJob& job) {
    return job.stage == DemotionJob::Stage::kDone ||
           (job.stage == DemotionJob::Stage::kDropping && job.all_drops_started());
  }

  void forget(const Request& request) {
    wanted_.erase({request.region.object, request.region.region});
    request.vm->demotions_in_flight.fetch_sub(1, std::memory_order_relaxed);
    request.vm->note({request.region.object, request.region.region, true, 0, 0});
  }

  void begin(Request& request) {
    ticket_ = static_cast<std::uint16_t>(ticket_ + 1);
    auto job =
        std::make_unique<DemotionJob>(request.vm, loop_of_(*request.vm), request.region, ticket_, next_id_ << kRunBits);
    if (!job->freeze(clock_.now())) job->stage = DemotionJob::Stage::kDone;
    Active& own = active_[request.vm.get()];
    ++own.jobs;
    own.pages += job->pages();
    request.vm->note({&job->object(), job->region(), false, static_cast<std::uint32_t>(job->pages()), 0});
    running_.push_back({next_id_++, std::move(job), nullptr});
  }

  struct Active {
    std::size_t jobs = 0;
    std::size_t pages = 0;
    std::size_t storing = 0;  // regions that the store has, or may have, something of
    // Where drops go a few at a time:
    std::size_t drops_in_flight = 0;
    std::size_t waiting_for_turn = 0;  // regions that could go on now, were it not for others
    std::size_t at_work = 0;           // of them, those that are stored, or nearly: each holds what it copied
  };
  void uncount(const DemotionJob& job) {
    const auto own = active_.find(job.vm().get());
    own->second.pages -= job.pages();
    if (--own->second.jobs == 0) active_.erase(own);
  }

  static bool may_not_go_on(const PagedVm& vm, bool host_frozen) {
    return host_frozen || vm.releasing || vm.dead || !vm.demotion_allowed;
  }

  // A place to work in and, where drops go a few at a time, a turn.
  bool may_store(Running& running) {
    const PagedVm& vm = *running.job->vm();
    Active& own = active_[&vm];
    const bool lent = vm.store->lends_places();
    if (own.storing >= kStoringPerVm || (!lent && !places_.any(*vm.store))) return false;
    if (object_goes_alone(vm, running.job->object()) && ++own.at_work > kWaitingForTurn) return false;
    ++own.storing;
    if (lent) return true;
    running.copies = places_.take(*vm.store);
    return true;
  }

  void stored(Running& running) {
    const PagedVm& vm = *running.job->vm();
    --active_[&vm].storing;
    if (running.copies != nullptr) places_.give(*vm.store, std::exchange(running.copies, nullptr));
  }

  void advance(bool host_frozen, MonoTime now) {
    for (Running& running : running_) {
      DemotionJob& job = *running.job;
      const bool stopped = may_not_go_on(*job.vm(), host_frozen);
      const bool has_turn = job.object().shared || stopped || private_turn(now);
      if (job.stage == DemotionJob::Stage::kFrozen) {
        if (stopped) {
          job.cancel();
          job.stage = DemotionJob::Stage::kDone;
          continue;
        }
        if (!is_due(job, now) || !has_turn || !may_store(running)) continue;
        job.stage = DemotionJob::Stage::kStoring;
      }
      // What is dropped already, of shared memory, stays so.
      if (job.stage == DemotionJob::Stage::kStoring && (stopped || running.gone)) {
        if (!job.recall()) continue;
        stored(running);
        job.stage = DemotionJob::Stage::kDone;
      }
      if (job.stage == DemotionJob::Stage::kStoring && job.store(running.copies, places_.second_reading())) {
        stored(running);
        job.stage = DemotionJob::Stage::kDropping;
        job.dropping_since = clock_.now();
      }
      if (job.stage != DemotionJob::Stage::kDropping || !has_turn) continue;
      if (stopped) job.refuse_rest();
      if (job.start_drops() && job.all_drops_done()) job.stage = DemotionJob::Stage::kDone;
    }
  }

  void reap() {
    std::set<PagedVm*> seen;
    std::array<DropCompletion, 128> completions;
    for (const Running& owner : running_) {
      const auto& vm = owner.job->vm();
      if (owner.job->object().shared || !seen.insert(vm.get()).second) continue;
      for (const auto& space : vm->spaces()) {
        if (space->ring == nullptr) continue;
        for (std::size_t count = 1; count != 0;) {
          count = space->ring->reap(completions);
          for (const DropCompletion& completion : std::span(completions).first(count)) complete(completion);
        }
        if (space->ring->broken()) vm->ring_broken = true;
      }
    }
  }

  void complete(const DropCompletion& completion) {
    const std::uint64_t id = completion.cookie >> kRunBits;
    for (Running& running : running_) {
      if (running.id != id) continue;
      running.job->drop_completed(completion.cookie & ((1u << kRunBits) - 1), completion.error);
      if (running.job->stage == DemotionJob::Stage::kDropping && running.job->all_drops_done())
        running.job->stage = DemotionJob::Stage::kDone;
      return;
    }
  }

  void retire() {
    const MonoTime now = clock_.now();
    std::set<PagedVm*> notified;
    for (auto running = running_.begin(); running != running_.end();) {
      DemotionJob& job = *running->job;
      const std::shared_ptr<PagedVm> vm = job.vm();
      if (job.drop_steps() != job.drop_steps_seen) {
        job.drop_steps_seen = job.drop_steps();
        job.dropping_since = now;
      }
      if (job.stage == DemotionJob::Stage::kDropping && !job.overdue && job.drops_in_flight() != 0 &&
          now - job.dropping_since > config_.drop_deadline) {
        job.overdue = true;
        vm->drops_overdue.fetch_add(1, std::memory_order_relaxed);
      }
      // Any change may answer somebody who is parked.
      if (vm->parked_faults.load(std::memory_order_seq_cst) != 0 && notified.insert(vm.get()).second)
        loop_of_(*vm).drops_finished(vm);
      if (job.stage != DemotionJob::Stage::kDone) {
        ++running;
        continue;
      }
      if (job.overdue) vm->drops_overdue.fetch_sub(1, std::memory_order_relaxed);
      {
        const std::lock_guard lock(mutex_);
        wanted_.erase({&job.object(), job.region()});
      }
      vm->demotions_in_flight.fetch_sub(1, std::memory_order_relaxed);
      vm->note({&job.object(), job.region(), true, job.dropped(), job.spared()});
      uncount(job);
      running = running_.erase(running);
    }
    count_all();
  }

  void abandon_now(PagedVm& vm) {
    for (Running& running : running_) {
      if (running.job->vm().get() != &vm) continue;
      running.gone = true;
      if (running.job->stage == DemotionJob::Stage::kStoring) continue;  // the store has something of it: see advance
      running.job->abandon();
      running.job->stage = DemotionJob::Stage::kDone;
    }
  }

  void finish_drains(std::unique_lock<std::mutex>& lock) {
    std::vector<std::function<void()>> ready;
    for (auto drain = drains_.begin(); drain != drains_.end();) {
      const PagedVm* vm = drain->vm.get();
      if (const auto asked = queue_.find(vm); asked != queue_.end()) {
        for (const Request& request : asked->second) forget(request);
        queued_ -= asked->second.size();
        queue_.erase(asked);
      }
      const bool busy =
          std::any_of(running_.begin(), running_.end(), [&](const Running& r) { return r.job->vm().get() == vm; });
      if (busy) {
        ++drain;
        continue;
      }
      ready.push_back(std::move(drain->done));
      drain = drains_.erase(drain);
    }
    if (ready.empty()) return;
    lock.unlock();
    for (auto& done : ready) done();
    lock.lock();
  }

  const DemoterConfig config_;
  const std::function<FaultLoop&(PagedVm&)> loop_of_;
  const Clock& clock_;
  CopyPlaces places_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::map<const PagedVm*, std::deque<Request>> queue_;
  std::size_t queued_ = 0;
  std::set<std::pair<MemoryObject*, std::uint64_t>> wanted_;
  std::vector<Drain> drains_;
  std::vector<std::shared_ptr<PagedVm>> abandoned_;
  bool frozen_ = false;
  bool stopping_ = false;

  // The thread's own.
  std::list<Running> running_;
  std::unordered_map<const PagedVm*, Active> active_;
  struct {
    std::size_t jobs = 0;
    std::size_t pages = 0;
  } all_;                   // see count_all
  bool admitting_ = false;  // more may be admitted at once
  const PagedVm* last_admitted_ = nullptr;
  MonoTime private_begins_{};  // not before
  MonoTime turn_since_{};      // of private memory; MonoTime{}: it is not its turn
  std::uint64_t next_id_ = 1;
  std::uint16_t ticket_ = 0;
  std::thread thread_;
};

}  // namespace

Result<std::unique_ptr<Demoter>> start_demoter(const DemoterConfig& config, std::function<FaultLoop&(PagedVm&)> loop_of,
                                               const Clock& clock) {
  auto demoter = std::make_unique<Thread>(config, std::move(loop_of), clock);
  if (auto started = demoter->start(); !started) return Failure{started.error()};
  return demoter;
}

}  // namespace tidepool::daemon
