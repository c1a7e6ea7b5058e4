#include "pool/controller/driver.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <future>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "pool/controller/core/core.h"
#include "pool/controller/state/backup.h"
#include "pool/controller/state/random_text.h"
#include "service/log.h"

namespace tidepool::pool::controller {
namespace {

constexpr std::array<std::string_view, std::variant_size_v<Request>> kRequestNames{
    "register",  "heartbeat",  "sync",         "grant",      "confirm",    "renew",         "release",
    "set_vm",    "set_tenant", "set_host",     "drain",      "ok_to_stop", "forget_server", "forget_host",
    "forget_vm", "get_status", "list_servers", "list_hosts", "list_vms",   "list_leases",   "list_history"};

// Requests that are applied before the first of them is committed: a commit lasts for some milliseconds.
constexpr std::size_t kMostAtOnce = 256;
// Rounds of work that time brings, before requests have their turn again.
constexpr int kMostTicksAtOnce = 16;

// What waiting may mend.
bool passes(const std::error_code& code) {
  static constexpr std::array kPassing{
      std::errc::host_unreachable,        std::errc::network_unreachable, std::errc::connection_refused,
      std::errc::connection_reset,        std::errc::connection_aborted,  std::errc::timed_out,
      std::errc::device_or_resource_busy, std::errc::operation_canceled,  std::errc::operation_not_permitted};
  return std::ranges::any_of(kPassing, [&](std::errc each) { return code == each; });
}

std::int64_t unix_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

// A store without records is the beginning of a cluster, which has a name of its own.
CoreConfig named(CoreConfig config) {
  if (config.cluster.empty()) config.cluster = random_text();
  return config;
}

using Counter = std::atomic<std::uint64_t>;

}  // namespace

std::string_view request_name(std::size_t type) {
  return type < kRequestNames.size() ? kRequestNames[type] : "?";
}

struct Controller::Impl {
  struct Job {
    Request request;
    std::string actor;
    MonoTime asked;
    std::promise<Result<Answer>> answer;
    bool answered = false;
  };
  using Export = std::promise<Result<std::vector<StateChange>>>;

  // An outcome of the core that is not yet in the store.
  struct Pending {
    Job* job;
    Answer answer;
  };

  Impl(std::unique_ptr<StateStore> state_store, const ControllerOptions& wanted, const Clock& time)
      : store(std::move(state_store)), options(wanted), clock(time), config(named(wanted.core)) {
    thread = std::thread([this] { run(); });
  }

  ~Impl() { end(); }

  void end() {
    {
      const std::scoped_lock guard(mutex);
      if (std::exchange(stopped, true)) return;
    }
    wake.notify_all();
    store->stop();
    thread.join();
  }

  // ---- the thread ----

  void run() {
    std::chrono::milliseconds pause = options.retry;
    while (!is_stopped()) {
      enter(ControllerPhase::kWaiting);
      const MonoTime begun = clock.now();
      const Result<> outcome = lead_once();
      if (is_stopped()) break;
      if (!outcome) fail(outcome.error());
      // Also after a leadership that was over at once: a full disk lets it read and not write.
      if (clock.now() - begun > options.retry_at_most) pause = options.retry;
      std::unique_lock guard(mutex);
      wake.wait_for(guard, pause, [this] { return stopped; });
      pause = std::min(pause * 2, options.retry_at_most);
    }
    store->resign();
    enter(ControllerPhase::kEnded);
  }

  // Leads until that is over. Errors: it did not come to lead.
  Result<> lead_once() {
    if (Result<> leads = store->lead(); !leads) return leads;
    enter(ControllerPhase::kLoading);
    if (Result<> loaded = load(); !loaded) {
      core.reset();
      store->resign();
      return loaded;
    }
    ++leaderships;
    enter(ControllerPhase::kLeading);
    spdlog::info("msg=leading store={} records={}", store->kind(), records_loaded);
    serve();
    core.reset();
    enter(ControllerPhase::kWaiting);
    if (!is_stopped()) spdlog::warn("msg=\"leads no more\" error={}", in_quotes(last_trouble()));
    store->resign();
    return {};
  }

