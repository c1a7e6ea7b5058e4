#include "bench/pool/echo_process.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <stdexcept>

#include "bench/pool/connected_pair.h"

namespace tidepool::bench {
namespace {

void move_all(int socket, std::byte* bytes, bool out, int flags) {
  for (std::size_t done = 0; done < EchoProcess::kBytes;) {
    const ssize_t moved = out ? ::send(socket, bytes + done, EchoProcess::kBytes - done, flags | MSG_NOSIGNAL)
                              : ::recv(socket, bytes + done, EchoProcess::kBytes - done, flags);
    if (moved > 0) {
      done += static_cast<std::size_t>(moved);
    } else if (moved == 0 || (errno != EAGAIN && errno != EINTR)) {
      throw std::runtime_error("the echo ended");
    }
  }
}

}  // namespace

EchoProcess::EchoProcess(bool tcp) {
  auto [near, far] = connected_pair(tcp);
  pid_ = ::fork();
  if (pid_ < 0) throw std::runtime_error("cannot fork");
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    near.reset();
    try {
      for (;;) {
        move_all(far.get(), page_.data(), false, 0);
        move_all(far.get(), page_.data(), true, 0);
      }
    } catch (const std::exception&) {
      ::_exit(0);
    }
  }
  socket_ = std::move(near);
}

EchoProcess::~EchoProcess() {
  socket_.reset();
  ::waitpid(pid_, nullptr, 0);
}

void EchoProcess::round_trip(bool spinning) {
  move_all(socket_.get(), page_.data(), true, 0);
  move_all(socket_.get(), page_.data(), false, spinning ? MSG_DONTWAIT : 0);
}

}  // namespace tidepool::bench
