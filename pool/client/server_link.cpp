// What any thread may call; the link's thread is in server_link_thread.cpp.
#include "pool/client/server_link.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "pool/client/server_link_impl.h"

namespace tidepool::pool {
namespace {

constexpr std::size_t kMostCommands = 65536;
// One call of take_answers ends, however fast they come.
constexpr int kMostTurns = 16;
// Pages that are read on the thread that asks for them; more are sent while it does something else.
constexpr std::size_t kMostAtOnce = 8;

void signal(int eventfd) {
  const std::uint64_t one = 1;
  static_cast<void>(!::write(eventfd, &one, sizeof one));
}

}  // namespace

Result<std::unique_ptr<Link>> make_server_link(ServerLinkOptions options) {
  auto endpoint = parse_endpoint(options.address);
  if (!endpoint) return Failure{endpoint.error()};
  UniqueFd wake{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  UniqueFd stop{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  UniqueFd epoll{::epoll_create1(EPOLL_CLOEXEC)};
  UniqueFd answers{::epoll_create1(EPOLL_CLOEXEC)};
  if (!wake.valid() || !stop.valid() || !epoll.valid() || !answers.valid())
    return errno_failure("prepare", "link to memory server " + options.name, "raise the limit of open files");
  epoll_event event{.events = EPOLLIN, .data = {.u64 = 0}};
  if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, wake.get(), &event) != 0)
    return errno_failure("prepare", "link to memory server " + options.name);
  return std::make_unique<ServerLink>(std::move(options), std::move(*endpoint), std::move(wake), std::move(stop),
                                      std::move(epoll), std::move(answers));
}

ServerLink::ServerLink(ServerLinkOptions options, Endpoint endpoint, UniqueFd wake, UniqueFd stop, UniqueFd epoll,
                       UniqueFd answers)
    : options_(std::move(options)),
      wake_(std::move(wake)),
      stop_(std::move(stop)),
      epoll_(std::move(epoll)),
      answers_(std::move(answers)),
      demand_({options_.demand_patience, options_.silence, options_.ping_after}, counters_, wake_.get()),
      bulk_({options_.bulk_patience, options_.silence, options_.ping_after}, counters_, wake_.get()),
      address_(options_.address),
      endpoint_(std::move(endpoint)),
      attacher_({&demand_, &bulk_}),
      retry_(options_.shortest_retry) {}

ServerLink::~ServerLink() {
  stopping_ = true;
  signal(stop_.get());
  wake();
  if (thread_.joinable()) thread_.join();
  for (Command& command : commands_) {
    if (command.attach) command.attach->done(AttachOutcome::kLost, protocol::ErrorCode::kOk);
  }
}

void ServerLink::wake() {
  signal(wake_.get());
}

void ServerLink::listen(LinkEvents events) {
  link_events_ = std::move(events);
  thread_ = std::thread([this] { run(); });
}

void ServerLink::attach(const Lease& lease, std::function<void(AttachOutcome, protocol::ErrorCode)> done) {
  auto job = std::make_unique<AttachJob>();
  job->lease = lease;
  job->done = std::move(done);
  job->until = monotonic_now() + options_.attach_patience;
  Command refused;
  {
    const std::lock_guard lock(mutex_);
    Command& command = commands_.size() < kMostCommands ? commands_.emplace_back() : refused;
    command.attach = std::move(job);
  }
  if (refused.attach) return refused.attach->done(AttachOutcome::kLost, protocol::ErrorCode::kOk);
  wake();
}

void ServerLink::release(protocol::SliceId slice) {
  {
    const std::lock_guard lock(mutex_);
    if (commands_.size() < kMostCommands) commands_.push_back({.attach = nullptr, .release = slice});
  }
  wake();
}

void ServerLink::expect_boot(const protocol::BootId& boot) {
  const std::lock_guard lock(mutex_);
  expected_boot_ = boot;
}

Result<> ServerLink::move_to(const std::string& address) {
  {
    const std::lock_guard lock(mutex_);
    if (address == address_) return {};
    auto endpoint = parse_endpoint(address);
    if (!endpoint) return Failure{endpoint.error()};
    next_ = std::move(*endpoint);
    address_ = address;
  }
  wake();
  return {};
}

void ServerLink::submit(LinkRequest& request) {
  if (read_at_once(request)) return;
  connection_for(request).submit(request);
  if (asleep_.exchange(false)) wake();
}

// What the fault waits for, where the server has handed the slice over.
bool ServerLink::read_at_once(LinkRequest& request) {
  if (request.op != LinkOp::kRead || request.priority != Priority::kDemand || request.items.size() > kMostAtOnce)
    return false;
  const MonoTime begun = monotonic_now();
  if (!files_.read(request)) return false;
  counters_.demand_reads.record(monotonic_now() - begun);
  ++counters_.from_files;
  Endings endings;
  endings.add(request, LinkOutcome::kAnswered);
  endings.tell(counters_);
  return true;
}

bool ServerLink::cancel(LinkRequest& request) {
  if (!connection_for(request).cancel(request)) return false;
  Endings endings;
  endings.add(request, LinkOutcome::kCancelled);
  endings.tell(counters_);
  return true;
}

void ServerLink::take_answers() {
  last_taken_ = monotonic_now().since_boot.count();
  Endings endings;
  for (int turn = 0; turn < kMostTurns; ++turn) {
    const bool more = demand_.receive(endings);
    const Connection::Together together(demand_);
    endings.tell(counters_);
    if (!more) return;
  }
}

LinkFigures ServerLink::figures() const {
  LinkFigures figures;
  {
    const std::lock_guard lock(mutex_);
    figures.state = state_;
    figures.why = why_;
  }
  const RecentLatencies::Usual usual = counters_.demand_reads.usual();
  figures.typical_read = usual.median;
  figures.slow_read = usual.slow;
  figures.requests = counters_.requests;
  figures.lost = counters_.lost;
  figures.late = counters_.late;
  figures.refused = counters_.refused;
  figures.bad_frames = counters_.bad_frames;
  figures.from_files = counters_.from_files;
  figures.pages_under_way = demand_.pages_under_way() + bulk_.pages_under_way();
  figures.bytes_sent = counters_.bytes_sent;
  figures.bytes_received = counters_.bytes_received;
  return figures;
}

}  // namespace tidepool::pool
