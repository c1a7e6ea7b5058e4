#include "pool/keeper/keeper_server.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "kmod-interfaces/lock_file.h"
#include "kmod-interfaces/own_process.h"

namespace tidepool::pool {
namespace {

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path))
    return failure(std::errc::filename_too_long, "use", path, "a socket's path has at most 107 characters");
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

Result<UniqueFd> take_lock(const std::string& path) {
  auto lock = kernel::take_lock_file(path);
  if (!lock && lock.error().code == std::errc::device_or_resource_busy)
    return failure(std::errc::address_in_use, "lock", path,
                   "another keeper serves this socket" + kernel::lock_file_owner_text(path));
  return lock;
}

bool is_userfaultfd(const kernel::KernelRoots& roots, int fd) {
  const auto what = kernel::describe_own_descriptor(roots, fd);
  return what && what->find("[userfaultfd]") != std::string::npos;
}

}  // namespace

KeeperSocket::~KeeperSocket() {
  // Still under the lock, so this cannot be a successor's socket.
  if (socket_.valid()) ::unlink(path_.c_str());
}

Result<KeeperSocket> KeeperSocket::listen(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  if (slash != std::string::npos && slash > 0 && ::mkdir(path.substr(0, slash).c_str(), 0700) != 0 && errno != EEXIST)
    return errno_failure("create", path.substr(0, slash));
  const std::string fresh = path + ".new";
  const auto address = address_of(fresh);
  if (!address) return Failure{address.error()};
  auto lock = take_lock(path + ".lock");
  if (!lock) return Failure{lock.error()};
  struct stat there {};
  if (::lstat(path.c_str(), &there) == 0 && !S_ISSOCK(there.st_mode))
    return failure(std::errc::file_exists, "replace", path, "it is no socket: name another path, or remove it");

  UniqueFd socket{::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
  if (!socket.valid()) return errno_failure("create", "socket");
  ::unlink(fresh.c_str());
  const mode_t before = ::umask(0177);
  const int bound = ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof(*address));
  const int bind_error = errno;
  ::umask(before);
  if (bound != 0) return failure_from(bind_error, "bind", fresh);
  if (::listen(socket.get(), SOMAXCONN) != 0) return errno_failure("listen on", fresh);
  if (::rename(fresh.c_str(), path.c_str()) != 0) return errno_failure("rename", fresh);
  KeeperSocket result;
  result.path_ = path;
  result.lock_ = std::move(*lock);
  result.socket_ = std::move(socket);
  return result;
}

KeeperServer::KeeperServer(KeeperSocket socket, std::uint64_t most_held, kernel::KernelRoots roots,
                           std::function<void(const std::string&)> say)
    : socket_(std::move(socket)), most_held_(most_held), roots_(std::move(roots)), say_(std::move(say)) {}

Result<> KeeperServer::watch(int fd) {
  epoll_event event{.events = EPOLLIN, .data = {.fd = fd}};
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) return errno_failure("watch", "descriptor");
  return {};
}

Result<> KeeperServer::run() {
  epoll_ = UniqueFd{::epoll_create1(EPOLL_CLOEXEC)};
  if (!epoll_.valid()) return errno_failure("create", "epoll");
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  const UniqueFd signal_fd{::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK)};
  if (!signal_fd.valid()) return errno_failure("create", "signalfd");
  if (auto watched = watch(signal_fd.get()); !watched) return watched;
  if (auto watched = watch(socket_.fd()); !watched) return watched;

  while (!done_) {
    // Few at a time and level-triggered: a client that floods gets one packet served per round, like everybody.
    std::array<epoll_event, 16> events{};
    const int ready = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), -1);
    if (ready < 0 && errno != EINTR) return errno_failure("wait for", "clients");
    for (int i = 0; i < ready && !done_; ++i) {
      const int fd = events[static_cast<std::size_t>(i)].data.fd;
      if (fd == signal_fd.get()) {
        signalfd_siginfo info{};
        if (::read(signal_fd.get(), &info, sizeof(info)) == sizeof(info)) done_ = obeys_signal();
      } else if (fd == socket_.fd()) {
        accept_client();
      } else if (const auto client = clients_.find(fd); client != clients_.end() && !serve(client->second)) {
        forget(fd);
      }
    }
  }
  return {};
}

bool KeeperServer::obeys_signal() {
  const std::size_t faults = held_userfaultfds();
  if (faults == 0 || asked_to_stop_) return true;
  asked_to_stop_ = true;
  say_("not stopping: " + std::to_string(faults) +
       " userfaultfds are held here. If their agent is gone, closing them makes far pages read as zeros. Release the "
       "VMs first; "
       "a second signal stops all the same");
  return false;
}

