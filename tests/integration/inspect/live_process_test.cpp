// The readers of /proc and the rules of eligibility against processes that really do what they look for.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <liburing.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <set>
#include <thread>

#include "daemon/vm/eligibility.h"
#include "kmod-interfaces/process_holders.h"
#include "tests/support/child_process.h"

namespace tidepool::daemon {
namespace {

using kernel::Process;

constexpr std::size_t kMiB = 1u << 20;
const kernel::KernelRoots kRoots;

std::string problem(const std::string& what) {
  return what + ": " + std::strerror(errno);
}

char* map_memory(std::size_t size, int flags = MAP_PRIVATE | MAP_ANONYMOUS, int fd = -1) {
  void* memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, fd, 0);
  if (memory == MAP_FAILED) return nullptr;
  std::memset(memory, 1, size);
  return static_cast<char*>(memory);
}

AdoptionRules any_executable() {
  AdoptionRules rules;
  rules.allow_executables = {"*"};
  return rules;
}

// The codes against the process, or "gone".
std::set<std::string> codes_against(pid_t pid, const std::string& selector = "auto") {
  const auto facts = collect_facts(pid, kRoots, *parse_memory_selector(selector));
  if (!facts) return {"gone"};
  std::set<std::string> codes;
  for (const Finding& finding : check_eligibility(*facts, any_executable()).findings) codes.insert(finding.code);
  // A machine may have a process that not even root may look into; that is not what these tests are about.
  codes.erase("holders-unknown");
  // Said of the private memory of all of these; whether rightly is eligibility_test's.
  codes.erase("private-may-move");
  return codes;
}

std::string share_memory() {
  const int fd = ::memfd_create("cache one\ntwo", 0);
  if (fd < 0 || ::ftruncate(fd, 8 * kMiB) != 0) return problem("memfd");
  return map_memory(8 * kMiB, MAP_SHARED, fd) != nullptr ? "" : problem("mmap");
}

TEST(LiveProcess, IsReadWholeForOneself) {
  const auto self = Process::open(kRoots, ::getpid());
  ASSERT_TRUE(self);
  EXPECT_TRUE(self->check_alive());
  EXPECT_EQ(self->stat()->pid, ::getpid());
  EXPECT_EQ(self->stat()->parent, ::getppid());
  EXPECT_EQ(self->status()->uid, ::getuid());
  EXPECT_TRUE(self->status()->has_memory);
  EXPECT_EQ(self->executable().value(), std::filesystem::read_symlink("/proc/self/exe").string());
  EXPECT_EQ(self->elf_class().value(), kernel::ElfClass::bits64);
  EXPECT_FALSE(self->command_line()->empty());
  EXPECT_FALSE(self->mounts()->empty());
  EXPECT_FALSE(self->cgroups()->empty());
  const auto threads = self->threads();
  ASSERT_TRUE(threads);
  EXPECT_TRUE(std::ranges::any_of(*threads, [](const auto& thread) { return thread.tid == ::gettid(); }));
}

TEST(LiveProcess, SmapsAgreesWithMapsAndRollup) {
  const ChildProcess child([] { return map_memory(8 * kMiB) != nullptr ? std::string() : problem("mmap"); });
  ASSERT_READY(child);
  const auto process = Process::open(kRoots, child.pid());
  ASSERT_TRUE(process);
  const auto maps = process->maps();
  const auto smaps = process->smaps();
  ASSERT_TRUE(maps && smaps);
  ASSERT_EQ(maps->size(), smaps->size());
  Bytes resident;
  for (std::size_t i = 0; i < maps->size(); ++i) {
    EXPECT_EQ((*maps)[i].range, (*smaps)[i].map.range);
    EXPECT_EQ((*maps)[i].path, (*smaps)[i].map.path);
    EXPECT_FALSE((*smaps)[i].vm_flags.empty());
    resident += (*smaps)[i].resident;
  }
  EXPECT_GE(resident, Bytes{8 * kMiB});
  EXPECT_EQ(process->smaps_rollup()->resident, resident);
}

TEST(LiveProcess, WithPlainMemoryIsEligible) {
  const ChildProcess child([] { return map_memory(64 * kMiB) != nullptr ? std::string() : problem("mmap"); });
  ASSERT_READY(child);
  const auto facts = collect_facts(child.pid(), kRoots);
  ASSERT_TRUE(facts);
  EXPECT_TRUE(check_eligibility(*facts, any_executable()).eligible());
  EXPECT_TRUE(facts->mappings.has_private());
  EXPECT_GE(facts->mappings.total(), Bytes{64 * kMiB});
}

TEST(LiveProcess, MemfdIsFoundInEveryProcessThatHasIt) {
  const ChildProcess child(share_memory);
  ASSERT_READY(child);
  const auto facts = collect_facts(child.pid(), kRoots, *parse_memory_selector("shared"));
  ASSERT_TRUE(facts);
  ASSERT_EQ(facts->mappings.chosen.size(), 1u);
  EXPECT_EQ(facts->mappings.chosen[0].kind, MemoryKind::memfd);
  EXPECT_EQ(facts->mappings.chosen[0].path, "/memfd:cache one\\012two (deleted)");
  EXPECT_TRUE(facts->holders.empty());

  // This process opens the same memory: first it holds a descriptor, then it maps it.
  const std::vector<kernel::InodeId> objects = facts->mappings.objects();
  const auto process = Process::open(kRoots, child.pid());
  const auto descriptors = process->descriptors();
  ASSERT_TRUE(descriptors);
  const auto memfd = std::ranges::find(*descriptors, kernel::DescriptorKind::memfd, &kernel::DescriptorInfo::kind);
  ASSERT_NE(memfd, descriptors->end());
  const std::string link = "fd/" + std::to_string(memfd->number);
  const UniqueFd mine{::openat(process->directory(), link.c_str(), O_RDWR | O_CLOEXEC)};
  ASSERT_TRUE(mine.valid()) << std::strerror(errno);
  EXPECT_EQ(codes_against(child.pid(), "shared"), std::set<std::string>{"foreign-descriptor"});
  char* memory = map_memory(8 * kMiB, MAP_SHARED, mine.get());
  ASSERT_NE(memory, nullptr);
  EXPECT_EQ(codes_against(child.pid(), "shared"), std::set<std::string>{"foreign-mapper"});
  const auto scan = kernel::find_memory_holders(kRoots, objects);
  ASSERT_TRUE(scan);
  std::set<pid_t> pids;
  for (const auto& holder : scan->holders) pids.insert(holder.id.pid);
  EXPECT_EQ(pids, (std::set<pid_t>{child.pid(), ::getpid()}));
  ::munmap(memory, 8 * kMiB);
}

TEST(LiveProcess, SharedAnonymousAndTmpfsMemoryIsRecognised) {
  const ChildProcess child([]() -> std::string {
    if (map_memory(4 * kMiB, MAP_SHARED | MAP_ANONYMOUS) == nullptr) return problem("mmap");
    const int fd = ::open("/dev/shm", O_TMPFILE | O_RDWR, 0600);
    if (fd < 0) return "skip: no tmpfs at /dev/shm";
    if (::ftruncate(fd, 4 * kMiB) != 0 || map_memory(4 * kMiB, MAP_SHARED, fd) == nullptr) return problem("tmpfs");
    return "";
  });
  ASSERT_READY(child);
  const auto facts = collect_facts(child.pid(), kRoots, *parse_memory_selector("shared"));
  ASSERT_TRUE(facts);
  std::set<MemoryKind> kinds;
  for (const ManagedMapping& mapping : facts->mappings.chosen) kinds.insert(mapping.kind);
  EXPECT_EQ(kinds, (std::set<MemoryKind>{MemoryKind::shared_anonymous, MemoryKind::tmpfs_file}));
}

TEST(LiveProcess, ServerWithChildrenIsOneFamily) {
  const ChildProcess server([]() -> std::string {
    if (map_memory(4 * kMiB, MAP_SHARED | MAP_ANONYMOUS) == nullptr) return problem("mmap");
    for (int i = 0; i < 2; ++i) {
      const pid_t backend = ::fork();
      if (backend < 0) return problem("fork");
      if (backend > 0) continue;
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      // The parent waits for the end of its pipe, which a child must not keep open.
      ::close_range(3, ~0u, 0);
      for (;;) ::pause();
    }
    return "";
  });
  ASSERT_READY(server);
  const auto facts = collect_facts(server.pid(), kRoots, *parse_memory_selector("shared"));
  ASSERT_TRUE(facts);
  EXPECT_EQ(family_of(server.pid(), ::getpid(), facts->holders).size(), 2u);
  AdoptionRules rules = any_executable();
  EXPECT_FALSE(check_eligibility(*facts, rules).eligible());
  for (const auto& member : facts->holders) rules.enrolled.push_back(member.id);
  EXPECT_TRUE(check_eligibility(*facts, rules).eligible());
}

TEST(LiveProcess, WithFixedBuffersIsRefused) {
  const ChildProcess child([]() -> std::string {
    io_uring ring{};
    if (const int error = ::io_uring_queue_init(8, &ring, 0); error != 0)
      return std::string("skip: no io_uring: ") + std::strerror(-error);
    char* memory = map_memory(2 * kMiB);
    const iovec buffer{memory, 64u << 10};
    if (const int error = ::io_uring_register_buffers(&ring, &buffer, 1); error != 0)
      return std::string("register: ") + std::strerror(-error);
    return "";
  });
  ASSERT_READY(child);
  const auto codes = codes_against(child.pid());
  EXPECT_TRUE(codes.contains("io-uring-buffers"));
  EXPECT_TRUE(codes.contains("pinned"));
}

TEST(LiveProcess, WithARingWithoutBuffersIsEligible) {
  const ChildProcess child([]() -> std::string {
    io_uring ring{};
    if (const int error = ::io_uring_queue_init(8, &ring, 0); error != 0)
      return std::string("skip: no io_uring: ") + std::strerror(-error);
    if (const int error = ::io_uring_register_buffers_sparse(&ring, 4); error != 0)
      return std::string("register: ") + std::strerror(-error);
    return map_memory(2 * kMiB) != nullptr ? "" : problem("mmap");
  });
  ASSERT_READY(child);
  EXPECT_EQ(codes_against(child.pid()), std::set<std::string>{});
}

// Sanitizers turn mlock(3) into nothing.
std::string lock_memory(char* memory, std::size_t size) {
  return ::syscall(SYS_mlock, memory, size) == 0 ? "" : "skip: " + problem("mlock");
}

// Sanitizers keep terabytes of shadow memory, so that nothing a test makes is ever most of a process: tests of shares
// name the range.
std::string range_of(const ExcludedMapping& mapping) {
  char text[64];
  std::snprintf(text, sizeof text, "0x%lx-0x%lx", mapping.range.start, mapping.range.end);
  return text;
}

TEST(LiveProcess, WithLockedMemoryIsRefusedOrWarnedAbout) {
  const ChildProcess all([] { return lock_memory(map_memory(4 * kMiB), 4 * kMiB); });
  ASSERT_READY(all);
  const auto facts = collect_facts(all.pid(), kRoots, *parse_memory_selector("private"));
  ASSERT_TRUE(facts);
  EXPECT_EQ(facts->locked, Bytes{4 * kMiB});
  ASSERT_EQ(facts->mappings.blocked.size(), 1u);
  EXPECT_EQ(facts->mappings.blocked[0].reason, Exclusion::locked);
  EXPECT_EQ(codes_against(all.pid(), range_of(facts->mappings.blocked[0])), std::set<std::string>{"locked"});
  const ChildProcess some([]() -> std::string {
    if (map_memory(64 * kMiB) == nullptr) return problem("mmap");
    return lock_memory(map_memory(4096), 4096);
  });
  ASSERT_READY(some);
  EXPECT_EQ(codes_against(some.pid()), std::set<std::string>{"locked-partly"});
}

TEST(LiveProcess, WithAUserfaultfdIsRefused) {
  const ChildProcess child([]() -> std::string {
    if (map_memory(4 * kMiB) == nullptr) return problem("mmap");
    return ::syscall(SYS_userfaultfd, O_CLOEXEC) >= 0 ? "" : "skip: " + problem("userfaultfd");
  });
  ASSERT_READY(child);
  EXPECT_EQ(codes_against(child.pid()), std::set<std::string>{"userfaultfd"});
}

TEST(LiveProcess, WithDirectIoIsNamedWithItsStorage) {
  const ChildProcess child([]() -> std::string {
    if (map_memory(4 * kMiB) == nullptr) return problem("mmap");
    return ::open("/proc/self/exe", O_RDONLY | O_DIRECT) >= 0 ? "" : "skip: " + problem("O_DIRECT");
  });
  ASSERT_READY(child);
  const auto facts = collect_facts(child.pid(), kRoots);
  ASSERT_TRUE(facts);
  ASSERT_EQ(facts->direct.size(), 1u);
  EXPECT_FALSE(facts->direct[0].storage.what.empty());
  const std::string code =
      facts->direct[0].storage.speed == kernel::StorageSpeed::fast ? "direct-io" : "direct-io-slow";
  EXPECT_EQ(codes_against(child.pid()), std::set<std::string>{code});
}

TEST(LiveProcess, HugetlbMemoryIsBlocked) {
  const ChildProcess child([]() -> std::string {
    // Reserving nothing keeps the machine's pool of huge pages as it is: only the mapping matters.
    void* memory = ::mmap(nullptr, 4 * kMiB, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE, -1, 0);
    return memory != MAP_FAILED ? "" : "skip: " + problem("hugetlb");
  });
  ASSERT_READY(child);
  const auto facts = collect_facts(child.pid(), kRoots, *parse_memory_selector("private"));
  ASSERT_TRUE(facts);
  ASSERT_EQ(facts->mappings.blocked.size(), 1u);
  EXPECT_EQ(facts->mappings.blocked[0].reason, Exclusion::hugetlb);
  EXPECT_EQ(codes_against(child.pid(), range_of(facts->mappings.blocked[0])), std::set<std::string>{"hugetlb"});
}

TEST(LiveProcess, StacksOfThreadsAreSpared) {
  const ChildProcess child([]() -> std::string {
    for (int i = 0; i < 3; ++i) {
      pthread_attr_t attributes;
      pthread_attr_init(&attributes);
      pthread_attr_setstacksize(&attributes, 4 * kMiB);
      pthread_t thread{};
      const auto run = [](void* spins) -> void* {
        volatile bool forever = true;
        while (spins != nullptr && forever) {
        }
        for (;;) ::pause();
      };
      if (pthread_create(&thread, &attributes, run, i == 0 ? &attributes : nullptr) != 0) return problem("thread");
    }
    return map_memory(64 * kMiB) != nullptr ? "" : problem("mmap");
  });
  ASSERT_READY(child);
  const auto facts = collect_facts(child.pid(), kRoots, *parse_memory_selector("private"));
  ASSERT_TRUE(facts);
  std::size_t stacks = 0;
  for (const ExcludedMapping& mapping : facts->mappings.excluded) {
    stacks += mapping.reason == Exclusion::stack && mapping.path.empty() ? 1 : 0;
  }
  EXPECT_GE(stacks, 3u);
  for (const ManagedMapping& mapping : facts->mappings.chosen) EXPECT_NE(mapping.range.size(), 4 * kMiB);
}

TEST(LiveProcess, ThatIsSelfKernelThreadZombieOrTracedIsRefused) {
  EXPECT_TRUE(codes_against(::getpid()).contains("self"));
  const auto kthreadd = Process::open(kRoots, 2);
  // In a pid namespace of its own, 2 is somebody else.
  if (kthreadd && kthreadd->stat()->is_kernel_thread()) {
    EXPECT_EQ(codes_against(2), std::set<std::string>{"kernel-thread"});
  }
  ChildProcess zombie([] { return std::string(); });
  zombie.leave_as_zombie();
  EXPECT_EQ(codes_against(zombie.pid()), std::set<std::string>{"zombie"});
  const ChildProcess traced([] { return map_memory(2 * kMiB) != nullptr ? std::string() : problem("mmap"); });
  ASSERT_READY(traced);
  ASSERT_EQ(::ptrace(PTRACE_SEIZE, traced.pid(), nullptr, nullptr), 0) << std::strerror(errno);
  EXPECT_EQ(codes_against(traced.pid()), std::set<std::string>{"traced"});
}

TEST(LiveProcess, ThatIsGoneOrAThreadIsNoProcess) {
  pid_t pid = 0;
  std::optional<Process> process;
  {
    const ChildProcess child([] { return std::string(); });
    pid = child.pid();
    process = std::move(*Process::open(kRoots, pid));
  }
  EXPECT_EQ(process->check_alive().error().code, std::errc::no_such_process);
  EXPECT_FALSE(process->maps());
  EXPECT_EQ(collect_facts(pid, kRoots).error().code, std::errc::no_such_process);
  std::thread([] {
    const auto thread = Process::open(kRoots, ::gettid());
    EXPECT_EQ(thread.error().code, std::errc::no_such_process);
    EXPECT_NE(thread.error().remedy.find(std::to_string(::getpid())), std::string::npos);
  }).join();
}

TEST(LiveProcess, ThatMayNotBeReadIsRefusedForThatReason) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to become somebody else";
  const pid_t target = ::getpid();
  const ChildProcess stranger([target]() -> std::string {
    if (::setgid(65534) != 0 || ::setuid(65534) != 0) return problem("setuid");
    std::string codes;
    for (const std::string& code : codes_against(target)) codes += code + " ";
    return codes;
  });
  EXPECT_NE(stranger.outcome().find("not-permitted"), std::string::npos) << stranger.outcome();
}

}  // namespace
}  // namespace tidepool::daemon
