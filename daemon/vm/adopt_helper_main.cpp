// tidepool-adopt: takes hold of one running process for the agent that started it, and ends. Privileged and
// short-lived, so that the agent can be neither. Started by the agent only, with its socket as descriptor 3.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>
#include <exception>

#include "base/unique_fd.h"
#include "daemon/vm/adopt_helper.h"

namespace {

// While a thread is held, nothing may end or delay this program that can be helped: its end would let the thread go
// with our registers. All of it as far as permitted.
void harden() {
  sigset_t all;
  ::sigfillset(&all);
  for (const int forced : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT}) ::sigdelset(&all, forced);
  ::sigprocmask(SIG_BLOCK, &all, nullptr);
  // Ptrace stops must be waited for, so SIGCHLD may not be ignored, as the agent might have left it.
  ::signal(SIGCHLD, SIG_DFL);
  static_cast<void>(::setpriority(PRIO_PROCESS, 0, -10));
  static_cast<void>(::mlockall(MCL_CURRENT | MCL_FUTURE));
  const tidepool::UniqueFd score{::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC)};
  if (score.valid() && ::write(score.get(), "-1000", 5) != 5) return;
}

bool is_socket(int fd) {
  struct stat about {};
  return ::fstat(fd, &about) == 0 && S_ISSOCK(about.st_mode);
}

}  // namespace

int main(int argc, char**) {
  if (argc != 1 || !is_socket(tidepool::daemon::kHelperSocket)) {
    std::fputs("tidepool-adopt is started by tidepoold, which gives it a socket. It has no options.\n", stderr);
    return 2;
  }
  ::syscall(SYS_close_range, tidepool::daemon::kHelperSocket + 1, ~0U, 0);
  ::fcntl(tidepool::daemon::kHelperSocket, F_SETFD, FD_CLOEXEC);
  harden();
  try {
    return tidepool::daemon::serve_one_order(tidepool::daemon::kHelperSocket);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "tidepool-adopt: %s\n", error.what());
    return 1;
  }
}
