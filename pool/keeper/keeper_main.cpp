// tidepool-keeper: a small process that holds what must not be closed while VMs' memory is far away. It has no
// configuration, reads no file, depends on libc only and outlives the agent, so it does as little as possible.
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

#include "kmod-interfaces/own_process.h"
#include "pool/keeper/keeper_server.h"

namespace {

using tidepool::Result;
using tidepool::pool::KeeperServer;
using tidepool::pool::KeeperSocket;

constexpr std::string_view kUsage =
    "usage: tidepool-keeper --socket PATH [--detach]\n"
    "Holds descriptors for tidepoold and hands them to its successor.\n"
    "  --socket PATH  where to listen (made with mode 0600)\n"
    "  --detach       return as soon as it listens, and go on in a session of its own\n"
    "SIGTERM is refused once while userfaultfds are held; a second one is obeyed.\n";

// Descriptors that are the keeper's own, and a client's while it is served.
constexpr std::uint64_t kOwnDescriptors = KeeperServer::kMaxClients + 32;

struct Options {
  std::string socket;
  bool detach = false;
};

void say(const std::string& line) {
  static_cast<void>(std::fprintf(stderr, "tidepool-keeper: %s\n", line.c_str()));
}

// 0: go on; otherwise the exit status plus one.
int parse(int argc, char** argv, Options& options) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--socket" && i + 1 < argc) {
      options.socket = argv[++i];
    } else if (argument == "--detach") {
      options.detach = true;
    } else if (argument == "--help" || argument == "-h") {
      static_cast<void>(std::fputs(kUsage.data(), stdout));
      return 1;
    } else {
      static_cast<void>(std::fputs(kUsage.data(), stderr));
      return 3;
    }
  }
  if (!options.socket.empty()) return 0;
  static_cast<void>(std::fputs(kUsage.data(), stderr));
  return 3;
}

void harden() {
  if (auto locked = tidepool::kernel::lock_memory(tidepool::kernel::LockMemory::kAll); !locked)
    say("warning: " + locked.error().message());
  if (auto spared = tidepool::kernel::set_oom_score_adjust({}, -1000); !spared)
    say("warning: " + spared.error().message());
  // Guests' memory is reachable through what is held: no core dump, no ptrace by the same user. Last, because the files
  // under /proc/self belong to root from here on.
  static_cast<void>(::prctl(PR_SET_DUMPABLE, 0));
}

// Leaves the caller's session, terminal and folder behind. The parent waits for one byte: it means that the child
// serves.
Result<bool> detach(tidepool::UniqueFd& ready) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return tidepool::errno_failure("create", "pipe");
  tidepool::UniqueFd reader{ends[0]};
  ready = tidepool::UniqueFd{ends[1]};
  const pid_t child = ::fork();
  if (child < 0) return tidepool::errno_failure("fork", "keeper");
  if (child != 0) {
    ready.reset();
    char byte = 0;
    return ::read(reader.get(), &byte, 1) == 1;
  }
  if (::setsid() < 0 || ::chdir("/") != 0) return tidepool::errno_failure("detach", "keeper");
  // Not a session's leader, so it can never acquire a terminal.
  const pid_t grandchild = ::fork();
  if (grandchild != 0) ::_exit(grandchild < 0 ? 1 : 0);
  return true;
}

void close_standard_streams() {
  const tidepool::UniqueFd null{::open("/dev/null", O_RDWR | O_CLOEXEC)};
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) static_cast<void>(::dup2(null.get(), fd));
}

Result<> serve(const Options& options) {
  const pid_t started = ::getpid();
  tidepool::UniqueFd ready;
  if (options.detach) {
    const auto is_serving = detach(ready);
    if (!is_serving) return tidepool::Failure{is_serving.error()};
    // The one that was started: the other one has said by now why it does not serve.
    if (::getpid() == started) ::_exit(*is_serving ? 0 : 1);
  }
  auto socket = KeeperSocket::listen(options.socket);
  if (!socket) return tidepool::Failure{socket.error()};
  harden();
  const auto descriptors = tidepool::kernel::raise_descriptor_limit();
  if (!descriptors) return tidepool::Failure{descriptors.error()};
  const std::uint64_t most_held = *descriptors > 2 * kOwnDescriptors ? *descriptors - kOwnDescriptors : kOwnDescriptors;
  KeeperServer server(std::move(*socket), most_held, {}, say);
  if (ready.valid()) {
    close_standard_streams();
    if (::write(ready.get(), "r", 1) != 1) return tidepool::errno_failure("report to", "parent");
    ready.reset();
  }
  return server.run();
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (const int verdict = parse(argc, argv, options); verdict != 0) return verdict - 1;
  // What the starter forgot to close must not live on here: a stray userfaultfd or memfd would keep memory for good.
  static_cast<void>(::close_range(3, ~0u, 0));
  ::umask(0077);
  sigset_t blocked;
  sigemptyset(&blocked);
  for (const int number : {SIGTERM, SIGINT, SIGHUP, SIGPIPE}) sigaddset(&blocked, number);
  static_cast<void>(::sigprocmask(SIG_BLOCK, &blocked, nullptr));
  if (auto served = serve(options); !served) {
    say(served.error().message());
    return 1;
  }
  return 0;
}
