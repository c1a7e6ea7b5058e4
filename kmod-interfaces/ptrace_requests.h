// ptrace(2) requests on one seized thread, with errors as values, and the wait for its next stop with a deadline.
// Detail of ptrace_injector.h. Called by the thread that seized it only. x86-64.
#pragma once

#include <signal.h>
#include <sys/types.h>
#include <sys/user.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/result.h"
#include "base/units.h"

namespace tidepool::kernel {

enum class StopKind : std::uint8_t {
  ended,        // not a stop: the thread is gone
  interrupt,    // asked for by PTRACE_INTERRUPT, or a trap of the kernel's own
  group_stop,   // the whole process is stopped (SIGSTOP and its like)
  signal,       // about to deliver `signal`
  new_thread,   // it has just made one, PTRACE_O_TRACECLONE
  system_call,  // entering or leaving a call, after resume_to_system_call()
};

struct ThreadStop {
  StopKind kind = StopKind::ended;
  int signal = 0;
};

struct RestartableSequence {
  AddressRange critical_section;
  std::uint64_t abort_address = 0;
};

class TracedThread {
 public:
  TracedThread(pid_t pid, pid_t tid) : pid_(pid), tid_(tid) {}

  // `options` as PTRACE_O_*.
  Result<> seize(std::uint64_t options) const;
  Result<> set_options(std::uint64_t options) const;  // of a stopped thread
  Result<> interrupt() const;
  // ETIMEDOUT when `limit` passes first. A caller that has SIGCHLD blocked is woken at once, and one that is pending
  // for it is consumed; any other looks every 2 ms.
  Result<ThreadStop> await_stop(Nanoseconds limit) const;

  // Each lets the thread go on; `signal`: of the stop that it is in, to be delivered (or queued, if it is blocked).
  Result<> resume(int signal) const;
  Result<> step(int signal) const;
  Result<> resume_to_system_call(int signal) const;
  Result<> detach(int signal) const;

  // ENOTSUP: the thread runs 32-bit code.
  Result<user_regs_struct> registers() const;
  Result<> set_registers(const user_regs_struct& registers) const;
  Result<std::uint64_t> signal_mask() const;
  Result<> set_signal_mask(std::uint64_t mask) const;
  // In a stop of kind new_thread: which, in our own pid namespace.
  Result<pid_t> new_thread() const;
  Result<siginfo_t> signal_info() const;
  Result<> set_signal_info(const siginfo_t& info) const;
  // The sequence that the thread is registered to be in, if any (empty range: none). Linux 5.13.
  RestartableSequence restartable_sequence() const;

  pid_t pid() const { return pid_; }
  pid_t tid() const { return tid_; }

 private:
  std::string subject() const;
  Result<> request(int operation, std::uint64_t address, std::uint64_t data, const char* what) const;

  pid_t pid_;
  pid_t tid_;
};

constexpr std::uint64_t signal_bit(int signal) {
  return std::uint64_t{1} << (signal - 1);
}

// SigPnd etc. of /proc/PID/task/TID/status: what may be waiting for a thread, and what its process does about it.
struct SignalState {
  std::uint64_t pending = 0;  // for the thread or its process
  std::uint64_t ignored = 0;
  std::uint64_t caught = 0;
};
SignalState parse_signal_state(std::string_view status);
// Of `signals`, those that do something to a process: neither ignored nor without effect by default (SIGCHLD, ...).
std::uint64_t noticeable(std::uint64_t signals, const SignalState& state);

}  // namespace tidepool::kernel