  Context context(std::string actor = "controller") {
    latest = std::max(latest, clock.now());
    return {latest, unix_ms(), std::move(actor)};
  }

  Result<> load() {
    const MonoTime begun = clock.now();
    Core fresh(config);
    Result<> taken;
    records_loaded = 0;
    Result<> read = store->load([&](std::string_view key, std::string_view value) {
      ++records_loaded;
      if (taken) taken = fresh.take(key, value);
    });
    if (!read) return read;
    if (!taken) return taken;
    const Result<std::vector<StateChange>> changes = fresh.begin(context());
    if (!changes) return Failure(changes.error());
    if (Result<> stored = commit(*changes); !stored) return stored;
    core.emplace(std::move(fresh));
    load_seconds.record(clock.now() - begun);
    return {};
  }

  Result<> commit(std::span<const StateChange> changes) {
    if (changes.empty()) return {};
    const MonoTime begun = clock.now();
    Result<> done = store->commit(changes);
    if (!done) {
      ++commit_failures;
      return done;
    }
    commit_seconds.record(clock.now() - begun);
    ++commits;
    records_changed += changes.size();
    return done;
  }

  // Until leadership is lost, a commit fails, or it is stopped.
  void serve() {
    MonoTime next_tick = clock.now();
    while (!store->lost()) {
      ++beats;
      std::deque<Job> batch;
      std::deque<Export> wanted;
      std::optional<CoreConfig> other_config;
      {
        std::unique_lock guard(mutex);
        const auto until_tick = std::max(next_tick - clock.now(), Nanoseconds{0});
        wake.wait_for(guard, std::min<Nanoseconds>(until_tick, options.tick),
                      [this] { return stopped || !jobs.empty() || !exports.empty() || new_config; });
        if (stopped) return;
        other_config = std::exchange(new_config, std::nullopt);
        wanted.swap(exports);
        while (!jobs.empty() && batch.size() < kMostAtOnce) {
          batch.push_back(std::move(jobs.front()));
          jobs.pop_front();
        }
      }
      if (!answer(batch)) return;
      for (Export& each : wanted) each.set_value(core->records());
      if (other_config && !reconfigure(*other_config)) return;
      if (clock.now() < next_tick) continue;
      bool again = false;
      if (!tick(again)) return;
      next_tick = again ? clock.now() : clock.now() + options.tick;
    }
    trouble_was(failure(std::errc::operation_not_permitted, "lead", "", "leadership was lost").value());
  }

  bool answer(std::deque<Job>& batch) {
    std::vector<Pending> pending;
    std::vector<StateChange> changes;
    Result<> stored;
    for (Job& job : batch) {
      Outcome outcome = core->apply(job.request, context(job.actor));
      if (!changes.empty() && changes.size() + outcome.changes.size() > store->most_changes()) {
        stored = settle(pending, changes);
        if (!stored) break;
      }
      std::ranges::move(outcome.changes, std::back_inserter(changes));
      pending.push_back({&job, std::move(outcome.answer)});
    }
    if (stored) stored = settle(pending, changes);
    if (stored) return true;
    trouble_was(stored.error());
    const Error told = passes(stored.error().code) ? does_not_lead().value() : stored.error();
    // Those that were applied and not stored, and those behind them. An answer that was given stays what it is.
    for (Job& job : batch)
      if (!job.answered) refuse(job, told);
    return false;
  }

