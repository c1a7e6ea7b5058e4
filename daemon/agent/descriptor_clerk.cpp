#include "daemon/agent/descriptor_clerk.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "kmod-interfaces/lock_file.h"
#include "kmod-interfaces/own_process.h"
#include "pool/keeper/make_fd_holder.h"
#include "service/notify.h"

namespace tidepool::daemon {

namespace {

constexpr auto kRetryStore = std::chrono::seconds(1);
// Between looks for a holder that has gone.
constexpr std::chrono::milliseconds kFirstReconnect{50};
constexpr std::chrono::milliseconds kSlowestReconnect{2000};
constexpr const char* kKeeper = "keeper";

// Who listens at the other end: the credentials that a connection shows are those of listen(2)'s caller.
pid_t listener_of(int connection) {
  ucred peer{};
  socklen_t length = sizeof peer;
  return ::getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 ? peer.pid : 0;
}

pool::HolderChoice choice_of(FdHolderKind kind) {
  switch (kind) {
    case FdHolderKind::kKeeper:
      return pool::HolderChoice::kKeeper;
    case FdHolderKind::kSystemd:
      return pool::HolderChoice::kSystemd;
    default:
      return pool::HolderChoice::kAuto;
  }
}

// A keeper holds for one agent at a time: names of two would overwrite each other.
Result<UniqueFd> claim_keeper(const std::string& socket) {
  const std::string path = socket + ".agent";
  auto claim = kernel::take_lock_file(path);
  if (!claim && claim.error().code == std::errc::device_or_resource_busy)
    return failure(std::errc::device_or_resource_busy, "use the keeper at", socket,
                   "it serves another agent" + kernel::lock_file_owner_text(path) +
                       ": stop that one first, or give this one a keeper.socket of its own");
  return claim;
}

// What an earlier agent left with the holder. A pool without a VM is worthless; where a VM's descriptors lie, its pages
// may hang on them: those are neither used nor thrown away.
Result<> clear_leftovers(pool::FdHolder& holder) {
  const auto left = holder.fetch_all();
  if (!left) return Failure{left.error()};
  const auto of_vms =
      std::ranges::count_if(*left, [](const pool::HeldFd& held) { return held.name.starts_with("vm/"); });
  if (of_vms != 0) {
    return failure(std::errc::device_or_resource_busy, "start",
                   "with " + std::to_string(of_vms) + " descriptors of an earlier agent's VMs in the " + holder.kind(),
                   "those VMs wait for them; end those VMs, then stop the keeper with SIGTERM twice, and start again");
  }
  for (const pool::HeldFd& held : *left) {
    if (auto removed = holder.remove(held.name); !removed) return removed;
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<DescriptorClerk>> DescriptorClerk::open(const Config::Keeper& config,
                                                               const kernel::KernelRoots& roots) {
  pool::FdHolderOptions options;
  options.choice = choice_of(config.holder);
  options.keeper.socket = config.socket;
  options.keeper.program = config.program;
  // As a part of a service, a keeper that this agent started would end with it.
  if (options.keeper.program.empty() && !ServiceManager::present()) {
    auto beside = kernel::program_beside_own(roots, "tidepool-keeper");
    if (!beside) return Failure{beside.error()};
    options.keeper.program = std::move(*beside);
  }
  auto holder = pool::make_fd_holder(options);
  if (!holder) return Failure{holder.error()};
  UniqueFd claim;
  if ((*holder)->kind() == kKeeper) {
    auto claimed = claim_keeper(config.socket);
    if (!claimed) return Failure{claimed.error()};
    claim = std::move(*claimed);
  }
  if (auto cleared = clear_leftovers(**holder); !cleared) return Failure{cleared.error()};
  // Never starts one: whoever runs the keeper decides that.
  options.choice = pool::HolderChoice::kKeeper;
  options.keeper.program.clear();
  const auto reconnect = [options] { return pool::make_fd_holder(options); };
  return std::make_unique<DescriptorClerk>(std::move(*holder), config.socket, reconnect, std::move(claim));
}

DescriptorClerk::DescriptorClerk(std::unique_ptr<pool::FdHolder> holder, std::string address, Connect reconnect,
                                 UniqueFd claim)
    : claim_(std::move(claim)),
      address_(std::move(address)),
      reconnect_(std::move(reconnect)),
      kind_(holder->kind()),
      wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  use(std::move(holder));
  thread_ = std::thread([this] { run(); });
  ::pthread_setname_np(thread_.native_handle(), "clerk");
}

DescriptorClerk::~DescriptorClerk() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake();
  thread_.join();
}

void DescriptorClerk::wake() const {
  const std::uint64_t one = 1;
  // The counter can only be full when 2^64 wake-ups are unread.
  [[maybe_unused]] const ssize_t written = ::write(wake_.get(), &one, sizeof one);
}

void DescriptorClerk::watch(std::function<void(bool)> changed) {
  const std::lock_guard lock(watch_mutex_);
  changed_ = std::move(changed);
  if (changed_) changed_(holding_);
}

Result<> DescriptorClerk::store(const std::string& name, int fd) {
  UniqueFd copy{::fcntl(fd, F_DUPFD_CLOEXEC, 0)};
  if (!copy.valid()) return errno_failure("duplicate", name, "raise the agent's LimitNOFILE");
  const std::lock_guard lock(holder_mutex_);
  if (!holding_) return failure(std::errc::connection_reset, "hold " + name, "", trouble());
  auto stored = note(holder_->store(name, fd));
  if (stored) held_[name] = std::move(copy);
  return stored;
}

Result<> DescriptorClerk::remove(const std::string& name) {
  const std::lock_guard lock(holder_mutex_);
  held_.erase(name);
  if (!holding_) return {};  // the next one is not given it
  Result<> removed = holder_->remove(name);
  if (!removed && removed.error().code == std::errc::no_such_file_or_directory) return {};
  return note(std::move(removed));
}

void DescriptorClerk::store_later(const std::vector<DescriptorToHold>& descriptors,
                                  std::function<void(const Result<>&)> done) {
  Order order;
  for (const DescriptorToHold& descriptor : descriptors)
    order.store.push_back({descriptor.name, UniqueFd{::fcntl(descriptor.fd, F_DUPFD_CLOEXEC, 0)}});
  order.done = std::move(done);
  const std::lock_guard lock(mutex_);
  queue_.push_back(std::move(order));
  wake();
}

void DescriptorClerk::remove_later(std::vector<std::string> names) {
  const std::lock_guard lock(mutex_);
  Order order;
  order.remove = std::move(names);
  queue_.push_back(std::move(order));
  wake();
}

Result<> DescriptorClerk::store_all(const std::vector<pool::HeldFd>& descriptors) {
  for (const pool::HeldFd& descriptor : descriptors) {
    if (auto stored = store(descriptor.name, descriptor.fd.get()); !stored) return stored;
  }
  return {};
}

void DescriptorClerk::carry_out(Order order) {
  if (!order.remove.empty()) {
    const auto unwanted = [&](const pool::HeldFd& held) { return std::ranges::count(order.remove, held.name) != 0; };
    {
      // What waits to be stored under these names would stay for ever.
      const std::lock_guard lock(mutex_);
      std::erase_if(queue_, [&](const Order& waiting) { return std::ranges::any_of(waiting.store, unwanted); });
    }
    for (const std::string& name : order.remove) (void)remove(name);
    return;
  }
  const Result<> stored = store_all(order.store);
  order.done(stored);
  if (stored) return;
  order.not_before = std::chrono::steady_clock::now() + kRetryStore;
  const std::lock_guard lock(mutex_);
  queue_.push_back(std::move(order));
}

// Of what was asked of the holder, with holder_mutex_ held.
Result<> DescriptorClerk::note(Result<> result) {
  // An answer that did not come, or made no sense, ends the connection: what the holder has is not known any more.
  if (!result && kind_ == kKeeper && holder_->connection() < 0) {
    lose(result.error().message());
    return result;
  }
  const std::lock_guard lock(mutex_);
  trouble_ = result ? std::string() : result.error().message();
  return result;
}

std::string DescriptorClerk::trouble() const {
  const std::lock_guard lock(mutex_);
  return trouble_;
}

void DescriptorClerk::use(std::unique_ptr<pool::FdHolder> holder) {
  holder_ = std::move(holder);
  const int connection = holder_->connection();
  if (connection < 0) return;
  holder_pid_ = listener_of(connection);
  connection_ = UniqueFd{::fcntl(connection, F_DUPFD_CLOEXEC, 0)};
}

void DescriptorClerk::set_holding(bool holding) {
  if (holding_.exchange(holding) == holding) return;
  const std::lock_guard lock(watch_mutex_);
  if (changed_) changed_(holding);
}

void DescriptorClerk::note_lost(const std::string& why) {
  const std::lock_guard lock(mutex_);
  trouble_ = why + "; until it is back nothing more is adopted or moved out";
}

// With holder_mutex_ held.
void DescriptorClerk::lose(const std::string& why) {
  if (!holding_) return;
  note_lost(why);
  holder_pid_ = 0;
  set_holding(false);
  wake();
}

// What it has that we do not know of is from before we lost it, and needed no more: the claim keeps all others away.
Result<> DescriptorClerk::hand_over(pool::FdHolder& holder) const {
  const auto there = holder.fetch_all();
  if (!there) return Failure{there.error()};
  for (const pool::HeldFd& each : *there) {
    if (held_.contains(each.name)) continue;
    if (auto removed = holder.remove(each.name); !removed) return removed;
  }
  for (const auto& [name, fd] : held_) {
    if (auto stored = holder.store(name, fd.get()); !stored) return stored;
  }
  return {};
}

void DescriptorClerk::try_again() {
  const std::lock_guard lock(holder_mutex_);
  auto holder = reconnect_();
  const Result<> handed_over = holder ? hand_over(**holder) : Result<>{};
  if (holder && handed_over) {
    use(std::move(*holder));
    {
      const std::lock_guard queue_lock(mutex_);
      trouble_.clear();
    }
    pause_ = {};
    set_holding(true);
    return;
  }
  if (!handed_over) note_lost(handed_over.error().message());
  pause_ = std::clamp(2 * pause_, kFirstReconnect, kSlowestReconnect);
  again_at_ = std::chrono::steady_clock::now() + pause_;
}

std::optional<DescriptorClerk::Order> DescriptorClerk::next_due() {
  const std::lock_guard lock(mutex_);
  const auto due = std::ranges::min_element(queue_, {}, &Order::not_before);
  if (due == queue_.end() || due->not_before > std::chrono::steady_clock::now()) return std::nullopt;
  Order order = std::move(*due);
  queue_.erase(due);
  return order;
}

// Until there is an order, the holder goes, or it is time to look for it again.
void DescriptorClerk::wait_for_work() {
  auto until = std::chrono::steady_clock::time_point::max();
  {
    const std::lock_guard lock(mutex_);
    for (const Order& order : queue_) until = std::min(until, order.not_before);
  }
  if (!holding_) until = std::min(until, again_at_);
  int patience = -1;
  if (until != std::chrono::steady_clock::time_point::max()) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
    patience = static_cast<int>(std::clamp<std::int64_t>(left.count(), 0, 60'000));
  }
  std::array<pollfd, 2> fds{{{wake_.get(), POLLIN, 0}, {holding_ ? connection_.get() : -1, POLLRDHUP, 0}}};
  if (::poll(fds.data(), fds.size(), patience) <= 0) return;
  std::uint64_t ignored = 0;
  if (fds[0].revents != 0) static_cast<void>(::read(wake_.get(), &ignored, sizeof ignored) < 0);
  if (fds[1].revents == 0) return;
  const std::lock_guard lock(holder_mutex_);
  lose("the keeper at " + address_ + " has ended: start it again (systemctl start tidepool-keeper)");
}

void DescriptorClerk::run() {
  for (;;) {
    if (std::optional<Order> order = next_due()) {
      carry_out(std::move(*order));
      continue;
    }
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) return;
    }
    if (!holding_ && std::chrono::steady_clock::now() >= again_at_) try_again();
    wait_for_work();
  }
}

}  // namespace tidepool::daemon
