#include "pool/server/event_loop.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <future>
#include <utility>

#include "kmod-interfaces/own_process.h"
#include "pool/server/ring.h"

namespace tidepool::pool::server {
namespace {

constexpr unsigned kEntries = 1024;
constexpr auto kTick = std::chrono::milliseconds(500);
constexpr auto kAcceptPause = std::chrono::milliseconds(200);

// What a completion is about: a connection's address with the kind in the bits that its alignment leaves, or small
// numbers.
enum class Event : std::uint64_t { kReceive = 0, kSend = 1, kBell = 2, kAccept = 3 };
constexpr std::uint64_t kEventMask = 3;
static_assert(alignof(ClientConnection) > kEventMask);

std::uint64_t tag_of(ClientConnection* connection, Event event) {
  return reinterpret_cast<std::uintptr_t>(connection) | static_cast<std::uint64_t>(event);
}

void set_up_tcp(int fd) {
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  ::setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
}

void set_up_unix(int fd) {
  ::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &protocol::kUnixSendRoom, sizeof protocol::kUnixSendRoom);
}

}  // namespace

EventLoop::EventLoop(ServerState& state, const Clock& clock, std::vector<Listening> listening, OnAccept accepted)
    : state_(state),
      clock_(clock),
      listening_(std::move(listening)),
      accepted_(std::move(accepted)),
      bell_(::eventfd(0, EFD_CLOEXEC)),
      listener_armed_(listening_.size(), false) {}

Result<std::unique_ptr<EventLoop>> EventLoop::start(ServerState& state, const Clock& clock,
                                                    std::vector<Listening> listening, OnAccept accepted) {
  std::unique_ptr<EventLoop> loop(new EventLoop(state, clock, std::move(listening), std::move(accepted)));
  if (!loop->bell_.valid()) return errno_failure("create", "an eventfd");
  std::promise<Result<>> started;
  loop->thread_ = std::thread(
      [&loop = *loop, &started] { loop.run([&started](Result<> outcome) { started.set_value(std::move(outcome)); }); });
  if (Result<> outcome = started.get_future().get(); !outcome) return Failure{outcome.error()};
  return loop;
}

EventLoop::~EventLoop() {
  stop_ = true;
  wake();
  if (thread_.joinable()) thread_.join();
}

void EventLoop::add(Accepted connection) {
  {
    const std::lock_guard lock(mutex_);
    inbox_.push_back(std::move(connection));
  }
  wake();
}

void EventLoop::set_limits(const ConnectionLimits& limits) {
  const std::lock_guard lock(mutex_);
  limits_ = limits;
}

void EventLoop::wake() {
  const std::uint64_t one = 1;
  // Fails only when it has rung 2^64 times unheard.
  [[maybe_unused]] const ssize_t rung = ::write(bell_.get(), &one, sizeof one);
}

std::string EventLoop::trouble() const {
  const std::lock_guard lock(mutex_);
  return trouble_;
}

void EventLoop::run(const std::function<void(Result<>)>& started) {
  ::pthread_setname_np(::pthread_self(), "memd-loop");
  kernel::take_short_turns();
  Result<> end;
  {
    auto ring = Ring::create(kEntries);
    if (!ring) return started(Failure{ring.error()});
    started({});
    end = serve(*ring);
    // The kernel writes into connections' memory until the ring is gone.
  }
  connections_.clear();
  if (end) return;
  const std::lock_guard lock(mutex_);
  trouble_ = end.error().message();
}

Result<> EventLoop::serve(Ring& ring) {
  looked_ = now_ = clock_.now();
  while (!stop_ || !connections_.empty()) {
    if (auto armed = arm(ring); !armed) return armed;
    if (auto waited = ring.submit_and_wait(kTick); !waited) return waited;
    count(counters_.beats);
    now_ = clock_.now();
    ring.for_each_completion(
        [this](const io_uring_cqe& completion) { complete(completion.user_data, completion.res, completion.flags); });
    if (now_ - looked_ >= kTick) look_at_clock();
    if (stop_) {
      for (const auto& [connection, owner] : connections_) {
        connection->cut();
        touch(*connection);
      }
    }
  }
  return {};
}

