#include "daemon/agent/descriptor_clerk.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/unique_fd.h"

namespace tidepool::daemon {

namespace {

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

}  // namespace

DescriptorClerk::DescriptorClerk(std::unique_ptr<pool::FdHolder> holder, const std::string& keeper_socket)
    : holder_(std::move(holder)),
      kind_(holder_->kind()),
      holder_pid_(kind_ == "keeper" ? listener_of(keeper_socket) : 0) {
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
  return note(holder_->remove(name));
}

void DescriptorClerk::store_later(std::string name, int fd, std::function<void(Result<>)> done) {
  auto copy = std::make_shared<UniqueFd>(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  const std::lock_guard lock(mutex_);
  queue_.push_back([this, name = std::move(name), copy, done = std::move(done)] { done(store(name, copy->get())); });
  wake_.notify_one();
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
    wake_.wait(lock, [&] { return stopping_ || !queue_.empty(); });
    if (queue_.empty()) return;
    const auto task = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    task();
    lock.lock();
  }
}

}  // namespace tidepool::daemon