std::size_t KeeperServer::held_userfaultfds() const {
  return static_cast<std::size_t>(
      std::ranges::count_if(held_, [this](const auto& entry) { return is_userfaultfd(roots_, entry.second.get()); }));
}

void KeeperServer::accept_client() {
  UniqueFd socket{::accept4(socket_.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)};
  if (!socket.valid()) return;
  ucred peer{};
  socklen_t length = sizeof(peer);
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0 ||
      (peer.uid != ::geteuid() && peer.uid != 0)) {
    say_("refused a connection of uid " + std::to_string(peer.uid));
    return;
  }
  if (clients_.size() >= kMaxClients) {
    // Everybody here is ourselves or root: a crowd is a fault, and whoever has been silent longest is the least loss.
    const auto idlest =
        std::ranges::min_element(clients_, {}, [](const auto& entry) { return entry.second.last_active; });
    forget(idlest->first);
  }
  const int fd = socket.get();
  if (watch(fd)) clients_[fd] = Client{std::move(socket), ++clock_};
}

void KeeperServer::forget(int fd) {
  clients_.erase(fd);
}

bool KeeperServer::serve(Client& client) {
  auto packet = receive_keeper_packet(client.socket.get(), MSG_DONTWAIT);
  if (!packet) return packet.error().code.value() == EAGAIN;
  if (packet->bytes.empty()) return false;
  client.last_active = ++clock_;
  const auto request = parse_keeper_request(packet->bytes);
  KeeperReply answer;
  int descriptor = -1;
  if (!request) {
    answer = {.error = request.error().code.value(), .held = held_.size(), .name = request.error().remedy};
  } else if (packet->cut) {
    answer = reply(*request, EMSGSIZE, "the packet is too long, has too many descriptors, or no more can be open here");
  } else {
    answer = handle(*request, std::move(packet->descriptors), descriptor);
  }
  // A client that does not read its replies is not waited for.
  return send_keeper_packet(client.socket.get(), encode(answer), descriptor, MSG_DONTWAIT).has_value() &&
         request.has_value();
}

KeeperReply KeeperServer::reply(const KeeperRequest& request, int error, std::string text) const {
  return {.id = request.id, .error = error, .held = held_.size(), .name = std::move(text)};
}

KeeperReply KeeperServer::store(const KeeperRequest& request, std::vector<UniqueFd> descriptors) {
  if (!valid_held_name(request.name)) return reply(request, EINVAL, "a name has 1 to 255 printable ASCII characters");
  if (descriptors.size() != 1) return reply(request, EINVAL, "exactly one descriptor must come with the name");
  const auto existing = held_.find(request.name);
  if (existing == held_.end() && held_.size() >= most_held_)
    return reply(request, EMFILE, "as many descriptors are held as can be");
  if (existing != held_.end()) {
    existing->second = std::move(descriptors.front());
  } else {
    held_.emplace(request.name, std::move(descriptors.front()));
  }
  return reply(request, 0);
}

KeeperReply KeeperServer::handle(const KeeperRequest& request, std::vector<UniqueFd> descriptors, int& answer) {
  answer = -1;
  if (request.command == KeeperCommand::kStore) return store(request, std::move(descriptors));
  if (!descriptors.empty()) return reply(request, EINVAL, "no descriptor belongs to this command");
  const auto named = held_.find(request.name);
  switch (request.command) {
    case KeeperCommand::kHello:
    case KeeperCommand::kStore:
      return reply(request, 0);
    case KeeperCommand::kRemove:
      if (named == held_.end()) return reply(request, ENOENT);
      held_.erase(named);
      return reply(request, 0);
    case KeeperCommand::kFetch:
      if (named == held_.end()) return reply(request, ENOENT);
      answer = named->second.get();
      return reply(request, 0);
    case KeeperCommand::kNext: {
      const auto next = held_.upper_bound(request.name);
      if (next == held_.end()) return reply(request, ENOENT);
      if ((request.flags & kWithDescriptor) != 0) answer = next->second.get();
      return reply(request, 0, next->first);
    }
    case KeeperCommand::kExit:
      if (!held_.empty() && (request.flags & kForce) == 0) return reply(request, EBUSY, "descriptors are held");
      done_ = true;
      return reply(request, 0);
  }
  return reply(request, EOPNOTSUPP);
}

}  // namespace tidepool::pool