// Submits what connections and listeners want.
Result<> EventLoop::arm(Ring& ring) {
  if (!bell_armed_) {
    auto entry = ring.submission();
    if (!entry) return Failure{entry.error()};
    io_uring_prep_read(*entry, bell_.get(), &bell_count_, sizeof bell_count_, 0);
    io_uring_sqe_set_data64(*entry, static_cast<std::uint64_t>(Event::kBell));
    bell_armed_ = true;
  }
  if (!stop_ && now_ >= accept_again_) {
    if (auto armed = arm_listeners(ring); !armed) return armed;
  }
  for (ClientConnection* connection : touched_) {
    if (connection->wants_send()) {
      auto entry = ring.submission();
      if (!entry) return Failure{entry.error()};
      connection->prepare_send(**entry, now_);
      io_uring_sqe_set_data64(*entry, tag_of(connection, Event::kSend));
    }
    if (connection->wants_receive()) {
      auto entry = ring.submission();
      if (!entry) return Failure{entry.error()};
      connection->prepare_receive(**entry, ring.can_poll_first());
      io_uring_sqe_set_data64(*entry, tag_of(connection, Event::kReceive));
    }
  }
  sweep();
  return {};
}

Result<> EventLoop::arm_listeners(Ring& ring) {
  for (std::size_t i = 0; i < listening_.size(); ++i) {
    if (listener_armed_[i]) continue;
    auto entry = ring.submission();
    if (!entry) return Failure{entry.error()};
    io_uring_prep_accept(*entry, listening_[i].fd, nullptr, nullptr, SOCK_CLOEXEC);
    io_uring_sqe_set_data64(*entry, i << 2 | static_cast<std::uint64_t>(Event::kAccept));
    listener_armed_[i] = true;
  }
  return {};
}

// Those that have ended, and forgets who was touched.
void EventLoop::sweep() {
  for (ClientConnection* connection : touched_) {
    connection->touched = false;
    if (connection->finished()) connections_.erase(connection);
  }
  touched_.clear();
}

void EventLoop::touch(ClientConnection& connection) {
  if (std::exchange(connection.touched, true)) return;
  touched_.push_back(&connection);
}

void EventLoop::complete(std::uint64_t what, int result, unsigned flags) {
  if (what == LIBURING_UDATA_TIMEOUT) return;
  const Event event{what & kEventMask};
  if (event == Event::kBell) {
    bell_armed_ = false;
    take_inbox();
    return;
  }
  if (event == Event::kAccept) return complete_accept(what >> 2, result);
  // A completion carries 64 bits and nothing else.
  // NOLINTNEXTLINE(performance-no-int-to-ptr)
  auto* const connection = reinterpret_cast<ClientConnection*>(what & ~kEventMask);
  if (event == Event::kReceive) {
    connection->received(result, (flags & IORING_CQE_F_SOCK_NONEMPTY) != 0);
  } else {
    connection->sent(result, now_);
  }
  touch(*connection);
}

void EventLoop::complete_accept(std::size_t listener, int result) {
  listener_armed_[listener] = false;
  if (result >= 0) {
    UniqueFd socket(result);
    (listening_[listener].tcp ? set_up_tcp : set_up_unix)(socket.get());
    accepted_({std::move(socket), listening_[listener].rules});
  } else if (result == -EMFILE || result == -ENFILE || result == -ENOMEM || result == -ENOBUFS) {
    accept_again_ = now_ + kAcceptPause;
  }
}

void EventLoop::take_inbox() {
  std::vector<Accepted> mine;
  {
    const std::lock_guard lock(mutex_);
    mine.swap(inbox_);
  }
  for (Accepted& each : mine) {
    auto connection = std::make_unique<ClientConnection>(std::move(each.socket), each.rules, state_, counters_, now_);
    touch(*connection);
    ClientConnection* const key = connection.get();
    connections_.emplace(key, std::move(connection));
  }
  if (mine.empty()) look_at_clock();  // there is news for all
}

void EventLoop::look_at_clock() {
  looked_ = now_;
  ConnectionLimits limits;
  {
    const std::lock_guard lock(mutex_);
    limits = limits_;
  }
  for (const auto& [connection, owner] : connections_) {
    connection->look_at_clock(now_, limits);
    touch(*connection);
  }
}

}  // namespace tidepool::pool::server