  // Commits, then answers.
  Result<> settle(std::vector<Pending>& pending, std::vector<StateChange>& changes) {
    Result<> stored = commit(changes);
    // Also when nothing was changed: what was read may have been another leader's to change.
    if (stored && store->lost())
      stored = failure(std::errc::operation_not_permitted, "answer", "", "leadership was lost");
    if (!stored) return stored;
    for (Pending& each : pending) {
      const std::size_t type = each.job->request.index();
      ++requests.at(type);
      if (std::holds_alternative<Refusal>(each.answer)) ++refused.at(type);
      request_seconds.record(clock.now() - each.job->asked);
      each.job->answered = true;
      each.job->answer.set_value(std::move(each.answer));
    }
    pending.clear();
    changes.clear();
    return stored;
  }

  void refuse(Job& job, const Error& error) {
    ++not_leading;
    job.answer.set_value(Failure(error));
  }

  // False: nothing in memory may be relied on.
  bool tick(bool& again) {
    again = true;
    for (int i = 0; i < kMostTicksAtOnce && again; ++i) {
      Core::Tick done = core->tick(context());
      again = done.again;
      if (Result<> stored = commit(done.changes); !stored) {
        trouble_was(stored.error());
        return false;
      }
    }
    return true;
  }

  // False: the records could not be read again.
  bool reconfigure(const CoreConfig& wanted) {
    const CoreConfig former = std::exchange(config, named(wanted));
    Core before = std::move(*core);
    if (const Result<> loaded = load(); loaded) {
      spdlog::info("msg=\"configuration of leases and shares taken over\"");
      return true;
    } else {
      spdlog::error("msg=\"configuration of leases and shares not taken over\" error={}",
                    in_quotes(loaded.error().message()));
    }
    config = former;
    core.emplace(std::move(before));
    return !store->lost();
  }

  // ---- what everybody sees ----

  bool is_stopped() const {
    const std::scoped_lock guard(mutex);
    return stopped;
  }

  std::string last_trouble() const {
    const std::scoped_lock guard(mutex);
    return trouble;
  }

  void trouble_was(const Error& error) {
    const std::scoped_lock guard(mutex);
    trouble = error.message();
  }

  void fail(const Error& error) {
    bool news = false;
    {
      const std::scoped_lock guard(mutex);
      news = trouble != error.message();
      trouble = error.message();
      hopeless = leaderships == 0 && !passes(error.code);
    }
    if (news) spdlog::error("msg=\"cannot lead\" error={}", in_quotes(error.message()));
    enter(ControllerPhase::kFailing);
  }

  void enter(ControllerPhase next) {
    ++beats;
    std::deque<Job> turned_away;
    std::deque<Export> unserved;
    {
      const std::scoped_lock guard(mutex);
      phase = next;
      if (next == ControllerPhase::kLeading) {
        trouble.clear();
        hopeless = false;
        return;
      }
      turned_away.swap(jobs);
      unserved.swap(exports);
    }
    for (Job& each : turned_away) refuse(each, does_not_lead().value());
    for (Export& each : unserved) each.set_value(does_not_lead());
  }

  // Without the mutex.
  Failure does_not_lead() {
    const std::string who = store->leader();
    const std::string why = last_trouble();
    return failure(std::errc::operation_not_permitted, "answer", "",
                   "this controller does not lead" + (who.empty() ? ", and nobody is known to" : ": " + who + " does") +
                       (why.empty() ? "" : " (" + why + ")"));
  }

  std::unique_ptr<StateStore> store;
  const ControllerOptions options;
  const Clock& clock;

  // The thread's.
  CoreConfig config;
  std::optional<Core> core;
  MonoTime latest;
  std::uint64_t records_loaded = 0;

  mutable std::mutex mutex;
  std::condition_variable wake;
  bool stopped = false;
  ControllerPhase phase = ControllerPhase::kWaiting;
  std::string trouble;
  bool hopeless = false;
  std::deque<Job> jobs;
  std::deque<Export> exports;
  std::optional<CoreConfig> new_config;
  std::mutex backup_mutex;

