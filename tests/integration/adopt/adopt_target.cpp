// A process to be adopted: does one thing, and reports what it noticed. adopt_target WHAT [uid=N] [seccomp] [threads=N]
// [ignore-trap] [block-all] [descriptors=N]
#include "tests/integration/adopt/adopt_target.h"

#include <linux/aio_abi.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace tidepool::adopt_test {
namespace {

// Longer than any test: a call that returns by itself is then a mistake of whoever disturbed it.
constexpr long kLongSeconds = 3600;

Report* report = nullptr;

timespec long_time() {
  return {.tv_sec = kLongSeconds, .tv_nsec = 0};
}

std::array<int, 2> pipe_pair() {
  std::array<int, 2> ends{};
  if (::pipe(ends.data()) != 0) std::abort();
  return ends;
}

std::array<int, 2> stream_pair() {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()) != 0) std::abort();
  return ends;
}

sigset_t one_signal(int signal) {
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, signal);
  return set;
}

using Call = std::function<long()>;

// Every blocking call that behaves in its own way when the thread is disturbed.
std::map<std::string, std::function<Call()>> blocking_calls() {
  std::map<std::string, std::function<Call()>> calls;
  calls["nanosleep"] = [] {
    return [] {
      const timespec time = long_time();
      return static_cast<long>(::nanosleep(&time, nullptr));
    };
  };
  calls["clock_nanosleep_absolute"] = [] {
    return [] {
      timespec until{};
      ::clock_gettime(CLOCK_MONOTONIC, &until);
      until.tv_sec += kLongSeconds;
      errno = ::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr);
      return errno == 0 ? 0L : -1L;
    };
  };
  calls["poll"] = [] {
    return [fd = pipe_pair()[0]] {
      pollfd waiting{.fd = fd, .events = POLLIN, .revents = 0};
      return static_cast<long>(::poll(&waiting, 1, kLongSeconds * 1000));
    };
  };
  calls["ppoll"] = [] {
    return [fd = pipe_pair()[0]] {
      pollfd waiting{.fd = fd, .events = POLLIN, .revents = 0};
      const timespec time = long_time();
      const sigset_t mask = one_signal(SIGUSR2);
      return static_cast<long>(::ppoll(&waiting, 1, &time, &mask));
    };
  };
  calls["select"] = [] {
    return [fd = pipe_pair()[0]] {
      fd_set set;
      FD_ZERO(&set);
      FD_SET(fd, &set);
      timeval time{.tv_sec = kLongSeconds, .tv_usec = 0};
      return static_cast<long>(::select(fd + 1, &set, nullptr, nullptr, &time));
    };
  };
  calls["epoll_wait"] = [] {
    return [fd = ::epoll_create1(0)] {
      epoll_event event{};
      return static_cast<long>(::epoll_wait(fd, &event, 1, kLongSeconds * 1000));
    };
  };
  calls["epoll_pwait"] = [] {
    return [fd = ::epoll_create1(0)] {
      epoll_event event{};
      const sigset_t mask = one_signal(SIGUSR2);
      return static_cast<long>(::epoll_pwait(fd, &event, 1, kLongSeconds * 1000, &mask));
    };
  };
  calls["read_pipe"] = [] {
    return [fd = pipe_pair()[0]] {
      char byte = 0;
      return static_cast<long>(::read(fd, &byte, 1));
    };
  };
  calls["recv"] = [] {
    return [fd = stream_pair()[0]] {
      char byte = 0;
      return static_cast<long>(::recv(fd, &byte, 1, 0));
    };
  };
  calls["recv_with_time_out"] = [] {
    const int fd = stream_pair()[0];
    const timeval time{.tv_sec = kLongSeconds, .tv_usec = 0};
    ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
    return [fd] {
      char byte = 0;
      return static_cast<long>(::recv(fd, &byte, 1, 0));
    };
  };
  calls["accept"] = [] {
    const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in loopback{};
    loopback.sin_family = AF_INET;
    loopback.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::bind(fd, reinterpret_cast<sockaddr*>(&loopback), sizeof loopback) != 0 || ::listen(fd, 5) != 0) std::abort();
    return [fd] { return static_cast<long>(::accept(fd, nullptr, nullptr)); };
  };
  calls["futex_wait"] = [] {
    return [] {
      static int word = 0;
      return ::syscall(SYS_futex, &word, FUTEX_WAIT, 0, nullptr, nullptr, 0);
    };
  };
  calls["futex_wait_timed"] = [] {
    return [] {
      static int word = 0;
      const timespec time = long_time();
      return ::syscall(SYS_futex, &word, FUTEX_WAIT, 0, &time, nullptr, 0);
    };
  };
  calls["sem_wait"] = [] {
    return [] {
      static sem_t* semaphore = [] {
        auto* made = new sem_t;
        ::sem_init(made, 0, 0);
        return made;
      }();
      return static_cast<long>(::sem_wait(semaphore));
    };
  };
  calls["msgrcv"] = [] {
    const int queue = ::msgget(IPC_PRIVATE, 0600 | IPC_CREAT);
    report->message_queue = queue;
    return [queue] {
      struct {
        long type;
        std::array<char, 8> text;
      } message{};
      return static_cast<long>(::msgrcv(queue, &message, sizeof message.text, 0, 0));
    };
  };
  calls["inotify_read"] = [] {
    return [fd = ::inotify_init()] {
      std::array<char, 256> buffer{};
      return static_cast<long>(::read(fd, buffer.data(), buffer.size()));
    };
  };
  calls["io_getevents"] = [] {
    aio_context_t context = 0;
    if (::syscall(SYS_io_setup, 8, &context) != 0) std::abort();
    return [context] {
      io_event event{};
      timespec time = long_time();
      return ::syscall(SYS_io_getevents, context, 1, 1, &event, &time);
    };
  };
  calls["sigtimedwait"] = [] {
    const sigset_t set = one_signal(SIGRTMIN + 3);
    ::sigprocmask(SIG_BLOCK, &set, nullptr);
    return [set] {
      const timespec time = long_time();
      siginfo_t info{};
      return static_cast<long>(::sigtimedwait(&set, &info, &time));
    };
  };
  calls["sigsuspend"] = [] {
    return [] {
      const sigset_t mask = one_signal(SIGUSR2);
      return static_cast<long>(::sigsuspend(&mask));
    };
  };
  calls["semtimedop"] = [] {
    const int set = ::semget(IPC_PRIVATE, 1, 0600 | IPC_CREAT);
    report->semaphores = set;
    return [set] {
      sembuf take{.sem_num = 0, .sem_op = -1, .sem_flg = 0};
      const timespec time = long_time();
      return ::syscall(SYS_semtimedop, set, &take, 1, &time);
    };
  };
  calls["pause"] = [] { return [] { return static_cast<long>(::pause()); }; };
  return calls;
}

