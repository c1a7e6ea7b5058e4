// Running a few system calls inside another process, in one stop of one of its threads, unnoticed by it. ptrace(2),
// x86-64.
//
// The thread is seized (never attached: no signal), interrupted, made to execute a `syscall` instruction that the
// process has anyway (its vdso) as often as needed, put back exactly and let go. What the thread had been waiting in
// goes on:
// - Most calls restart by themselves, as after any stop. Those that would return -EINTR (epoll_wait, socket calls with
// a
//   time-out, io_getevents, sigtimedwait, semop) are executed again, unless a signal that the thread will notice has
//   come meanwhile: then EINTR is what it would have seen anyway. Their time-outs start anew.
// - Signals that arrive meanwhile stay in the kernel's queue, with their siginfo, behind a mask, and are delivered
// after.
// - A process that was stopped (SIGSTOP) is stopped again when its thread is let go.
// - A thread interrupted within a restartable sequence (rseq(2)) is sent to its abort handler, as any preemption does:
//   the calls in between make the kernel forget the sequence.
// - Seccomp filters are suspended for the calls made here; that takes CAP_SYS_ADMIN, and a caller without filters.
//
// If the *caller* dies by SIGKILL while it holds the thread, the thread is let go in whatever state it is in, and the
// process may crash: hold it briefly, and do not kill who does.
//
// ptrace belongs to the thread that called stop(): everything is called by that thread. Its children's stops must not
// be waited for by anybody else meanwhile.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>

#include "base/clock.h"
#include "base/result.h"
#include "kmod-interfaces/process.h"

namespace tidepool::kernel {

struct InjectionLimits {
  // How long to wait for the thread to stop. Giving up here is harmless, but the thread remains seized (and running)
  // until the calling thread ends: ptrace cannot let go of a thread that does not stop.
  Nanoseconds stop = std::chrono::seconds(2);
  // How long one injected call may take. Beyond it the call is interrupted, and given as long again.
  Nanoseconds call = std::chrono::seconds(5);
};

class PtraceInjector {
 public:
  // Stops thread `tid` of `process`, which must outlive this. `instruction`: from find_syscall_instruction().
  // ESRCH: thread or process ended. EPERM: not permitted, or traced by somebody else. ENOTSUP: 32-bit code. ETIMEDOUT.
  static Result<PtraceInjector> stop(const Process& process, pid_t tid, std::uint64_t instruction,
                                     const InjectionLimits& limits = {});

  PtraceInjector(PtraceInjector&& other) noexcept;
  PtraceInjector& operator=(PtraceInjector&&) = delete;
  // Puts everything back and lets go, unless release() did.
  ~PtraceInjector();

  // What the call returned in the target: a value, or -errno. An error here means that it was not made, or that nobody
  // knows: ESRCH the thread ended; ETIMEDOUT it hangs; EFAULT, ENOTSUP the instruction faulted or is redirected
  // (syscall user dispatch).
  Result<std::int64_t> call(long number, std::initializer_list<std::uint64_t> arguments);

  // A new thread of the process, held from its first moment, which runs nothing but the calls made through it and ends
  // with its release(). With it the process's own thread can be let go at once. Besides, what the kernel remembers of a
  // task stays with a thread that is gone: whoever sets up an io_uring gets a signal-like interruption (EINTR) when the
  // ring is destroyed later (io_ring_exit_work(), Linux 5.12 and later). The process must outlive it, this need not.
  // EAGAIN: a limit on threads forbids it (RLIMIT_NPROC, pids control group).
  Result<PtraceInjector> make_thread();

  // Address of a zeroed page in the target, mapped on first use and unmapped at the end. A page of its own, because the
  // room below a stack pointer belongs to somebody else where stacks are small (goroutines, fibres). EIO: not mapped.
  Result<std::uint64_t> scratch();
  // Copies to and from the target. EFAULT: not all of it is accessible.
  Result<> write(std::uint64_t address, std::span<const std::byte> data) const;
  Result<> read(std::uint64_t address, std::span<std::byte> out) const;

  // Puts everything back and lets go (a thread of ours: ends it); how long it was held. ESRCH: it ended meanwhile.
  Result<Nanoseconds> release();

  pid_t thread() const;

 private:
  class Hold;
  explicit PtraceInjector(std::unique_ptr<Hold> hold);

  std::unique_ptr<Hold> hold_;
};

}  // namespace tidepool::kernel
