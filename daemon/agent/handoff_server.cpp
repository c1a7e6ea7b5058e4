#include "daemon/agent/handoff_server.h"

#include <poll.h>
#include <pthread.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <boost/json.hpp>
#include <condition_variable>
#include <list>
#include <mutex>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "service/http/worker_pool.h"
#include "service/log.h"
#include "service/unix_listener.h"

namespace tidepool::daemon {
namespace {

constexpr unsigned kWorkers = 2;
constexpr std::size_t kAcceptsPerPass = 64;

// One line, for whoever reads it. A peer that does not (Firecracker) is not waited for.
void answer(int connection, const boost::json::object& document) {
  const std::string line = boost::json::serialize(document) + "\n";
  (void)::send(connection, line.data(), line.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}

void refuse(int connection, const Error& error) {
  const std::string what = error.attempted + (error.subject.empty() ? "" : " " + error.subject);
  answer(connection, {{"error", {{"message", what + ": " + error.code.message()}, {"remedy", error.remedy}}}});
}

class Server final : public HandoffServer {
 public:
  Server(const HandoffServerOptions& options, TakeOver take_over, UnixListener listener)
      : options_(options),
        take_over_(std::move(take_over)),
        listener_(std::move(listener)),
        workers_(std::make_unique<http::WorkerPool>(kWorkers, options.max_pending)) {}
  ~Server() override {
    stopping_ = true;
    wake();
    if (thread_.joinable()) thread_.join();
    workers_.reset();
  }

  Result<> start() {
    mail_ = UniqueFd{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    if (!mail_.valid()) return errno_failure("create", "eventfd");
    thread_ = std::thread([this] { run(); });
    ::pthread_setname_np(thread_.native_handle(), "handoff");
    return {};
  }
  void accept(bool on) override {
    std::unique_lock lock(mutex_);
    accepting_ = on;
    idle_.wait(lock, [&] { return on || under_way_ == 0; });
  }

 private:
  struct Pending {
    HandoffReceiver receiver;
    MonoTime deadline;
  };

  void wake() const {
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = ::write(mail_.get(), &one, sizeof one);
  }

  void run() {
    while (!stopping_) {
      std::vector<pollfd> watched{{.fd = mail_.get(), .events = POLLIN, .revents = 0},
                                  {.fd = listener_.fd(), .events = POLLIN, .revents = 0}};
      MonoTime next = clock_.now() + std::chrono::hours(1);
      for (const Pending& pending : pending_) {
        watched.push_back({.fd = pending.receiver.connection(), .events = POLLIN, .revents = 0});
        next = std::min(next, pending.deadline);
      }
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(next - clock_.now());
      if (::poll(watched.data(), watched.size(), static_cast<int>(std::max<std::int64_t>(left.count(), 0))) < 0)
        continue;
      std::size_t at = 2;
      for (auto pending = pending_.begin(); pending != pending_.end(); ++at) {
        const bool readable = watched[at].revents != 0;
        pending = serve(*pending, readable) ? pending_.erase(pending) : std::next(pending);
      }
      if (watched[1].revents != 0) accept_all();
    }
  }

  // True when it is done with, one way or the other.
  bool serve(Pending& pending, bool readable) {
    if (readable) {
      const auto complete = pending.receiver.receive();
      if (!complete) return give_up(pending.receiver, complete.error());
      if (*complete) return hand_on(pending.receiver.take());
    }
    if (clock_.now() < pending.deadline) return false;
    return give_up(pending.receiver, failure(std::errc::timed_out, "read",
                                             "the hand-off: " + pending.receiver.missing() + " did not arrive in time")
                                         .value());
  }

  static bool give_up(HandoffReceiver& receiver, const Error& error) {
    spdlog::warn("msg=\"hand-off refused\" pid={} uid={} error={}", receiver.peer().pid, receiver.peer().uid,
                 in_quotes(error.message()));
    refuse(receiver.connection(), error);
    return true;
  }

  bool hand_on(Handoff handoff) {
    auto job = std::make_shared<Handoff>(std::move(handoff));
    if (!begin_take_over()) {
      refuse(job->connection.get(), ending());
      return true;
    }
    const bool queued = workers_->submit([this, job] {
      take_over(*job);
      end_take_over();
    });
    if (!queued) {
      end_take_over();
      const Error busy = failure(std::errc::resource_unavailable_try_again, "take over process",
                                 std::to_string(job->peer.pid), "too many hand off at once: connect again")
                             .value();
      spdlog::warn("msg=\"hand-off refused\" pid={} error={}", job->peer.pid, in_quotes(busy.message()));
      refuse(job->connection.get(), busy);
    }
    return true;
  }

  bool begin_take_over() {
    const std::lock_guard lock(mutex_);
    under_way_ += accepting_ ? 1 : 0;
    return accepting_;
  }
  void end_take_over() {
    const std::lock_guard lock(mutex_);
    if (--under_way_ == 0) idle_.notify_all();
  }
  static Error ending() {
    return failure(std::errc::resource_unavailable_try_again, "begin", "a hand-off", "the agent is ending").value();
  }

  void take_over(Handoff& handoff) const {
    const pid_t pid = handoff.peer.pid;
    // To answer on, whoever owns the connection by then.
    const UniqueFd connection = handoff.connection.duplicate();
    const Result<std::string> vm = take_over_(handoff);
    if (!vm) {
      spdlog::warn("msg=\"hand-off refused\" pid={} uid={} error={}", pid, handoff.peer.uid,
                   in_quotes(vm.error().message()));
      refuse(connection.get(), vm.error());
      return;
    }
    spdlog::info("msg=\"handed off\" vm={} pid={} uid={}", *vm, pid, handoff.peer.uid);
    answer(connection.get(), {{"vm", *vm}});
  }

  void accept_all() {
    for (std::size_t i = 0; i < kAcceptsPerPass; ++i) {
      UniqueFd connection{::accept4(listener_.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)};
      if (!connection.valid()) {
        // With no descriptor left the connection stays in the backlog: poll would call at once, again and again.
        if (errno == EMFILE || errno == ENFILE) std::this_thread::sleep_for(std::chrono::milliseconds(100));
        return;
      }
      begin(std::move(connection));
    }
  }

  void begin(UniqueFd connection) {
    const int fd = connection.get();
    auto receiver = HandoffReceiver::begin(std::move(connection));
    if (!receiver) {
      spdlog::warn("msg=\"hand-off refused\" error={}", in_quotes(receiver.error().message()));
      return;
    }
    const uid_t uid = receiver->peer().uid;
    const auto same_user =
        std::ranges::count_if(pending_, [&](const Pending& p) { return p.receiver.peer().uid == uid; });
    const bool full =
        pending_.size() >= options_.max_pending ||
        (uid != 0 && static_cast<std::size_t>(same_user) >= std::max<std::size_t>(1, options_.max_pending / 4));
    if (full) {
      refuse(fd, failure(std::errc::resource_unavailable_try_again, "begin", "a hand-off",
                         "too many are under way: connect again")
                     .value());
      return;
    }
    pending_.push_back({std::move(*receiver), clock_.now() + options_.patience});
  }

  const HandoffServerOptions options_;
  const TakeOver take_over_;
  UnixListener listener_;
  const SystemClock clock_;
  UniqueFd mail_;
  std::list<Pending> pending_;
  std::mutex mutex_;
  std::condition_variable idle_;
  bool accepting_ = true;
  std::size_t under_way_ = 0;
  std::atomic<bool> stopping_{false};
  std::unique_ptr<http::WorkerPool> workers_;
  std::thread thread_;
};

}  // namespace

Result<std::unique_ptr<HandoffServer>> HandoffServer::start(const HandoffServerOptions& options, TakeOver take_over) {
  auto listener = UnixListener::bind(options.socket, options.group);
  if (!listener) return Failure{listener.error()};
  auto server = std::make_unique<Server>(options, std::move(take_over), std::move(*listener));
  if (auto started = server->start(); !started) return Failure{started.error()};
  return server;
}

}  // namespace tidepool::daemon
