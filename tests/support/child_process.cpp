#include "tests/support/child_process.h"

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <stdexcept>

namespace tidepool {

ChildProcess::ChildProcess(const std::function<std::string()>& prepare) {
  std::array<int, 2> pipe{};
  if (::pipe2(pipe.data(), 0) != 0) throw std::runtime_error("no pipe");
  pid_ = ::fork();
  if (pid_ < 0) throw std::runtime_error("cannot fork");
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::close(pipe[0]);
    const std::string text = prepare();
    const bool said = text.empty() || ::write(pipe[1], text.data(), text.size()) > 0;
    ::close(pipe[1]);
    if (!said) ::_exit(1);
    for (;;) ::pause();
  }
  ::close(pipe[1]);
  const UniqueFd reader(pipe[0]);
  std::array<char, 512> piece{};
  for (ssize_t got = 0; (got = ::read(reader.get(), piece.data(), piece.size())) > 0;)
    outcome_.append(piece.data(), static_cast<std::size_t>(got));
}

ChildProcess::~ChildProcess() {
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

void ChildProcess::leave_as_zombie() {
  ::kill(pid_, SIGKILL);
  siginfo_t info{};
  ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT);
}

}  // namespace tidepool