[[noreturn]] void block_for_ever(const Call& call) {
  report->ready = 1;
  for (;;) {
    errno = 0;
    const long value = call();
    if (value < 0 && errno == EINTR) {
      ++report->eintr;
    } else if (value < 0) {
      ++report->failed;
      report->last_error = errno;
      ::usleep(100000);
    } else {
      ++report->returned;
    }
  }
}

// Loops with known values in registers, flags and the red zone, and looks whether they are still there.
[[noreturn]] void compute_for_ever() {
  report->ready = 1;
  for (;;) {
    std::uint64_t wrong = 0;
    asm volatile(
        "mov $0x1111111111111111, %%r8\n mov $0x2222222222222222, %%r9\n mov $0x3333333333333333, %%r10\n"
        "mov $0x4444444444444444, %%r11\n mov $0x5555555555555555, %%r12\n mov $0x6666666666666666, %%r13\n"
        "mov $0x7777777777777777, %%rdi\n mov $0x1234567812345678, %%rsi\n"
        "movq %%r8, %%xmm6\n movq %%r9, %%xmm7\n"
        "mov $200000, %%ecx\n"
        "1: mov %%r13, -8(%%rsp)\n mov %%r12, -128(%%rsp)\n"
        "dec %%ecx\n jnz 1b\n"
        "movq %%xmm6, %%rax\n xor %%r8, %%rax\n or %%rax, %0\n"
        "movq %%xmm7, %%rax\n xor %%r9, %%rax\n or %%rax, %0\n"
        "mov -8(%%rsp), %%rax\n xor %%r13, %%rax\n or %%rax, %0\n"
        "mov -128(%%rsp), %%rax\n xor %%r12, %%rax\n or %%rax, %0\n"
        "mov $0x1111111111111111, %%rax\n xor %%r8, %%rax\n or %%rax, %0\n"
        "mov $0x2222222222222222, %%rax\n xor %%r9, %%rax\n or %%rax, %0\n"
        "mov $0x3333333333333333, %%rax\n xor %%r10, %%rax\n or %%rax, %0\n"
        "mov $0x4444444444444444, %%rax\n xor %%r11, %%rax\n or %%rax, %0\n"
        "mov $0x7777777777777777, %%rax\n xor %%rdi, %%rax\n or %%rax, %0\n"
        "mov $0x1234567812345678, %%rax\n xor %%rsi, %%rax\n or %%rax, %0\n"
        : "+r"(wrong)
        :
        : "rax", "rcx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "xmm6", "xmm7", "memory", "cc");
    if (wrong != 0) ++report->wrong;
    ++report->rounds;
  }
}

// Stays inside one restartable sequence, which only its abort leaves. Whoever makes the kernel forget the sequence
// without aborting it leaves the thread in there for ever.
[[noreturn]] void restart_for_ever() {
  auto* area = reinterpret_cast<volatile struct rseq*>(static_cast<char*>(__builtin_thread_pointer()) + __rseq_offset);
  report->ready = __rseq_size != 0 ? 1 : 2;
  for (;;) {
    asm volatile(
        ".pushsection __rseq_cs, \"aw\"\n .balign 32\n"
        "3: .long 0, 0\n .quad 1f, (2f - 1f), 4f\n .popsection\n"
        "lea 3b(%%rip), %%rax\n mov %%rax, %[section]\n"
        "1: pause\n jmp 1b\n"
        "2: ud2\n"
        ".byte 0x0f, 0xb9, 0x3d\n .long 0x53053053\n"  // the signature before an abort handler
        "4:\n"
        : [section] "=m"(area->rseq_cs)
        :
        : "rax", "memory", "cc");
    ++report->rounds;
  }
}

void on_signal(int, siginfo_t* info, void*) {
  ++report->signals;
  report->signal_values += static_cast<std::uint64_t>(info->si_value.sival_int);
  if (info->si_code != SI_QUEUE || info->si_pid != report->sender.load()) ++report->bad_signals;
}

[[noreturn]] void take_signals_for_ever() {
  struct sigaction action {};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  ::sigaction(SIGRTMIN, &action, nullptr);
  ::sigaction(SIGUSR1, &action, nullptr);
  static sem_t semaphore;
  ::sem_init(&semaphore, 0, 0);
  report->ready = 1;
  for (;;) {
    if (::sem_wait(&semaphore) < 0 && errno == EINTR) ++report->eintr;
  }
}

// Answers questions about pages of private memory.
[[noreturn]] void hold_memory_for_ever() {
  const std::size_t length = kMemoryPages * 4096;
  void* memory = ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) std::abort();
  std::memset(memory, kFill, length);
  report->memory = reinterpret_cast<std::uint64_t>(memory);
  report->ready = 1;
  std::uint64_t last = 0;
  for (;;) {
    const std::uint64_t question = report->question.load();
    if (question == 0 || question == last) {
      if (question == 0) last = 0;
      ::usleep(1000);
      continue;
    }
    std::uint32_t sum = 0;
    const auto* page = static_cast<const volatile unsigned char*>(memory) + (question - 1) % kMemoryPages * 4096;
    for (int i = 0; i < 4096; ++i) sum += page[i];
    report->answer = sum;
    report->answered = last = question;
  }
}

