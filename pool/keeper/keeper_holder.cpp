#include "pool/keeper/keeper_holder.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

namespace tidepool::pool {
namespace {

// Names are at most this many: a bound for fetch_all against a keeper that never ends.
constexpr std::size_t kMostNames = 4u << 20;

void set_patience(int socket, std::chrono::milliseconds patience) {
  const timeval wait{.tv_sec = patience.count() / 1000, .tv_usec = patience.count() % 1000 * 1000};
  ::setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
  ::setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
}

// What the program wrote to its standard error until it closed it, at most a line or two.
std::string read_text(int fd, std::chrono::milliseconds patience) {
  std::string text;
  pollfd wait{.fd = fd, .events = POLLIN, .revents = 0};
  while (text.size() < 1000 && ::poll(&wait, 1, static_cast<int>(patience.count())) > 0) {
    std::array<char, 256> part{};
    const ssize_t got = ::read(fd, part.data(), part.size());
    if (got <= 0) break;
    text.append(part.data(), static_cast<std::size_t>(got));
  }
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

Result<> start(const KeeperOptions& options) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return errno_failure("create", "pipe");
  const UniqueFd reader{ends[0]};
  UniqueFd writer{ends[1]};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, writer.get(), STDERR_FILENO);
  // The agent blocks signals for its signal thread; the keeper must not inherit that.
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  std::array<std::string, 4> words{options.program, "--socket", options.socket, "--detach"};
  std::array<char*, 5> argv{words[0].data(), words[1].data(), words[2].data(), words[3].data(), nullptr};
  pid_t pid = 0;
  const int error = ::posix_spawn(&pid, options.program.c_str(), &actions, &attributes, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (error != 0) return failure_from(error, "start", options.program);
  writer.reset();
  const std::string said = read_text(reader.get(), options.patience);
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
  return failure(std::errc::no_child_process, "start", options.program, said.empty() ? "it ended at once" : said);
}

}  // namespace

Result<std::unique_ptr<KeeperHolder>> KeeperHolder::connect(const KeeperOptions& options) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (options.socket.empty() || options.socket.size() >= sizeof(address.sun_path))
    return failure(std::errc::filename_too_long, "connect to", options.socket,
                   "a socket's path has at most 107 characters");
  std::memcpy(address.sun_path, options.socket.data(), options.socket.size());
  UniqueFd socket{::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)};
  if (!socket.valid()) return errno_failure("create", "socket");
  set_patience(socket.get(), options.patience);
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0)
    return errno_failure("connect to", options.socket, "is tidepool-keeper running?");
  std::unique_ptr<KeeperHolder> holder(new KeeperHolder(std::move(socket), options.socket));
  // Finds out now whether it is a keeper, and whether it takes us.
  auto hello = holder->ask({.command = KeeperCommand::kHello});
  if (!hello) return Failure{hello.error()};
  return holder;
}

Result<std::unique_ptr<KeeperHolder>> KeeperHolder::start_or_connect(const KeeperOptions& options) {
  auto holder = connect(options);
  if (holder) return holder;
  const int error = holder.error().code.value();
  if (error != ENOENT && error != ECONNREFUSED) return holder;
  const auto started = start(options);
  // Another process may have been faster: then ours has refused to start, and the socket is there all the same.
  holder = connect(options);
  if (!holder && !started) return Failure{started.error()};
  return holder;
}

Failure KeeperHolder::lost(const std::string& why) const {
  return failure(std::errc::connection_reset, "ask the keeper at", path_,
                 why + ", and what it held is gone: start it again (systemctl start tidepool-keeper)");
}

Result<KeeperHolder::Answer> KeeperHolder::ask(KeeperRequest request, int descriptor) {
  if (!socket_.valid()) return lost("it ended earlier");
  request.id = next_id_++;
  if (auto sent = send_keeper_packet(socket_.get(), encode(request), descriptor, 0); !sent) {
    // The packet did not go out: a descriptor that cannot be sent is no reason to give the connection up.
    if (sent.error().code.value() != EINVAL && sent.error().code.value() != EBADF) socket_.reset();
    if (sent.error().code == std::errc::broken_pipe) return lost("it has ended");
    return Failure{sent.error()};
  }
  auto packet = receive_keeper_packet(socket_.get(), 0);
  if (!packet || packet->bytes.empty()) {
    socket_.reset();  // a late reply must not be taken for the next one's
    if (!packet) return Failure{packet.error()};
    return lost("it has ended, or it serves another user");
  }
  auto reply = parse_keeper_reply(packet->bytes);
  if (!reply) return Failure{reply.error()};
  if (reply->id != request.id) {
    socket_.reset();
    return failure(std::errc::bad_message, "ask", path_, "it answered something else");
  }
  if (reply->error != 0) return failure_from(reply->error, "ask", path_ + " about '" + request.name + "'", reply->name);
  return Answer{std::move(*reply), std::move(packet->descriptors)};
}

Result<> KeeperHolder::store(const std::string& name, int fd) {
  if (!valid_held_name(name))
    return failure(std::errc::invalid_argument, "hold", name, "a name has 1 to 255 printable ASCII characters");
  auto answer = ask({.command = KeeperCommand::kStore, .name = name}, fd);
  if (!answer) return Failure{answer.error()};
  return {};
}

Result<> KeeperHolder::remove(const std::string& name) {
  auto answer = ask({.command = KeeperCommand::kRemove, .name = name});
  if (!answer) return Failure{answer.error()};
  return {};
}

Result<HeldFd> KeeperHolder::fetch(const std::string& name) {
  auto answer = ask({.command = KeeperCommand::kFetch, .name = name});
  if (!answer) return Failure{answer.error()};
  if (answer->descriptors.size() != 1) return failure(std::errc::bad_message, "fetch", name, "no descriptor came");
  return HeldFd{name, std::move(answer->descriptors.front())};
}

Result<std::vector<HeldFd>> KeeperHolder::fetch_all() {
  std::vector<HeldFd> all;
  std::string last;
  while (all.size() < kMostNames) {
    auto answer = ask({.command = KeeperCommand::kNext, .flags = kWithDescriptor, .name = last});
    if (!answer && answer.error().code.value() == ENOENT) return all;
    if (!answer) return Failure{answer.error()};
    if (answer->descriptors.size() != 1)
      return failure(std::errc::too_many_files_open, "fetch", answer->reply.name, "no descriptor came");
    last = answer->reply.name;
    all.push_back({last, std::move(answer->descriptors.front())});
  }
  return failure(std::errc::bad_message, "fetch from", path_, "there is no end to it");
}

Result<std::vector<std::string>> KeeperHolder::list() {
  std::vector<std::string> names;
  while (names.size() < kMostNames) {
    auto answer = ask({.command = KeeperCommand::kNext, .name = names.empty() ? std::string() : names.back()});
    if (!answer && answer.error().code.value() == ENOENT) return names;
    if (!answer) return Failure{answer.error()};
    names.push_back(answer->reply.name);
  }
  return failure(std::errc::bad_message, "list", path_, "there is no end to it");
}

Result<> KeeperHolder::tell_to_exit(bool force) {
  auto answer = ask({.command = KeeperCommand::kExit, .flags = force ? kForce : std::uint16_t{0}});
  if (!answer) return Failure{answer.error()};
  return {};
}

}  // namespace tidepool::pool
