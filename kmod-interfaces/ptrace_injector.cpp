#include "kmod-interfaces/ptrace_injector.h"

#include <sched.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>
#include <string>
#include <utility>

#include "kmod-interfaces/proc_text.h"
#include "kmod-interfaces/process_memory.h"
#include "kmod-interfaces/ptrace_requests.h"

#ifndef PTRACE_O_SUSPEND_SECCOMP  // 4.3
#define PTRACE_O_SUSPEND_SECCOMP (1 << 21)
#endif

namespace tidepool::kernel {
namespace {

constexpr int kInstructionLength = 2;
// Stops on the way to one stop that is wanted: each is a signal or a stop of the process, which cannot come endlessly.
constexpr int kMaxStops = 64;
constexpr std::uint64_t kTrapFlag = 0x100;
constexpr std::uint64_t kDirectionFlag = 0x400;
// The kernel's own codes for "restart this call", which user code never sees.
constexpr std::int64_t kFirstRestartCode = 512;
constexpr std::int64_t kLastRestartCode = 516;
constexpr std::uint64_t kUserAddressEnd = 1ull << 47;

// Forced upon a thread by what it executes. They must not be blocked while it executes for us: forcing a blocked signal
// resets its action to the default, which would take the process's own handler away.
constexpr std::uint64_t kSynchronous = signal_bit(SIGSEGV) | signal_bit(SIGBUS) | signal_bit(SIGILL) |
                                       signal_bit(SIGTRAP) | signal_bit(SIGFPE) | signal_bit(SIGSYS);

// Calls whose effect is complete although they say EINTR: never to be made again.
bool must_not_repeat(std::uint64_t number) {
  constexpr std::array kDone{SYS_close, SYS_dup2, SYS_dup3, SYS_close_range};
  return std::ranges::find(kDone, static_cast<long>(number)) != kDone.end();
}

template <class Outcome>
Failure pass_on(const Outcome& outcome) {
  return Failure{outcome.error()};
}

}  // namespace

class PtraceInjector::Hold {
 public:
  Hold(const Process& process, pid_t tid, std::uint64_t instruction, const InjectionLimits& limits)
      : thread_(process.id().pid, tid), instruction_(instruction), limits_(limits), process_(process) {}
  // A thread that `maker` has just made.
  Hold(const Hold& maker, pid_t tid)
      : thread_(maker.thread_.pid(), tid),
        instruction_(maker.instruction_),
        limits_(maker.limits_),
        process_(maker.process_),
        ours_(true),
        by_system_call_stops_(maker.by_system_call_stops_),
        held_mask_(maker.held_mask_),
        registers_(maker.registers_) {}
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;
  ~Hold() {
    if (state_ == State::stopped) static_cast<void>(release());
  }

  Result<> stop();
  Result<std::int64_t> call(long number, std::initializer_list<std::uint64_t> arguments);
  Result<std::unique_ptr<Hold>> make_thread();
  Result<std::uint64_t> scratch();
  Result<Nanoseconds> release();
  const TracedThread& thread() const { return thread_; }

 private:
  enum class State : std::uint8_t { free, stopped, ended, lost };

  SignalState signal_state() const;
  Result<> seize(const SignalState& signals);
  Result<ThreadStop> next_stop(Nanoseconds limit);
  Result<> reach_first_stop();
  Result<> run_instruction();
  // What to do about a signal of the process's own: the signal to pass on when the thread is resumed, or 0.
  Result<int> keep_for_later(int signal);
  // The same while an instruction of ours runs: an error when that caused the signal.
  Result<int> hold_back(int signal);
  Result<> settle_before_release();
  user_regs_struct final_registers() const;
  user_regs_struct registers_for(long number, std::initializer_list<std::uint64_t> arguments) const;
  Result<Nanoseconds> end();
  bool will_notice_a_signal() const;
  Failure gone(const char* what);