void allow_only_sleeping() {
  const auto allow = [](unsigned number) {
    return std::array<sock_filter, 2>{sock_filter BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
                                      sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  };
  std::vector<sock_filter> filter{sock_filter BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))};
  for (const long number : {SYS_clock_nanosleep, SYS_nanosleep, SYS_restart_syscall, SYS_exit_group}) {
    const auto rule = allow(static_cast<unsigned>(number));
    filter.insert(filter.end(), rule.begin(), rule.end());
  }
  filter.push_back(sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS));
  const sock_fprog program{.len = static_cast<unsigned short>(filter.size()), .filter = filter.data()};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
    std::abort();
}

void start_threads(int count) {
  for (int i = 0; i < count; ++i) {
    std::thread([i] {
      // A vCPU, by its name, and threads that come and go.
      if (i == 0) {
        ::pthread_setname_np(::pthread_self(), "CPU 0/KVM");
        report->thread = static_cast<std::int32_t>(::syscall(SYS_gettid));
        for (;;) ::pause();
      }
      for (;;) {
        if (i % 2 == 0) {
          ::pause();
        } else {
          std::thread([] { ::usleep(200); }).join();
        }
      }
    }).detach();
  }
}

// Until execve() has replaced it so often that something was bound to be in between.
[[noreturn]] void exec_for_ever(char** arguments) {
  report->ready = 1;
  ++report->rounds;
  std::thread([arguments] {
    ::usleep(static_cast<unsigned>(500 + report->rounds.load() * 37 % 2000));
    ::execv("/proc/self/exe", arguments);
    std::abort();
  }).detach();
  for (;;) ::pause();
}

