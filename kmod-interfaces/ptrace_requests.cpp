#include "kmod-interfaces/ptrace_requests.h"

#include <elf.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <optional>
#include <span>

#include "kmod-interfaces/proc_text.h"
#include "kmod-interfaces/process_memory.h"

namespace tidepool::kernel {
namespace {

constexpr std::uint16_t kUserCode64 = 0x33;  // __USER_CS; 32-bit code runs with 0x23
constexpr Nanoseconds kSpin = std::chrono::microseconds(20);
constexpr Nanoseconds kNap = std::chrono::milliseconds(2);

ThreadStop describe(int status) {
  if (WIFEXITED(status) || WIFSIGNALED(status)) return {.kind = StopKind::ended, .signal = 0};
  const int signal = WSTOPSIG(status);
  if (status >> 16 == PTRACE_EVENT_STOP)
    return {.kind = signal == SIGTRAP ? StopKind::interrupt : StopKind::group_stop, .signal = signal};
  if (signal == (SIGTRAP | 0x80)) return {.kind = StopKind::system_call, .signal = 0};
  if (status >> 16 == PTRACE_EVENT_CLONE) return {.kind = StopKind::new_thread, .signal = 0};
  if (status >> 16 != 0) return {.kind = StopKind::interrupt, .signal = 0};
  return {.kind = StopKind::signal, .signal = signal};
}

// Ends early with the SIGCHLD that announces a stop, when the caller has that blocked. Sleeping, not yielding: on a
// busy host the thread that we wait for may need this very processor.
void nap() {
  sigset_t stops;
  ::sigemptyset(&stops);
  ::sigaddset(&stops, SIGCHLD);
  const timespec time{.tv_sec = 0, .tv_nsec = kNap.count()};
  ::sigtimedwait(&stops, nullptr, &time);
}

// Layout of struct rseq and struct rseq_cs: include/uapi/linux/rseq.h.
struct RseqCriticalSection {
  std::uint32_t version;
  std::uint32_t flags;
  std::uint64_t start;
  std::uint64_t length;
  std::uint64_t abort;
};
constexpr std::uint64_t kOffsetOfCriticalSection = 8;

}  // namespace

std::string TracedThread::subject() const {
  return tid_ == pid_ ? "process " + std::to_string(pid_)
                      : "thread " + std::to_string(tid_) + " of process " + std::to_string(pid_);
}

Result<> TracedThread::request(int operation, std::uint64_t address, std::uint64_t data, const char* what) const {
  // glibc declares the operation as an enumeration and the rest as variadic.
  if (::ptrace(static_cast<__ptrace_request>(operation), tid_, address, data) < 0)
    return errno_failure(what, subject());
  return {};
}

Result<> TracedThread::seize(std::uint64_t options) const {
  return request(PTRACE_SEIZE, 0, options, "trace");
}
Result<> TracedThread::set_options(std::uint64_t options) const {
  return request(PTRACE_SETOPTIONS, 0, options, "trace");
}
Result<> TracedThread::interrupt() const {
  return request(PTRACE_INTERRUPT, 0, 0, "interrupt");
}

Result<ThreadStop> TracedThread::await_stop(Nanoseconds limit) const {
  const SystemClock clock;
  const MonoTime begin = clock.now();
  for (;;) {
    int status = 0;
    const pid_t waited = ::waitpid(tid_, &status, __WALL | WNOHANG);
    if (waited == tid_) return describe(status);
    // ECHILD: it was reaped by an exec of another thread, which takes over the pid.
    if (waited < 0 && errno == ECHILD) return ThreadStop{};
    if (waited < 0 && errno != EINTR) return errno_failure("wait for", subject());
    const Nanoseconds waited_for = clock.now() - begin;
    if (waited_for > limit) return failure(std::errc::timed_out, "wait for the stop of", subject());
    if (waited_for > kSpin) nap();
  }
}

Result<> TracedThread::resume(int signal) const {
  return request(PTRACE_CONT, 0, signal, "resume");
}
Result<> TracedThread::step(int signal) const {
  return request(PTRACE_SINGLESTEP, 0, signal, "step");
}
Result<> TracedThread::resume_to_system_call(int signal) const {
  return request(PTRACE_SYSCALL, 0, signal, "resume");
}
Result<> TracedThread::detach(int signal) const {
  return request(PTRACE_DETACH, 0, signal, "let go of");
}

Result<user_regs_struct> TracedThread::registers() const {
  user_regs_struct registers{};
  iovec vector{.iov_base = &registers, .iov_len = sizeof registers};
  if (::ptrace(PTRACE_GETREGSET, tid_, NT_PRSTATUS, &vector) < 0) return errno_failure("read registers of", subject());
  if (vector.iov_len != sizeof registers || registers.cs != kUserCode64)
    return failure(std::errc::not_supported, "adopt", subject() + ": it runs 32-bit code");
  return registers;
}

Result<> TracedThread::set_registers(const user_regs_struct& registers) const {
  user_regs_struct copy = registers;
  iovec vector{.iov_base = &copy, .iov_len = sizeof copy};
  if (::ptrace(PTRACE_SETREGSET, tid_, NT_PRSTATUS, &vector) < 0) return errno_failure("set registers of", subject());
  return {};
}

Result<std::uint64_t> TracedThread::signal_mask() const {
  std::uint64_t mask = 0;
  if (auto done = request(PTRACE_GETSIGMASK, sizeof mask, std::bit_cast<std::uint64_t>(&mask), "read signal mask of");
      !done) {
    return tl::unexpected(done.error());
  }
  return mask;
}

Result<> TracedThread::set_signal_mask(std::uint64_t mask) const {
  return request(PTRACE_SETSIGMASK, sizeof mask, std::bit_cast<std::uint64_t>(&mask), "set signal mask of");
}

Result<pid_t> TracedThread::new_thread() const {
  unsigned long tid = 0;
  if (auto done = request(PTRACE_GETEVENTMSG, 0, std::bit_cast<std::uint64_t>(&tid), "read new thread of"); !done)
    return tl::unexpected(done.error());
  return static_cast<pid_t>(tid);
}

Result<siginfo_t> TracedThread::signal_info() const {
  siginfo_t info{};
  if (auto done = request(PTRACE_GETSIGINFO, 0, std::bit_cast<std::uint64_t>(&info), "read signal of"); !done)
    return tl::unexpected(done.error());
  return info;
}

Result<> TracedThread::set_signal_info(const siginfo_t& info) const {
  siginfo_t copy = info;
  return request(PTRACE_SETSIGINFO, 0, std::bit_cast<std::uint64_t>(&copy), "set signal of");
}

RestartableSequence TracedThread::restartable_sequence() const {
  __ptrace_rseq_configuration configuration{};
  if (::ptrace(PTRACE_GET_RSEQ_CONFIGURATION, tid_, sizeof configuration, &configuration) < 0 ||
      configuration.rseq_abi_pointer == 0) {
    return {};
  }
  const auto read = [&](std::uint64_t address, void* to, std::size_t size) {
    return read_process_memory(pid_, address, static_cast<std::byte*>(to), size) == static_cast<std::int64_t>(size);
  };
  std::uint64_t section_address = 0;
  RseqCriticalSection section{};
  if (!read(configuration.rseq_abi_pointer + kOffsetOfCriticalSection, &section_address, sizeof section_address) ||
      section_address == 0 || !read(section_address, &section, sizeof section) ||
      section.start + section.length < section.start) {
    return {};
  }
  return {.critical_section = {section.start, section.start + section.length}, .abort_address = section.abort};
}

SignalState parse_signal_state(std::string_view status) {
  const auto mask = [&](std::string_view key) {
    const auto value = value_of(status, key);
    return value ? parse_hex(*value).value_or(0) : 0;
  };
  return {.pending = mask("SigPnd") | mask("ShdPnd"), .ignored = mask("SigIgn"), .caught = mask("SigCgt")};
}

std::uint64_t noticeable(std::uint64_t signals, const SignalState& state) {
  constexpr std::uint64_t kNoEffect =
      signal_bit(SIGCHLD) | signal_bit(SIGCONT) | signal_bit(SIGURG) | signal_bit(SIGWINCH);
  return signals & ~state.ignored & ~(kNoEffect & ~state.caught);
}

}  // namespace tidepool::kernel
