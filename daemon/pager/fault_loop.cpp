#include "daemon/pager/fault_loop.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <unordered_set>

#include "daemon/pager/fault_service.h"
#include "daemon/pager/readiness.h"
#include "kmod-interfaces/own_process.h"

namespace tidepool::daemon {
namespace {

constexpr std::size_t kEventsPerRead = 64;
// How often a space is read before the others get their turn: the next fault of a busy one is often there already, and
// asking which spaces are ready costs as much as asking this one.
constexpr int kReadsPerTurn = 16;
constexpr auto kLivenessInterval = std::chrono::seconds(1);
constexpr auto kDrainTime = std::chrono::seconds(1);
constexpr auto kRetryInterval = std::chrono::milliseconds(1);
// While a fault's page is at hand and its address space is changing: the end of that is announced by nothing.
constexpr auto kHeldUpInterval = std::chrono::microseconds(100);
// How long a drop that is under way may keep the events of its VM unread. When the machine is so busy that it does not
// get on for so long, a fault must not wait any longer.
constexpr Nanoseconds kHoldWithoutPause = std::chrono::milliseconds(1);
constexpr Nanoseconds kUnannouncedPatience = std::chrono::milliseconds(100);
constexpr Nanoseconds kAnnouncedPatience = std::chrono::seconds(2);
// How long events wait for their cause to be seen, and when a doubt of the past is another one.
constexpr Nanoseconds kUnseenPatience = std::chrono::milliseconds(5);
constexpr Nanoseconds kUnseenForgotten = 10 * kUnseenPatience;
constexpr auto kReadPause = std::chrono::milliseconds(10);
constexpr auto kIdleInterval = std::chrono::milliseconds(500);
constexpr Nanoseconds kMaxSpinCredit = std::chrono::milliseconds(100);

// How much polling is still allowed: credit grows with time by the configured share, and polling spends it.
class SpinBudget {
 public:
  SpinBudget(double share, MonoTime now) : share_(share), updated_(now) {}

  bool may_spin(MonoTime now) {
    const Nanoseconds elapsed = now - updated_;
    updated_ = now;
    const Nanoseconds earned{static_cast<std::int64_t>(static_cast<double>(elapsed.count()) * share_)};
    credit_ = std::min(kMaxSpinCredit, credit_ + earned);
    return share_ >= 1.0 || credit_ > Nanoseconds{0};
  }
  void spent(Nanoseconds time) { credit_ -= time; }

 private:
  double share_;
  MonoTime updated_;
  Nanoseconds credit_{kMaxSpinCredit};
};

class Loop final : public FaultLoop {
 public:
  Loop(const FaultLoopConfig& config, FaultLoopHooks hooks, const Clock& clock)
      : config_(config),
        clock_(clock),
        service_(config, std::move(hooks), clock, *this),
        spin_(config.spin_share, clock.now()) {}
  ~Loop() override { stop(); }

