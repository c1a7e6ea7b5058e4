#include "daemon/vm/adopt_helper_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "daemon/vm/adopt_helper.h"
#include "kmod-interfaces/fd_passing.h"
#include "kmod-interfaces/own_process.h"
#include "kmod-interfaces/pidfd.h"

namespace tidepool::daemon {
namespace {

constexpr Nanoseconds kFarewell = std::chrono::seconds(2);

// posix_spawn's tables, destroyed in any case.
struct SpawnTables {
  posix_spawn_file_actions_t actions{};
  posix_spawnattr_t attributes{};
  SpawnTables() {
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawnattr_init(&attributes);
  }
  SpawnTables(const SpawnTables&) = delete;
  SpawnTables& operator=(const SpawnTables&) = delete;
  ~SpawnTables() {
    ::posix_spawn_file_actions_destroy(&actions);
    ::posix_spawnattr_destroy(&attributes);
  }
};

Result<pid_t> spawn(const std::string& program, int socket) {
  SpawnTables tables;
  // Onto itself, dup2 would leave close-on-exec set; posix_spawn clears it (POSIX.1-2024, glibc 2.29).
  int error = ::posix_spawn_file_actions_adddup2(&tables.actions, socket, kHelperSocket);
  if (error == 0) error = ::posix_spawn_file_actions_addopen(&tables.actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  if (error == 0) error = ::posix_spawn_file_actions_addopen(&tables.actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  // A process group of its own: a Ctrl-C at the terminal is not meant for it. Signals of the agent are not its own.
  sigset_t none;
  ::sigemptyset(&none);
  sigset_t all;
  ::sigfillset(&all);
  if (error == 0) error = ::posix_spawnattr_setpgroup(&tables.attributes, 0);
  if (error == 0) error = ::posix_spawnattr_setsigmask(&tables.attributes, &none);
  if (error == 0) error = ::posix_spawnattr_setsigdefault(&tables.attributes, &all);
  if (error == 0) {
    error = ::posix_spawnattr_setflags(&tables.attributes,
                                       POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  }
  pid_t pid = 0;
  std::string name = "tidepool-adopt";
  const std::array<char*, 2> arguments{name.data(), nullptr};
  const std::array<char*, 1> environment{nullptr};
  if (error == 0) {
    error =
        ::posix_spawn(&pid, program.c_str(), &tables.actions, &tables.attributes, arguments.data(), environment.data());
  }
  if (error != 0)
    return failure_from(error, "start", program,
                        error == ENOENT ? "install it beside tidepoold, or set adopt.helper" : "");
  return pid;
}

void reap(pid_t pid) {
  while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
}

}  // namespace

HelperLimits helper_limits(Nanoseconds limit) {
  // A call may take its limit twice, and several may be slow: most of the time is left to them.
  return {.stop = std::max<Nanoseconds>(limit / 8, std::chrono::milliseconds(10)),
          .call = std::max<Nanoseconds>(limit / 16, std::chrono::milliseconds(10))};
}

Result<HelperProcess> HelperProcess::start(const std::string& program, Nanoseconds limit) {
  const MonoTime deadline = SystemClock().now() + limit;
  auto path = program.empty() ? kernel::program_beside_own({}, "tidepool-adopt") : Result<std::string>(program);
  if (!path) return tl::unexpected(path.error());
  auto sockets = kernel::message_socket_pair();
  if (!sockets) return tl::unexpected(sockets.error());
  const auto pid = spawn(*path, sockets->second.get());
  if (!pid) return tl::unexpected(pid.error());
  // Our child, not reaped yet: the pid cannot be anybody else's.
  auto pidfd = kernel::open_pidfd(*pid);
  if (!pidfd) {
    ::kill(*pid, SIGKILL);
    reap(*pid);
    return tl::unexpected(pidfd.error());
  }
  return HelperProcess{*pid, std::move(*pidfd), std::move(sockets->first), deadline};
}

HelperProcess::HelperProcess(HelperProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, 0)),
      pidfd_(std::move(other.pidfd_)),
      socket_(std::move(other.socket_)),
      deadline_(other.deadline_) {}

HelperProcess::~HelperProcess() {
  if (pid_ == 0) return;
  socket_.reset();
  if (!kernel::await_end(pidfd_.get(), std::max(left(), kFarewell))) ::kill(pid_, SIGKILL);
  reap(pid_);
}

Nanoseconds HelperProcess::left() const {
  return std::max(deadline_ - SystemClock().now(), Nanoseconds(0));
}

Result<> HelperProcess::send(const HelperOrder& order, std::span<const int> descriptors) const {
  return kernel::send_message(socket_.get(), encode_order(order), descriptors, MSG_DONTWAIT);
}

Result<UniqueFd> HelperProcess::take(int number) const {
  auto fd = kernel::take_descriptor(pidfd_.get(), number);
  if (!fd) {
    fd.error().subject += " of tidepool-adopt";
    fd.error().remedy = "the agent needs every capability that its helper has, or CAP_SYS_PTRACE";
  }
  return fd;
}

Result<HelperProcess::Answer> HelperProcess::receive() const {
  for (;;) {
    const auto wait = std::chrono::ceil<std::chrono::milliseconds>(left()).count();
    pollfd waiting{.fd = socket_.get(), .events = POLLIN, .revents = 0};
    const int ready = ::poll(&waiting, 1, static_cast<int>(std::min<std::int64_t>(wait, 60'000)));
    if (ready > 0) break;
    if (ready < 0 && errno != EINTR) return errno_failure("wait for", "tidepool-adopt");
    if (left() == Nanoseconds(0)) return failure(std::errc::timed_out, "wait for", "tidepool-adopt");
  }
  std::array<std::byte, kMaxHelperMessage> buffer{};
  auto received = kernel::receive_message(socket_.get(), buffer, MSG_DONTWAIT);
  const bool gone = received ? received->length == 0 : received.error().code == std::errc::connection_reset;
  if (gone)
    return failure(std::errc::no_child_process, "wait for", "tidepool-adopt: it ended without an answer",
                   "was it killed? What it had to say stands beside the agent's own log");
  if (!received) return tl::unexpected(received.error());
  if (received->truncated) return failure(std::errc::bad_message, "read", "report of tidepool-adopt");
  auto report = parse_report(std::span(buffer).first(received->length));
  if (!report) return tl::unexpected(report.error());
  return Answer{.report = std::move(*report), .descriptors = std::move(received->descriptors)};
}

}  // namespace tidepool::daemon
