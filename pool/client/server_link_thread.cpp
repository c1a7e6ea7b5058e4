// The link's own thread: connects, attaches, watches the time, and serves what nobody else does.
#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/text.h"
#include "kmod-interfaces/own_process.h"
#include "pool/client/server_link_impl.h"

namespace tidepool::pool {
namespace {

using protocol::ErrorCode;

// Data of epoll events; 0 is the wake descriptor.
constexpr std::uint64_t kDemand = 1;
constexpr std::uint64_t kBulk = 2;
// How long the thread goes on looking every take_after once there was no demand any more.
constexpr Nanoseconds kStaysBusy = std::chrono::milliseconds(20);

int whole_milliseconds(Nanoseconds wait) {
  const auto rounded = std::chrono::ceil<std::chrono::milliseconds>(wait).count();
  return static_cast<int>(std::clamp<std::int64_t>(rounded, 1, 60'000));
}

}  // namespace

void ServerLink::run() {
  kernel::take_short_turns();
  while (!stopping_) {
    const auto begun = begin_session();
    const std::string why = begun ? run_session() : begun.error().message();
    // Servers do not keep connections on which no lease was shown. That is no loss.
    const bool unused = up_ && leases_.empty() && attacher_.empty() &&
                        monotonic_now() - up_since_ > options_.longest_retry && !stopping_;
    end_session(why, unused);
    if (!unused && !stopping_) wait_for_retry();
  }
}

Result<ServerLink::Known> ServerLink::greet_on(Connection& connection, std::uint32_t events, const Patience& patience) {
  auto socket = connect_to(endpoint_, patience);
  if (!socket) return Failure{socket.error()};
  auto greeting = greet(socket->get(), authenticates(), endpoint_.is_unix && &connection == &demand_, patience);
  if (!greeting) return Failure{greeting.error()};
  Known met{greeting->welcome.boot, greeting->welcome.name};
  const std::uint64_t key = &connection == &demand_ ? kDemand : kBulk;
  if (auto opened = connection.open(std::move(*socket), std::move(*greeting), epoll_.get(), events, key); !opened)
    return Failure{opened.error()};
  return met;
}

bool ServerLink::moves() const {
  const std::lock_guard lock(mutex_);
  return next_.has_value();
}

void ServerLink::take_new_address() {
  const std::lock_guard lock(mutex_);
  if (!next_) return;
  endpoint_ = std::move(*next_);
  next_.reset();
}

Result<> ServerLink::begin_session() {
  take_new_address();
  const Patience patience{monotonic_now() + options_.connect_patience, stop_.get()};
  const auto met = greet_on(demand_, EPOLLRDHUP, patience);
  if (!met) return Failure{met.error()};
  const auto again = greet_on(bulk_, EPOLLIN | EPOLLRDHUP, patience);
  if (!again) return Failure{again.error()};
  if (*met != *again)
    return failure(std::errc::protocol_error, "connect to", "memory server", "it began anew meanwhile");
  met_ = *met;
  return {};
}

std::string ServerLink::run_session() {
  strange_ = known_ && *known_ != met_;
  if (strange_) {
    const std::lock_guard lock(mutex_);
    // Its key is another one than that of the leases: it has nothing to prove them with.
    if (expected_boot_ == met_.boot) leases_.clear();
  }
  // Leases are attached anew where they are. A server that claims to be another one has to prove with one of them that
  // it is of those that gave them: otherwise anybody on the way could say that all pages are gone.
  const auto attach_anew = [&](const Lease& lease) {
    auto job = std::make_unique<AttachJob>();
    job->lease = lease;
    job->until = monotonic_now() + options_.attach_patience;
    attacher_.add(std::move(job));
    ++anew_;
  };
  if (!strange_) {
    for (const auto& [slice, lease] : leases_) attach_anew(lease);
  } else if (authenticates() && !leases_.empty()) {
    attach_anew(leases_.begin()->second);
  }
  while (!stopping_) {
    tend_attaches();
    if (attacher_.hopeless()) return *attacher_.hopeless();
    if (!up_ && anew_ == 0) come_up();
    if (up_) take_commands();
    wait_and_serve();
    for (Connection* connection : {&demand_, &bulk_}) {
      if (auto why = connection->broken()) return *why;
    }
    if (moves()) return "it is reached elsewhere from now on";
    if (!told_draining_ && up_ && (demand_.draining() || bulk_.draining())) {
      told_draining_ = true;
      if (link_events_.draining) link_events_.draining();
    }
  }
  return "the link was closed";
}

void ServerLink::come_up() {
  if (strange_) leases_.clear();
  known_ = met_;
  up_ = true;
  up_since_ = monotonic_now();
  demand_.serve(answers_.get());
  bulk_.serve(-1);
  bool tell = strange_;
  {
    const std::lock_guard lock(mutex_);
    tell = tell || state_ != LinkState::kUp;
    state_ = LinkState::kUp;
    why_.clear();
  }
  if (tell && link_events_.up) link_events_.up(!strange_);
}

void ServerLink::end_session(const std::string& why, bool quietly) {
  const std::string shown = printable(why);
  bool tell = false;
  if (!quietly) {
    const std::lock_guard lock(mutex_);
    tell = state_ != LinkState::kLost;
    state_ = LinkState::kLost;
    why_ = shown;
  }
  if (up_ && monotonic_now() - up_since_ > options_.longest_retry) retry_ = options_.shortest_retry;
  up_ = told_draining_ = false;
  anew_ = 0;
  created_while_asking_.reset();
  if (tell && link_events_.down) link_events_.down(shown);
  Endings endings;
  files_.clear();
  demand_.close(endings);
  bulk_.close(endings);
  endings.tell(counters_);
  for (const auto& job : attacher_.take_all()) {
    if (job->done) job->done(AttachOutcome::kLost, ErrorCode::kOk);
  }
}

void ServerLink::wait_for_retry() {
  // Not all clients of a server that comes back at the same moment.
  const double part = std::uniform_real_distribution<>(0.5, 1.0)(random_);
  const MonoTime until = monotonic_now() + std::chrono::duration_cast<Nanoseconds>(part * retry_);
  retry_ = std::min(2 * retry_, options_.longest_retry);
  while (!stopping_) {
    give_up_late_attaches();
    const Nanoseconds left = until - monotonic_now();
    if (left <= Nanoseconds{0}) return;
    pollfd stop{stop_.get(), POLLIN, 0};
    ::poll(&stop, 1, whole_milliseconds(std::min(left, check_every())));
  }
}

void ServerLink::take_commands() {
  std::deque<Command> commands;
  {
    const std::lock_guard lock(mutex_);
    commands.swap(commands_);
  }
  for (Command& command : commands) {
    if (command.attach) {
      attacher_.add(std::move(command.attach));
    } else if (leases_.erase(command.release) > 0) {
      files_.remove(command.release);
      demand_.forbid(command.release);
      bulk_.send_release(command.release);
    }
  }
  if (!commands.empty()) tend_attaches();
}

void ServerLink::tend_attaches() {
  for (const auto& job : attacher_.advance()) settle(*job);
}

void ServerLink::settle(AttachJob& job) {
  if (!job.done) return settle_anew(job);
  const protocol::SliceId slice = job.lease.claims.slice;
  if (job.refusal != ErrorCode::kOk) return job.done(AttachOutcome::kRefused, job.refusal);
  demand_.allow(slice, job.lease.claims.epoch);
  bulk_.allow(slice, job.lease.claims.epoch);
  leases_.insert_or_assign(slice, job.lease);
  files_.add(slice, job.lease.claims.slots, std::move(job.file));
  // The proof that a strange server had to give may have made it.
  const bool created = job.created || created_while_asking_ == slice;
  if (created_while_asking_ == slice) created_while_asking_.reset();
  job.done(created ? AttachOutcome::kCreated : AttachOutcome::kAttached, ErrorCode::kOk);
}

void ServerLink::settle_anew(AttachJob& job) {
  --anew_;
  const protocol::SliceId slice = job.lease.claims.slice;
  if (strange_) {
    if (job.created) created_while_asking_ = slice;
    return;
  }
  if (job.refusal == ErrorCode::kOk) bulk_.allow(slice, job.lease.claims.epoch);
  if (job.refusal == ErrorCode::kOk && !job.created) {
    files_.add(slice, job.lease.claims.slots, std::move(job.file));
    return demand_.allow(slice, job.lease.claims.epoch);
  }
  // It is gone, or an empty one has its name: requests for it are refused from now on.
  leases_.erase(slice);
  bulk_.send_release(slice);
}

void ServerLink::give_up_late_attaches() {
  const MonoTime time = monotonic_now();
  std::vector<std::unique_ptr<AttachJob>> late;
  if (attacher_.take_late(time, late)) demand_.fail("it does not answer ATTACH");
  {
    const std::lock_guard lock(mutex_);
    std::erase_if(commands_, [&](Command& command) {
      if (!command.attach || time < command.attach->until) return false;
      late.push_back(std::move(command.attach));
      return true;
    });
  }
  for (const auto& job : late) {
    if (job->done) job->done(AttachOutcome::kLost, ErrorCode::kOk);
  }
}

Nanoseconds ServerLink::check_every() const {
  return std::max<Nanoseconds>(
      std::min({options_.demand_patience, options_.bulk_patience, options_.silence, options_.ping_after}) / 8,
      std::chrono::milliseconds(1));
}

void ServerLink::receive_on(Connection& connection) {
  Endings endings;
  for (bool more = true; more;) {
    more = connection.receive(endings);
    const Connection::Together together(connection);
    endings.tell(counters_);
  }
}

void ServerLink::drain_wake() {
  std::uint64_t count = 0;
  static_cast<void>(!::read(wake_.get(), &count, sizeof count));
}

void ServerLink::wait_and_serve() {
  const auto soon = [&] { return !attacher_.empty() || demand_.under_way() > 0 || monotonic_now() < busy_until_; };
  Nanoseconds wait = soon() ? options_.take_after : check_every();
  if (wait > options_.take_after) {
    // Whoever sends from here on wakes this thread; whoever did before is seen now.
    asleep_ = true;
    if (soon()) wait = options_.take_after;
  }
  std::array<epoll_event, 4> events{};
  const int ready =
      ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), whole_milliseconds(wait));
  asleep_ = false;
  bool demand_ended = false;
  for (int i = 0; i < ready; ++i) {
    const epoll_event& event = events[static_cast<std::size_t>(i)];
    if (event.data.u64 == 0) {
      drain_wake();
      continue;
    }
    Connection& connection = event.data.u64 == kDemand ? demand_ : bulk_;
    if ((event.events & EPOLLOUT) != 0) connection.send_what_waits();
    if ((event.events & ~static_cast<std::uint32_t>(EPOLLOUT)) == 0) continue;
    if (&connection == &bulk_) {
      receive_on(bulk_);
    } else {
      demand_ended = true;
    }
  }
  const MonoTime time = monotonic_now();
  if (demand_.under_way() > 0) {
    busy_until_ = time + kStaysBusy;
    if (time - MonoTime{Nanoseconds{last_taken_.load()}} >= options_.take_after) receive_on(demand_);
  }
  if (demand_ended) receive_on(demand_);
  if (time < next_check_) return;
  next_check_ = time + check_every();
  give_up_late_attaches();
  Endings endings;
  demand_.watch_time(time, endings);
  bulk_.watch_time(time, endings);
  endings.tell(counters_);
}

}  // namespace tidepool::pool