  std::array<Counter, std::variant_size_v<Request>> requests{};
  std::array<Counter, std::variant_size_v<Request>> refused{};
  Counter not_leading = 0, overloaded = 0, commits = 0, commit_failures = 0, records_changed = 0, leaderships = 0;
  Counter beats = 0;
  LatencyHistogram request_seconds, commit_seconds, load_seconds;

  std::thread thread;  // last: it uses all of the above
};

Controller::Controller(std::unique_ptr<StateStore> store, const ControllerOptions& options, const Clock& clock)
    : impl_(std::make_unique<Impl>(std::move(store), options, clock)) {}
Controller::~Controller() = default;

Result<Answer> Controller::call(const Request& request, const std::string& actor) {
  std::future<Result<Answer>> answer;
  {
    const std::scoped_lock guard(impl_->mutex);
    if (impl_->phase == ControllerPhase::kLeading && !impl_->stopped) {
      if (impl_->jobs.size() >= impl_->options.most_waiting) {
        ++impl_->overloaded;
        return failure(std::errc::resource_unavailable_try_again, "answer", "",
                       std::to_string(impl_->jobs.size()) + " requests wait already: try again later");
      }
      Impl::Job job{request, actor, impl_->clock.now(), {}, false};
      answer = job.answer.get_future();
      impl_->jobs.push_back(std::move(job));
    }
  }
  if (!answer.valid()) {
    ++impl_->not_leading;
    return impl_->does_not_lead();
  }
  impl_->wake.notify_one();
  return answer.get();
}

std::string Controller::leader() {
  return impl_->store->leader();
}

Result<BackupAnswer> Controller::backup(const std::string& file) {
  const std::scoped_lock one_at_a_time(impl_->backup_mutex);
  std::future<Result<std::vector<StateChange>>> records;
  {
    const std::scoped_lock guard(impl_->mutex);
    if (impl_->phase == ControllerPhase::kLeading && !impl_->stopped)
      records = impl_->exports.emplace_back().get_future();
  }
  if (!records.valid()) return impl_->does_not_lead();
  impl_->wake.notify_one();
  const Result<std::vector<StateChange>> all = records.get();
  if (!all) return Failure(all.error());
  const Result<BackupFigures> written = write_backup(*all, file);
  if (!written) return Failure(written.error());
  return BackupAnswer{written->file, written->records, Bytes{written->bytes}};
}

void Controller::audit_trouble(std::string_view problem) {
  if (problem.empty()) {
    spdlog::info("msg=\"the audit log is written again\"");
  } else {
    spdlog::error("msg=\"cannot write the audit log\" error={}", in_quotes(problem));
  }
}

void Controller::reconfigure(const CoreConfig& config) {
  const std::scoped_lock guard(impl_->mutex);
  impl_->new_config = config;
  impl_->wake.notify_one();
}

void Controller::end() {
  impl_->end();
}

ControllerState Controller::state() const {
  const std::scoped_lock guard(impl_->mutex);
  return {impl_->phase, impl_->store->leader(), impl_->trouble, impl_->hopeless};
}

ControllerFigures Controller::figures() const {
  ControllerFigures figures;
  for (std::size_t i = 0; i < figures.requests.size(); ++i) {
    figures.requests[i] = impl_->requests[i];
    figures.refused[i] = impl_->refused[i];
  }
  figures.not_leading = impl_->not_leading;
  figures.overloaded = impl_->overloaded;
  figures.commits = impl_->commits;
  figures.commit_failures = impl_->commit_failures;
  figures.records_changed = impl_->records_changed;
  figures.leaderships = impl_->leaderships;
  figures.request_seconds = impl_->request_seconds.snapshot();
  figures.commit_seconds = impl_->commit_seconds.snapshot();
  figures.load_seconds = impl_->load_seconds.snapshot();
  const std::scoped_lock guard(impl_->mutex);
  figures.waiting = impl_->jobs.size();
  return figures;
}

std::uint64_t Controller::beats() const {
  return impl_->beats;
}

}  // namespace tidepool::pool::controller