  Result<> start(const std::string& name) {
    if (auto opened = ready_.open(); !opened) return opened;
    mail_ = UniqueFd{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    if (!mail_.valid()) return errno_failure("create", "eventfd");
    if (const int error = ready_.watch(mail_.get(), nullptr); error != 0)
      return failure_from(error, "watch", "eventfd");
    if (auto ready = service_.prepare(); !ready) return ready;
    thread_ = std::thread([this] { run(); });
    ::pthread_setname_np(thread_.native_handle(), name.substr(0, 15).c_str());
    return {};
  }

  void add(std::shared_ptr<PagedVm> vm) override {
    post([this, vm] {
      service_.adopt_vm(vm);
      watch_store(*vm);
      for (const auto& space : vm->spaces()) watch(vm, space);
    });
  }
  void add_space(std::shared_ptr<PagedVm> vm, std::shared_ptr<AddressSpace> space) override {
    post([this, vm, space] { watch(vm, space); });
  }
  void add_segments(std::shared_ptr<PagedVm> vm, std::shared_ptr<AddressSpace> space, std::vector<Segment> segments,
                    std::function<Result<>(std::span<const Segment>)> registered) override {
    post([this, vm, space, segments = std::move(segments), registered = std::move(registered)]() mutable {
      service_.extend(*vm, *space, segments);
      if (registered(segments)) return;
      for (const Segment& segment : segments) service_.unmap(vm, *space, segment.addresses);
    });
  }
  void forget_memory(std::shared_ptr<PagedVm> vm, std::shared_ptr<AddressSpace> space, AddressRange gone) override {
    post([this, vm, space, gone] { service_.unmap(vm, *space, gone); });
  }
  void remove(std::shared_ptr<PagedVm> vm, std::function<void()> done) override {
    post([this, vm, done = std::move(done)] {
      for (const auto& space : vm->spaces()) {
        unwatch(space.get());
        UniqueFd copy{::fcntl(space->userfaultfd.fd(), F_DUPFD_CLOEXEC, 0)};
        if (copy.valid()) drained_.push_back({kernel::Userfaultfd{std::move(copy)}, clock_.now() + kDrainTime});
        drains_ = !drained_.empty();
        service_.free_private(*space, *vm);
        if (service_.hooks().space_gone) service_.hooks().space_gone(*vm, *space);
      }
      service_.free_all(*vm);  // clean copies
      service_.flush_releases();
      forget_vm(*vm);
      done();
    });
  }
  void drops_finished(std::shared_ptr<PagedVm> vm) override {
    post([this, vm] { service_.serve_parked(*vm); });
  }
  void restore(std::shared_ptr<PagedVm> vm, MemoryObject* object, std::vector<PageRun> runs, RestoreKind kind,
               std::function<void(std::uint64_t)> done) override {
    post([this, vm, object, runs = std::move(runs), kind, done = std::move(done)]() mutable {
      service_.restore(vm, object, std::move(runs), kind, std::move(done));
    });
  }
  void halt(bool halted) override { service_.halt(halted); }

  void post(std::function<void()> task) override {
    {
      const std::lock_guard lock(mailbox_mutex_);
      mailbox_.push_back(std::move(task));
    }
    const std::uint64_t one = 1;
    // The counter can only be full when the loop has 2^64 wake-ups unread: then it is awake anyway.
    [[maybe_unused]] const ssize_t written = ::write(mail_.get(), &one, sizeof one);
  }
  Bytes buffers() const override { return service_.buffers(); }
  bool drains() const override { return drains_; }
  std::uint64_t passes() const override { return passes_.load(std::memory_order_relaxed); }
  void stop() override {
    if (!thread_.joinable()) return;
    post([this] { stopping_ = true; });
    thread_.join();
  }

 private:
  struct Watched {
    std::shared_ptr<PagedVm> vm;
    std::shared_ptr<AddressSpace> space;
    std::unique_ptr<SpaceState> state;
    MonoTime held_since{};  // events are left unread because of a drop; MonoTime{}: they are not
    int read_error = 0;     // why its events could not be read the last time
  };

  // Whoever changed its address space while its memory was being given up waits until the event is read, and cannot
  // even be asked to close its descriptor before: so its events go on being read for a while, and mean nothing.
  struct Drained {
    kernel::Userfaultfd userfaultfd;
    MonoTime until;
  };
  void drain(MonoTime now) {
    std::erase_if(drained_, [&](const Drained& drained) {
      std::array<uffd_msg, kEventsPerRead> messages;
      const int count = drained.userfaultfd.read_events(messages);
      for (const uffd_msg& message : std::span(messages).first(static_cast<std::size_t>(std::max(count, 0)))) {
        if (message.event == UFFD_EVENT_FORK) ::close(static_cast<int>(message.arg.fork.ufd));
        if (message.event != UFFD_EVENT_PAGEFAULT) continue;
        const std::uint64_t page = message.arg.pagefault.address & ~(kPageSize - 1);
        drained.userfaultfd.wake({page, page + kPageSize});
      }
      return count < 0 || now >= drained.until;
    });
    drains_ = !drained_.empty();
  }

  void run() {
    kernel::take_short_turns();
    while (!stopping_) {
      const MonoTime before = clock_.now();
      const bool spinning = before < spin_until_ && spin_.may_spin(before);
      const auto ready = spinning ? ready_.poll() : ready_.wait(longest_sleep());
      passes_.fetch_add(1, std::memory_order_relaxed);
      const MonoTime now = clock_.now();
      if (spinning && ready.empty()) spin_.spent(now - before);
      bool served = false;
      // What the others of a pass install may answer what was waiting.
      Waiting waiting = Waiting::kKnown;
      for (void* const key : ready) {
        if (key == nullptr) {
          run_mailbox();
        } else if (const auto store = stores_.find(key); store != stores_.end()) {
          // Copies: what is answered may end the service of the last VM that has pages there.
          const std::shared_ptr<pool::PageStore> answering = store->second.store;
          answering->take_answers();
          served = true;
          if (spinning && stores_.contains(key)) ready_.ask_directly(answering->answers_descriptor(), key);
        } else {
          auto* const space = static_cast<AddressSpace*>(key);
          const bool busy = serve_space(space, now, waiting);
          if (busy && spinning && watched_.contains(space)) ready_.ask_directly(space->userfaultfd.fd(), space);
          served |= busy;
        }
        waiting = Waiting::kUnknown;
      }
      if (served) spin_until_ = clock_.now() + config_.spin_window;
      service_.retry_deferred();
      // Work ahead of demand gets its turn only when no demand is waiting.
      if (!served) service_.background_step();
      service_.flush_releases();
      if (!paused_.empty() && now >= resume_at_) resume_paused();
      if (!drained_.empty()) drain(now);
      if (now >= next_liveness_) {
        next_liveness_ = now + kLivenessInterval;
        check_liveness();
      }
    }
    service_.recall([this] { run_mailbox(); });
  }

  Nanoseconds longest_sleep() const {
    if (service_.has_background_work()) return Nanoseconds{0};
    if (service_.has_demand_held_up()) return kHeldUpInterval;
    if (!paused_.empty() || !drained_.empty() || service_.has_deferred()) return kRetryInterval;
    return kIdleInterval;
  }

  void run_mailbox() {
    std::uint64_t ignored;
    [[maybe_unused]] const ssize_t got = ::read(mail_.get(), &ignored, sizeof ignored);
    std::vector<std::function<void()>> tasks;
    {
      const std::lock_guard lock(mailbox_mutex_);
      tasks.swap(mailbox_);
    }
    for (auto& task : tasks) task();
  }

  // Is a message? Known, when the kernel has just said so and nothing was answered since.
  enum class Waiting : std::uint8_t { kKnown, kUnknown };

  // Of stores that answer later, the answers: named by the store's address, as spaces are by theirs.
  struct Answering {
    std::shared_ptr<pool::PageStore> store;
    int descriptor;
    std::unordered_set<const PagedVm*> vms;  // that have pages there
  };
  void watch_store(const PagedVm& vm) {
    const int descriptor = vm.store->answers_descriptor();
    if (descriptor < 0) return;
    Answering& answering = stores_.try_emplace(vm.store.get(), Answering{vm.store, descriptor, {}}).first->second;
    // If it cannot be watched, a thread of the store's own brings the answers.
    if (answering.vms.empty()) (void)ready_.watch(descriptor, vm.store.get());
    answering.vms.insert(&vm);
  }
  void forget_vm(PagedVm& vm) {
    service_.forget_vm(vm);
    const auto answering = stores_.find(vm.store.get());
    if (answering == stores_.end() || answering->second.vms.erase(&vm) == 0 || !answering->second.vms.empty()) return;
    ready_.forget(answering->second.descriptor, vm.store.get());
    stores_.erase(answering);
  }

  // True when faults were served.
  bool serve_space(AddressSpace* key, MonoTime now, Waiting waiting) {
    if (!read_space(key, now, waiting)) return false;
    for (int reads = 1; reads < kReadsPerTurn && read_space(key, clock_.now(), Waiting::kUnknown); ++reads) {
    }
    return true;
  }

  bool read_space(AddressSpace* key, MonoTime now, Waiting waiting) {
    const auto found = watched_.find(key);
    if (found == watched_.end()) return false;  // gone earlier in this pass
    // Copies, because serving may remove the space from the table.
    const std::shared_ptr<PagedVm> vm = found->second.vm;
    const std::shared_ptr<AddressSpace> space = found->second.space;
    SpaceState& state = *found->second.state;
    const bool gated = vm->has_shared_memory() || space->ring != nullptr;
    if (gated && !vm->event_gate.try_close()) return false;
    std::array<uffd_msg, kEventsPerRead> messages;
    const std::size_t wanted = messages_to_read(found->second, now, waiting, messages.size());
    if (wanted == 0) {
      if (gated) vm->event_gate.open();
      return false;
    }
    const int count = space->userfaultfd.read_events(std::span(messages).first(wanted));
    std::vector<std::shared_ptr<AddressSpace>> children;
    if (count > 0) children = service_.serve_changes(state, std::span(messages).first(static_cast<std::size_t>(count)));
    if (gated) vm->event_gate.open();
    for (const auto& child : children) hold_then_watch(vm, child);
    if (count < 0) return cannot_read(vm, space, -count);
    if (vm->blocked_by == found->second.read_error) vm->blocked_by = 0;
    found->second.read_error = 0;
    bool served = false;
    for (const uffd_msg& message : std::span(messages).first(static_cast<std::size_t>(count))) {
      if (message.event != UFFD_EVENT_PAGEFAULT) continue;
      service_.serve_fault(state, message.arg.pagefault.address & ~(kPageSize - 1), message.arg.pagefault.flags, now);
      served = true;
    }
    if (!space->alive.load(std::memory_order_relaxed)) space_died(*vm, space);
    return served;
  }

  // Where causes matter, an event is read alone, when its cause is known; and so is a fault. Where several wait, they
  // are counted and read together: the kernel hands out faults first, so those are all that is read.
  std::size_t messages_to_read(Watched& watched, MonoTime now, Waiting waiting, std::size_t most) {
    SpaceState& state = *watched.state;
    if (!state.asks_for_advice() && !state.guards_drops()) return most;
    if (state.several_wait) {
      const std::size_t faults = std::min(state.pending.count(), most);
      state.several_wait = faults > 1;
      if (faults > 1 && !state.space->userfaultfd.is_changing()) {
        state.advice = {};
        state.no_cause_since = MonoTime{};
        watched.held_since = MonoTime{};
        return faults;
      }
      if (faults > 0) waiting = Waiting::kKnown;
    }
    return look_at_calls(state, waiting) && !must_hold(watched, now) ? 1 : 0;
  }

  // Whoever unmaps or moves memory that a drop is on its way to waits until we read its event, and puts nothing else
  // there before. So we do not, until the drop is done. Announced, it goes on by itself. Not announced, it finds
  // nothing at the address any more; unless it had looked before, and waits for us to read a message in front of that
  // event.
  bool must_hold(Watched& watched, MonoTime now) {
    auto under_way = DropLedger::UnderWay::kNone;
    for (const AddressRange& gone : watched.state->advice.vacates)
      under_way = std::max(under_way, watched.space->ledger.under_way(gone));
    if (under_way == DropLedger::UnderWay::kNone) {
      watched.held_since = MonoTime{};
      return false;
    }
    if (watched.held_since == MonoTime{}) watched.held_since = now;
    const Nanoseconds limit = under_way == DropLedger::UnderWay::kAnnounced ? kAnnouncedPatience : kUnannouncedPatience;
    if (now - watched.held_since > limit) return false;
    if (now - watched.held_since > kHoldWithoutPause) pause(watched.space, kHoldWithoutPause);
    return true;
  }

  // Where causes matter: what the process's threads are at, before one message is read; false when none waits.
  // The kernel hands out faults first, and events in their order (fs/userfaultfd.c: userfaultfd_ctx_read). So what is
  // read is a fault, or an event that was there before we looked, whose thread showed the call it sleeps in: it queues
  // its event and goes to sleep under one lock. A second message might be of a thread that we have not seen. (Nobody
  // else wakes faults that are not read: see Userfaultfd::Waiters.)
  bool look_at_calls(SpaceState& state, Waiting waiting) const {
    state.advice = {};
    if (waiting == Waiting::kUnknown) {
      if (!state.space->userfaultfd.has_message()) return false;
      state.several_wait = true;
    }
    if (!state.space->userfaultfd.is_changing()) {
      state.no_cause_since = MonoTime{};
      return true;
    }
    if (auto advice = state.calls.look()) state.advice = std::move(*advice);
    return !awaits_cause(state);
  }

  // A fault that is announced may be gone before it is read: its thread finds the page there and does not go to sleep.
  // Then what is read is an event, and its thread may have been on its way to sleep when we looked. So while the
  // address space is changing and nobody is seen to do it, nothing is read; no fault waits longer for that, as nothing
  // can be installed meanwhile (EAGAIN). Not for ever: a call through the process's own io_uring, say, is never seen.
  bool awaits_cause(SpaceState& state) const {
    const bool own_drops = state.space->ring != nullptr && !state.space->ledger.empty();
    if (state.advice.has_cause() || own_drops || !state.asks_for_advice()) {
      state.no_cause_since = MonoTime{};
      return false;
    }
    const MonoTime now = clock_.now();
    if (state.no_cause_since == MonoTime{} || now - state.no_cause_since > kUnseenForgotten) state.no_cause_since = now;
    return now - state.no_cause_since < kUnseenPatience;
  }

  // The kernel could not make the descriptor of a forked child (EMFILE, ENOMEM): the event stays queued and the parent
  // waits in fork. Nothing is lost, so nothing is given up; look again in a while.
  bool cannot_read(const std::shared_ptr<PagedVm>& vm, const std::shared_ptr<AddressSpace>& space, int error) {
    if (!space->userfaultfd.address_space_alive()) {
      space_died(*vm, space);
      return false;
    }
    vm->blocked_by = error;
    watched_[space.get()].read_error = error;
    pause(space, kReadPause);
    return false;
  }

  void pause(const std::shared_ptr<AddressSpace>& space, Nanoseconds time) {
    listen_to(*space, false);
    const MonoTime until = clock_.now() + time;
    resume_at_ = paused_.empty() ? until : std::min(resume_at_, until);
    paused_.push_back(space);
  }

  void resume_paused() {
    for (const auto& space : paused_) {
      if (watched_.contains(space.get())) listen_to(*space, true);
    }
    paused_.clear();
  }

  void listen_to(AddressSpace& space, bool listen) { ready_.listen(space.userfaultfd.fd(), &space, listen); }

  // The child must not be served before its descriptor is safe: if we died in between, its far pages would read zero.
  void hold_then_watch(const std::shared_ptr<PagedVm>& vm, const std::shared_ptr<AddressSpace>& child) {
    AddressSpace& space = *child;
    const auto held = [this, vm, child] { post([this, vm, child] { watch(vm, child); }); };
    service_.hooks().hold_child ? service_.hooks().hold_child(*vm, space, held) : held();
  }

  void watch(const std::shared_ptr<PagedVm>& vm, const std::shared_ptr<AddressSpace>& space) {
    if (watched_.contains(space.get()) || vm->dead) return;
    watched_[space.get()] = Watched{vm, space, std::make_unique<SpaceState>(vm, space)};
    if (const int error = ready_.watch(space->userfaultfd.fd(), space.get()); error != 0) vm->blocked_by = error;
  }

  void unwatch(AddressSpace* space) {
    const auto found = watched_.find(space);
    if (found == watched_.end()) return;
    ready_.forget(space->userfaultfd.fd(), space);
    service_.forget_space(*found->second.state);
    watched_.erase(found);
  }

  void space_died(PagedVm& vm, const std::shared_ptr<AddressSpace>& space) {
    space->alive = false;
    unwatch(space.get());
    vm.remove_space(space.get());
    service_.free_private(*space, vm);
    if (service_.hooks().space_gone) service_.hooks().space_gone(vm, *space);
    if (vm.spaces().empty() && !vm.dead.exchange(true)) {
      service_.free_all(vm);
      forget_vm(vm);
      service_.flush_releases();
      if (service_.hooks().vm_gone) service_.hooks().vm_gone(vm);
    }
  }

  void check_liveness() {
    std::vector<std::pair<std::shared_ptr<PagedVm>, std::shared_ptr<AddressSpace>>> dead;
    for (const auto& [key, watched] : watched_) {
      if (!watched.space->alive || !watched.space->userfaultfd.address_space_alive())
        dead.emplace_back(watched.vm, watched.space);
    }
    for (const auto& [vm, space] : dead) space_died(*vm, space);
  }

  const FaultLoopConfig config_;
  const Clock& clock_;
  FaultService service_;
  SpinBudget spin_;
  MonoTime spin_until_{};
  MonoTime next_liveness_{};
  Readiness ready_;
  UniqueFd mail_;
  std::mutex mailbox_mutex_;
  std::vector<std::function<void()>> mailbox_;
  std::unordered_map<AddressSpace*, Watched> watched_;
  std::unordered_map<const void*, Answering> stores_;
  std::vector<std::shared_ptr<AddressSpace>> paused_;
  MonoTime resume_at_{};
  std::vector<Drained> drained_;
  std::atomic<bool> drains_{false};
  std::atomic<std::uint64_t> passes_{0};
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace

Result<std::unique_ptr<FaultLoop>> start_fault_loop(const std::string& name, const FaultLoopConfig& config,
                                                    FaultLoopHooks hooks, const Clock& clock) {
  auto loop = std::make_unique<Loop>(config, std::move(hooks), clock);
  if (auto started = loop->start(name); !started) return Failure{started.error()};
  return loop;
}

}  // namespace tidepool::daemon