int number_in(std::string_view option) {
  return std::atoi(option.substr(option.find('=') + 1).data());
}

void apply(std::string_view option) {
  if (option.starts_with("uid=")) {
    const auto id = static_cast<unsigned>(number_in(option));
    if (::setresgid(id, id, id) != 0 || ::setresuid(id, id, id) != 0) std::abort();
    ::prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
  } else if (option.starts_with("threads=")) {
    start_threads(number_in(option));
  } else if (option == "ignore-trap") {
    ::signal(SIGTRAP, SIG_IGN);
  } else if (option == "block-all") {
    sigset_t all;
    ::sigfillset(&all);
    ::sigprocmask(SIG_BLOCK, &all, nullptr);
  } else if (option.starts_with("descriptors=")) {
    // So many and no more: the first free number is the one above kReportFd.
    const rlimit limit{.rlim_cur = static_cast<rlim_t>(number_in(option)),
                       .rlim_max = static_cast<rlim_t>(number_in(option))};
    if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) std::abort();
  }
}

}  // namespace
}  // namespace tidepool::adopt_test

int main(int argc, char** argv) {
  using namespace tidepool::adopt_test;
  if (argc < 2) return 2;
  void* page = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, kReportFd, 0);
  if (page == MAP_FAILED) return 3;
  // The test made the page and outlives us.
  report = static_cast<Report*>(page);
  for (int i = 2; i < argc; ++i) apply(argv[i]);
  // After a change of user, which would undo it.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const std::string what = argv[1];
  const auto calls = blocking_calls();
  const auto call = calls.find(what);
  const Call blocking = call != calls.end() ? call->second() : Call{};
  for (int i = 2; i < argc; ++i) {
    if (std::string_view(argv[i]) == "seccomp") allow_only_sleeping();
  }
  if (blocking) block_for_ever(blocking);
  if (what == "compute") compute_for_ever();
  if (what == "restart") restart_for_ever();
  if (what == "signals") take_signals_for_ever();
  if (what == "memory") hold_memory_for_ever();
  if (what == "exec") exec_for_ever(argv);
  return 2;
}