  TracedThread thread_;
  std::uint64_t instruction_;
  InjectionLimits limits_;
  const Process& process_;
  const bool ours_ = false;  // made by make_thread()
  State state_ = State::free;
  // A single step forces SIGTRAP on the thread; in a process that ignores SIGTRAP this would reset that to the default.
  // Such processes are run from one system call stop to the next, which forces nothing but stops twice per call.
  bool by_system_call_stops_ = false;
  bool left_by_system_call_stop_ = false;
  std::uint64_t options_ = 0;  // PTRACE_O_*, in force
  pid_t made_ = 0;
  std::uint64_t mask_ = 0;       // as it was
  std::uint64_t held_mask_ = 0;  // while we hold the thread
  siginfo_t foreign_trap_{};     // a SIGTRAP that somebody sent meanwhile; si_signo 0: none
  std::uint64_t abort_address_ = 0;
  std::optional<user_regs_struct> registers_;  // as they were
  StopKind last_stop_ = StopKind::ended;
  std::uint64_t scratch_ = 0;
  MonoTime asked_;
};

Failure PtraceInjector::Hold::gone(const char* what) {
  state_ = State::ended;
  return failure(std::errc::no_such_process, what, "thread " + std::to_string(thread_.tid()) + ": it ended meanwhile");
}

SignalState PtraceInjector::Hold::signal_state() const {
  const std::string name = "task/" + std::to_string(thread_.tid()) + "/status";
  const auto text = read_at(process_.directory(), name, name);
  return text ? parse_signal_state(*text) : SignalState{};
}

Result<> PtraceInjector::Hold::seize(const SignalState& signals) {
  by_system_call_stops_ = (signals.ignored & signal_bit(SIGTRAP)) != 0;
  const std::uint64_t options = by_system_call_stops_ ? PTRACE_O_TRACESYSGOOD : 0;
  options_ = options | PTRACE_O_SUSPEND_SECCOMP;
  auto seized = thread_.seize(options_);
  if (seized) return {};
  options_ = options;
  const int error = seized.error().code.value();
  // Refused to a caller without CAP_SYS_ADMIN or with filters of its own, and by kernels without it. Without a filter
  // in the target nothing is lost.
  const auto status = process_.status();
  if ((error == EPERM || error == EINVAL) && status && status->seccomp == SeccompMode::none)
    seized = thread_.seize(options);
  if (!seized && seized.error().code == std::errc::operation_not_permitted) {
    seized.error().remedy = status && status->tracer != 0
                                ? "process " + std::to_string(status->tracer) + " traces it already"
                                : "CAP_SYS_PTRACE and, for a process with seccomp filters, CAP_SYS_ADMIN are needed";
  }
  return seized;
}

Result<ThreadStop> PtraceInjector::Hold::next_stop(Nanoseconds limit) {
  auto stop = thread_.await_stop(limit);
  if (stop && stop->kind == StopKind::ended) return gone("stop");
  if (stop) last_stop_ = stop->kind;
  return stop;
}

Result<> PtraceInjector::Hold::stop() {
  if (auto seized = seize(signal_state()); !seized) return seized;
  asked_ = SystemClock().now();
  if (auto asked = thread_.interrupt(); !asked) return asked;
  if (auto reached = reach_first_stop(); !reached) return reached;
  const auto registers = thread_.registers();
  if (!registers) return pass_on(registers);
  registers_ = *registers;
  // Only a thread that was not in a system call can be in a restartable sequence.
  if (static_cast<std::int64_t>(registers->orig_rax) < 0) {
    const RestartableSequence sequence = thread_.restartable_sequence();
    if (sequence.critical_section.contains(registers->rip) && sequence.abort_address < kUserAddressEnd)
      abort_address_ = sequence.abort_address;
  }
  return {};
}

// To the stop that was asked for, or that of the whole process. A signal that comes first is put back into the kernel's
// queue, siginfo and all, by delivering it while it is blocked.
Result<> PtraceInjector::Hold::reach_first_stop() {
  for (int stops = 0; stops < kMaxStops; ++stops) {
    const auto stop = next_stop(limits_.stop);
    if (!stop) {
      if (state_ == State::stopped) state_ = State::lost;
      return pass_on(stop);
    }
    if (state_ == State::free) {
      const auto mask = thread_.signal_mask();
      if (!mask) return pass_on(mask);
      mask_ = *mask;
      held_mask_ = ~kSynchronous;
      state_ = State::stopped;
      if (auto done = thread_.set_signal_mask(held_mask_); !done) return done;
    }
    if (stop->kind == StopKind::interrupt || stop->kind == StopKind::group_stop) return {};
    int pass = 0;
    if (stop->kind == StopKind::signal) {
      const auto held = keep_for_later(stop->signal);
      if (!held) return pass_on(held);
      pass = *held;
    }
    // Any other stop takes back what was asked for (kernel/signal.c: ptrace_stop).
    if (auto asked = thread_.interrupt(); !asked) return asked;
    if (auto resumed = thread_.resume(pass); !resumed) return resumed;
  }
  return failure(std::errc::timed_out, "stop", "thread " + std::to_string(thread_.tid()) + ": too many signals");
}

Result<int> PtraceInjector::Hold::keep_for_later(int signal) {
  // Cannot be blocked: the process stops, and its thread still works for us.
  if (signal == SIGSTOP) return signal;
  if (signal == SIGTRAP) {
    const auto info = thread_.signal_info();
    if (!info) return pass_on(info);
    foreign_trap_ = *info;
    return 0;
  }
  held_mask_ |= signal_bit(signal);
  if (auto done = thread_.set_signal_mask(held_mask_); !done) return pass_on(done);
  return signal;
}

Result<int> PtraceInjector::Hold::hold_back(int signal) {
  const auto info = thread_.signal_info();
  if (!info) return pass_on(info);
  const bool forced = info->si_code > 0 && (signal_bit(signal) & kSynchronous) != 0;
  if (!forced) return keep_for_later(signal);
  // A stray trap of our own stepping.
  if (signal == SIGTRAP) return 0;
  return failure(signal == SIGSYS ? std::errc::not_supported : std::errc::bad_address, "make a system call in",
                 "process " + std::to_string(thread_.pid()) + ": signal " + std::to_string(signal));
}

Result<> PtraceInjector::Hold::run_instruction() {
  int pass = 0;
  bool entered = false;
  bool interrupted = false;
  for (int stops = 0; stops < kMaxStops; ++stops) {
    auto resumed = by_system_call_stops_ ? thread_.resume_to_system_call(pass) : thread_.step(pass);
    if (!resumed) return resumed;
    auto stop = next_stop(limits_.call);
    if (!stop && stop.error().code == std::errc::timed_out && !interrupted) {
      interrupted = true;
      if (auto asked = thread_.interrupt(); !asked) return asked;
      stop = next_stop(limits_.call);
    }
    if (!stop) {
      // It runs with registers of ours and nobody can stop it.
      if (state_ == State::stopped) state_ = State::lost;
      return pass_on(stop);
    }
    pass = 0;
    if (stop->kind == StopKind::new_thread) {
      const auto made = thread_.new_thread();
      if (!made) return pass_on(made);
      made_ = *made;
    } else if (stop->kind == StopKind::system_call) {
      left_by_system_call_stop_ = entered;
      if (std::exchange(entered, true)) break;
    } else if (stop->kind == StopKind::signal) {
      const auto registers = thread_.registers();
      if (!registers) return pass_on(registers);
      const bool executed = registers->rip == instruction_ + kInstructionLength;
      if (!by_system_call_stops_ && stop->signal == SIGTRAP && executed) break;
      const auto passed = hold_back(stop->signal);
      if (!passed) return pass_on(passed);
      pass = *passed;
    }
    if (stops + 1 == kMaxStops)
      return failure(std::errc::timed_out, "make a system call in", "a process that is signalled on and on");
  }
  if (interrupted)
    return failure(std::errc::timed_out, "make a system call in", "process " + std::to_string(thread_.pid()));
  return {};
}

user_regs_struct PtraceInjector::Hold::registers_for(long number,
                                                     std::initializer_list<std::uint64_t> arguments) const {
  user_regs_struct registers = *registers_;
  registers.rip = instruction_;
  registers.rax = static_cast<std::uint64_t>(number);
  // Not in a system call, as far as the kernel knows: it must not try to restart the one that was interrupted.
  registers.orig_rax = ~0ull;
  registers.eflags &= ~(kTrapFlag | kDirectionFlag);
  const std::array<unsigned long long*, 6> slots{&registers.rdi, &registers.rsi, &registers.rdx,
                                                 &registers.r10, &registers.r8,  &registers.r9};
  std::size_t next = 0;
  for (const std::uint64_t argument : arguments) *slots.at(next++) = argument;
  for (; next < slots.size(); ++next) *slots.at(next) = 0;
  return registers;
}

Result<std::int64_t> PtraceInjector::Hold::call(long number, std::initializer_list<std::uint64_t> arguments) {
  if (state_ != State::stopped || !registers_)
    return failure(std::errc::no_such_process, "make a system call in", "a thread that is not held");
  const auto ran = [&]() -> Result<> {
    if (auto set = thread_.set_registers(registers_for(number, arguments)); !set) return set;
    return run_instruction();
  }();
  if (!ran) {
    if (ran.error().code == std::errc::no_such_process) return gone("make a system call in");
    return pass_on(ran);
  }
  const auto after = thread_.registers();
  if (!after) return pass_on(after);
  // Should we die, a thread of ours goes on by itself: into its end.
  if (ours_) static_cast<void>(thread_.set_registers(registers_for(SYS_exit, {})));
  const auto value = static_cast<std::int64_t>(after->rax);
  return value <= -kFirstRestartCode && value >= -kLastRestartCode ? -EINTR : value;
}

Result<std::unique_ptr<PtraceInjector::Hold>> PtraceInjector::Hold::make_thread() {
  constexpr std::uint64_t kThread = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
  made_ = 0;
  // New threads are ours only now: those that the thread makes for itself are not.
  if (auto set = thread_.set_options(options_ | PTRACE_O_TRACECLONE); !set) return pass_on(set);
  // On the stack of its maker, which it never touches.
  const auto made = call(SYS_clone, {kThread});
  if (!made) return pass_on(made);
  if (auto set = thread_.set_options(options_); !set) return pass_on(set);
  if (*made < 0 || made_ == 0) {
    return failure_from(*made < 0 ? static_cast<int>(-*made) : EAGAIN, "make a thread in",
                        "process " + std::to_string(thread_.pid()), "is its number of threads limited?");
  }
  auto hold = std::make_unique<Hold>(*this, made_);
  hold->asked_ = SystemClock().now();
  const auto stop = hold->next_stop(limits_.stop);
  if (!stop) return pass_on(stop);
  hold->state_ = State::stopped;
  if (auto set = hold->thread_.set_registers(hold->registers_for(SYS_exit, {})); !set) return pass_on(set);
  return hold;
}

Result<std::uint64_t> PtraceInjector::Hold::scratch() {
  if (scratch_ != 0) return scratch_;
  const auto address = call(SYS_mmap, {0, kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, ~0ull, 0});
  if (!address) return pass_on(address);
  if (*address < 0)
    return failure_from(static_cast<int>(-*address), "map a scratch page in",
                        "process " + std::to_string(thread_.pid()));
  return scratch_ = static_cast<std::uint64_t>(*address);
}

bool PtraceInjector::Hold::will_notice_a_signal() const {
  const SignalState state = signal_state();
  return noticeable(state.pending & ~mask_, state) != 0 || foreign_trap_.si_signo != 0;
}

user_regs_struct PtraceInjector::Hold::final_registers() const {
  user_regs_struct registers = *registers_;
  if (abort_address_ != 0) registers.rip = abort_address_;
  const bool in_call = static_cast<std::int64_t>(registers.orig_rax) >= 0;
  if (in_call && static_cast<std::int64_t>(registers.rax) == -EINTR && !must_not_repeat(registers.orig_rax) &&
      !will_notice_a_signal()) {
    registers.rax = registers.orig_rax;
    registers.orig_rax = ~0ull;
    registers.rip -= kInstructionLength;
  }
  return registers;
}

// Behind a system call stop the kernel looks at signals, and with them at calls to be restarted, only when there is a
// reason to: asking for a stop is one.
Result<> PtraceInjector::Hold::settle_before_release() {
  if (!left_by_system_call_stop_) return {};
  if (auto asked = thread_.interrupt(); !asked) return asked;
  int pass = 0;
  for (int stops = 0; stops < kMaxStops; ++stops) {
    if (auto resumed = thread_.resume(pass); !resumed) return resumed;
    const auto stop = next_stop(limits_.call);
    if (!stop) return pass_on(stop);
    if (stop->kind == StopKind::interrupt || stop->kind == StopKind::group_stop) return {};
    pass = 0;
    if (stop->kind == StopKind::signal) {
      const auto passed = hold_back(stop->signal);
      if (!passed) return pass_on(passed);
      pass = *passed;
    }
  }
  return failure(std::errc::timed_out, "let go of", "thread " + std::to_string(thread_.tid()));
}

Result<Nanoseconds> PtraceInjector::Hold::release() {
  if (scratch_ != 0 && state_ == State::stopped) {
    const std::uint64_t page = std::exchange(scratch_, 0);
    static_cast<void>(call(SYS_munmap, {page, kPageSize}));
  }
  if (state_ == State::lost)
    return failure(std::errc::timed_out, "let go of", "thread " + std::to_string(thread_.tid()) + ": it does not stop");
  if (state_ != State::stopped) return gone("let go of");
  if (ours_) return end();
  state_ = State::free;
  const auto put_back = [&]() -> Result<> {
    if (registers_) {
      if (auto done = thread_.set_registers(final_registers()); !done) return done;
      if (auto done = settle_before_release(); !done) return done;
    }
    if (auto done = thread_.set_signal_mask(mask_); !done) return done;
    if (foreign_trap_.si_signo == 0) return thread_.detach(0);
    // Only a stop for a signal can deliver one with its siginfo.
    if (last_stop_ == StopKind::signal && thread_.set_signal_info(foreign_trap_)) return thread_.detach(SIGTRAP);
    ::syscall(SYS_tgkill, thread_.pid(), thread_.tid(), SIGTRAP);
    return thread_.detach(0);
  }();
  if (!put_back) {
    if (put_back.error().code == std::errc::no_such_process) return gone("let go of");
    return pass_on(put_back);
  }
  return SystemClock().now() - asked_;
}

Result<Nanoseconds> PtraceInjector::Hold::end() {
  state_ = State::free;
  if (auto set = thread_.set_registers(registers_for(SYS_exit, {})); !set) return pass_on(set);
  for (int stops = 0; stops < kMaxStops; ++stops) {
    if (auto resumed = thread_.resume(0); !resumed) return pass_on(resumed);
    const auto stop = thread_.await_stop(limits_.call);
    if (!stop) return pass_on(stop);
    if (stop->kind == StopKind::ended) return SystemClock().now() - asked_;
  }
  return failure(std::errc::timed_out, "end", "thread " + std::to_string(thread_.tid()));
}

Result<PtraceInjector> PtraceInjector::stop(const Process& process, pid_t tid, std::uint64_t instruction,
                                            const InjectionLimits& limits) {
  auto hold = std::make_unique<Hold>(process, tid, instruction, limits);
  // When this fails behind the stop, `hold` puts back what there is and lets go.
  if (auto stopped = hold->stop(); !stopped) return pass_on(stopped);
  return PtraceInjector{std::move(hold)};
}

PtraceInjector::PtraceInjector(std::unique_ptr<Hold> hold) : hold_(std::move(hold)) {}
PtraceInjector::PtraceInjector(PtraceInjector&& other) noexcept = default;
PtraceInjector::~PtraceInjector() = default;

Result<std::int64_t> PtraceInjector::call(long number, std::initializer_list<std::uint64_t> arguments) {
  return hold_->call(number, arguments);
}
Result<PtraceInjector> PtraceInjector::make_thread() {
  auto hold = hold_->make_thread();
  if (!hold) return pass_on(hold);
  return PtraceInjector{std::move(*hold)};
}
Result<std::uint64_t> PtraceInjector::scratch() {
  return hold_->scratch();
}
Result<Nanoseconds> PtraceInjector::release() {
  return hold_->release();
}
pid_t PtraceInjector::thread() const {
  return hold_->thread().tid();
}

Result<> PtraceInjector::write(std::uint64_t address, std::span<const std::byte> data) const {
  std::byte* from = const_cast<std::byte*>(data.data());  // iovec knows no const; the call only reads it
  const iovec local{.iov_base = from, .iov_len = data.size()};
  // NOLINTNEXTLINE(performance-no-int-to-ptr): an address in the other process
  const iovec remote{.iov_base = reinterpret_cast<void*>(address), .iov_len = data.size()};
  const ssize_t written = ::process_vm_writev(hold_->thread().pid(), &local, 1, &remote, 1, 0);
  if (written < 0) return errno_failure("write memory of", "process " + std::to_string(hold_->thread().pid()));
  if (static_cast<std::size_t>(written) != data.size())
    return failure(std::errc::bad_address, "write memory of", "process " + std::to_string(hold_->thread().pid()));
  return {};
}

Result<> PtraceInjector::read(std::uint64_t address, std::span<std::byte> out) const {
  const std::int64_t length = read_process_memory(hold_->thread().pid(), address, out.data(), out.size());
  if (length == static_cast<std::int64_t>(out.size())) return {};
  return failure_from(length < 0 ? static_cast<int>(-length) : EFAULT, "read memory of",
                      "process " + std::to_string(hold_->thread().pid()));
}

}  // namespace tidepool::kernel
