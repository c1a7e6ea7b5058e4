#include "daemon/agent/descriptor_clerk.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>

#include "daemon/control/notify.h"
#include "kmod-interfaces/lock_file.h"
#include "kmod-interfaces/own_process.h"
#include "pool/keeper/make_fd_holder.h"

namespace tidepool::daemon {

namespace {

constexpr auto kRetryStore = std::chrono::seconds(1);
constexpr const char* kKeeper = "keeper";

// Who listens on a unix socket: the credentials that a connection shows are those of listen(2)'s caller.
pid_t listener_of(const std::string& path) {
  const UniqueFd socket{::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)};
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return 0;
  path.copy(address.sun_path, path.size());
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) return 0;
  ucred peer{};
  socklen_t length = sizeof peer;
  return ::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 ? peer.pid : 0;
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
  return std::make_unique<DescriptorClerk>(std::move(*holder), config.socket, std::move(claim));
}

DescriptorClerk::DescriptorClerk(std::unique_ptr<pool::FdHolder> holder, const std::string& keeper_socket,
                                 UniqueFd claim)
    : claim_(std::move(claim)),
      holder_(std::move(holder)),
      kind_(holder_->kind()),
      holder_pid_(kind_ == kKeeper ? listener_of(keeper_socket) : 0) {
  thread_ = std::thread([this] { run(); });
  ::pthread_setname_np(thread_.native_handle(), "clerk");
}

DescriptorClerk::~DescriptorClerk() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

Result<> DescriptorClerk::store(const std::string& name, int fd) {
  const std::lock_guard lock(holder_mutex_);
  return note(holder_->store(name, fd));
}

Result<> DescriptorClerk::remove(const std::string& name) {
  const std::lock_guard lock(holder_mutex_);
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
  wake_.notify_one();
}

void DescriptorClerk::remove_later(std::vector<std::string> names) {
  const std::lock_guard lock(mutex_);
  Order order;
  order.remove = std::move(names);
  queue_.push_back(std::move(order));
  wake_.notify_one();
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

Result<> DescriptorClerk::note(Result<> result) {
  const std::lock_guard lock(mutex_);
  trouble_ = result ? std::string() : result.error().message();
  return result;
}

std::string DescriptorClerk::trouble() const {
  const std::lock_guard lock(mutex_);
  return trouble_;
}

void DescriptorClerk::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    const auto due = std::ranges::min_element(queue_, {}, &Order::not_before);
    const bool any = due != queue_.end() && due->not_before <= std::chrono::steady_clock::now();
    if (!any) {
      if (stopping_) return;
      due == queue_.end() ? wake_.wait(lock) : static_cast<void>(wake_.wait_until(lock, due->not_before));
      continue;
    }
    Order order = std::move(*due);
    queue_.erase(due);
    lock.unlock();
    carry_out(std::move(order));
    lock.lock();
  }
}

}  // namespace tidepool::daemon
