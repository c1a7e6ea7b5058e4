#include "pool/client/connection.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/text.h"

namespace tidepool::pool {
namespace {

using protocol::MessageType;

// Of the patience: an answer that is due for so long does not come any more.
constexpr int kNeverAnswered = 8;

}  // namespace

void Endings::tell(LinkCounters& counters) {
  for (const auto& [request, outcome] : ended_) {
    switch (outcome) {
      case LinkOutcome::kAnswered:
        ++counters.requests;
        break;
      case LinkOutcome::kRefused:
        ++counters.refused;
        break;
      case LinkOutcome::kLost:
        ++counters.lost;
        break;
      case LinkOutcome::kLate:
        ++counters.late;
        break;
      case LinkOutcome::kCancelled:
        break;
    }
    if (request->done) request->done(*request, outcome);
  }
  ended_.clear();
}

Result<> Connection::open(UniqueFd socket, Greeting greeting, int epoll, std::uint32_t events, std::uint64_t key) {
  const std::scoped_lock locks(receiving_, mutex_);
  epoll_event event{.events = events, .data = {.u64 = key}};
  if (::epoll_ctl(epoll, EPOLL_CTL_ADD, socket.get(), &event) != 0) return errno_failure("watch", "memory server");
  socket_ = std::move(socket);
  epoll_ = epoll;
  events_ = armed_ = events;
  key_ = key;
  greeting_ = std::move(greeting);
  credit_ = greeting_.welcome.credit_pages;
  open_ = true;
  last_received_ = monotonic_now().since_boot.count();
  return {};
}

void Connection::serve(int answers_epoll) {
  const std::lock_guard lock(mutex_);
  if (broken_) return;
  serving_ = true;
  if (answers_epoll < 0) return;
  epoll_event event{.events = EPOLLIN, .data = {.u64 = key_}};
  if (::epoll_ctl(answers_epoll, EPOLL_CTL_ADD, socket_.get(), &event) != 0)
    return broke("its socket cannot be watched: " + std::string(std::strerror(errno)));
  answers_epoll_ = answers_epoll;
}

void Connection::close(Endings& endings) {
  const std::scoped_lock locks(receiving_, mutex_);
  table_.for_each([&](SentRequest& sent) {
    if (sent.request != nullptr) endings.add(*sent.request, LinkOutcome::kLost);
  });
  table_.clear();
  queue_.remove_if([](const LinkRequest&) { return true; },
                   [&](LinkRequest& request) { endings.add(request, LinkOutcome::kLost); });
  socket_.reset();
  reader_.clear();
  incoming_.reset();
  files_.clear();
  outgoing_.reset();
  slices_.clear();
  attach_answers_.clear();
  unsent_.clear();
  kept_back_ = 0;
  why_.clear();
  keying_ = 0;
  answers_epoll_ = -1;
  open_ = keyed_ = serving_ = false;
  broken_ = draining_ = false;
}

std::optional<std::string> Connection::broken() const {
  if (!broken_) return std::nullopt;
  const std::lock_guard lock(mutex_);
  return why_;
}

void Connection::fail(const std::string& why) {
  const std::lock_guard lock(mutex_);
  broke(why);
}

// Nothing more is sent or taken; the link's thread closes.
void Connection::broke(const std::string& why) {
  if (broken_) return;
  why_ = why;
  broken_ = true;
  serving_ = false;
  // Or whoever waits for answers would find the end of the stream again and again.
  if (answers_epoll_ >= 0) ::epoll_ctl(answers_epoll_, EPOLL_CTL_DEL, socket_.get(), nullptr);
  const std::uint64_t one = 1;
  static_cast<void>(!::write(wake_fd_, &one, sizeof one));
}

bool Connection::ready() const {
  const std::lock_guard lock(mutex_);
  return open_ && (keyed_ || !greeting_.authenticated());
}

std::optional<RequestTable::Id> Connection::send_attach(const Lease& lease) {
  const std::scoped_lock locks(receiving_, mutex_);
  if (!open_ || broken_ || table_.full() || table_.without_credit() >= protocol::kMaxUncreditedRequests)
    return std::nullopt;
  const bool keys = greeting_.authenticated() && !keyed_;
  if (keys) {
    if (keying_ != 0) return std::nullopt;
    const protocol::FrameKeys keys_of_frames =
        protocol::frame_keys(lease.secret, greeting_.random, greeting_.welcome.random, greeting_.transcript);
    auto incoming = protocol::FrameGuard::make(keys_of_frames.to_client);
    auto outgoing = protocol::FrameGuard::make(keys_of_frames.to_server);
    if (!incoming || !outgoing) return broke((incoming ? outgoing : incoming).error().message()), std::nullopt;
    incoming_ = std::move(*incoming);
    outgoing_ = std::move(*outgoing);
  }
  const RequestTable::Id id = enter({.type = MessageType::kAttach, .sent_at = monotonic_now()});
  if (keys) keying_ = id;
  scratch_.clear();
  protocol::append_attach(scratch_, id,
                          {lease.claims, protocol::attach_proof(lease.secret, greeting_.transcript, lease.claims)});
  transmit({}, nullptr);
  return id;
}

std::vector<AttachAnswer> Connection::take_attach_answers() {
  const std::lock_guard lock(mutex_);
  return std::exchange(attach_answers_, {});
}

void Connection::allow(protocol::SliceId slice, protocol::LeaseEpoch epoch) {
  const std::lock_guard lock(mutex_);
  slices_[slice] = epoch;
}

void Connection::forbid(protocol::SliceId slice) {
  const std::lock_guard lock(mutex_);
  slices_.erase(slice);
}

void Connection::send_release(protocol::SliceId slice) {
  const std::lock_guard lock(mutex_);
  const auto found = slices_.find(slice);
  if (found == slices_.end()) return;
  const protocol::Scope scope{slice, found->second, greeting_.welcome.boot};
  slices_.erase(found);
  if (broken_ || table_.full() || table_.without_credit() >= protocol::kMaxUncreditedRequests) return;
  scratch_.clear();
  protocol::append_release(scratch_, enter({.type = MessageType::kRelease, .sent_at = monotonic_now()}), scope);
  transmit({}, nullptr);
}

void Connection::send_what_waits() {
  const std::lock_guard lock(mutex_);
  if (!open_ || broken_) return;
  flush();
  send_from_queue();
}

void Connection::watch_time(MonoTime at, Endings& endings) {
  const std::lock_guard lock(mutex_);
  if (!open_ || broken_) return;
  const auto too_long = [&](MonoTime since) { return at - since > limits_.patience; };
  bool stuck = false;
  table_.for_each([&](SentRequest& sent) {
    stuck = stuck || at - sent.sent_at > kNeverAnswered * limits_.patience;
    if (sent.request == nullptr || !too_long(sent.sent_at)) return;
    take_leave(sent.request);
    endings.add(*std::exchange(sent.request, nullptr), LinkOutcome::kLate);
  });
  if (stuck) return broke("it leaves requests unanswered, and their credit with them");
  queue_.remove_if([&](const LinkRequest& request) { return too_long(request.sent_at); },
                   [&](LinkRequest& request) { endings.add(request, LinkOutcome::kLate); });
  const MonoTime received{Nanoseconds{last_received_.load()}};
  if (table_.size() > 0) {
    if (at - std::max(received, due_since_) > limits_.silence)
      broke("it has not said a word for " +
            std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(limits_.silence).count()) + " ms");
  } else if (at - received > limits_.idle && (keyed_ || !greeting_.authenticated())) {
    scratch_.clear();
    protocol::append_ping(scratch_, enter({.type = MessageType::kPing, .sent_at = at}));
    transmit({}, nullptr);
  }
}

bool Connection::cancel(LinkRequest& request) {
  const std::lock_guard lock(mutex_);
  return queue_.remove(request);
}

std::size_t Connection::under_way() const {
  const std::lock_guard lock(mutex_);
  return table_.size() + queue_.size();
}

std::uint64_t Connection::pages_under_way() const {
  const std::lock_guard lock(mutex_);
  return table_.credit_pages();
}

}  // namespace tidepool::pool
