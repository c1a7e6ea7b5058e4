// What cannot be adopted, end to end: a real process for each reason, and tidectl says which it is and what helps.
#include <fcntl.h>
#include <liburing.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "tests/integration/operator/adoption_case.h"
#include "tests/support/child_process.h"
#include "tests/support/planned_memory.h"

namespace tidepool::tests {
namespace {

std::string problem(const std::string& what) {
  return what + ": " + std::strerror(errno);
}

class Eligibility : public AdoptionCase {
 protected:
  // Refused by the check and by the adoption alike, with code and remedy, and nothing has been done to the process.
  void expect_refused(const ChildProcess& child, AddressRange range, const std::string& code,
                      const std::string& remedy) {
    const ProcessState before = state_of_process(child.pid());
    expect_parts(adopt(child.pid(), range, {"--check"}), 3, {"REFUSED", code, remedy});
    expect_parts(adopt(child.pid(), range), 3, {"refused", code, remedy});
    EXPECT_EQ(state_of_process(child.pid()), before);
    EXPECT_EQ(vms(), 0u);
    expect_as_remembered();
  }

  const PlannedMemory memory_{8 * kMiB};
};

TEST_F(Eligibility, FixedBuffersOfAnIoUringAreNamed) {
  start();
  const ChildProcess child([&]() -> std::string {
    static io_uring ring{};
    if (const int error = ::io_uring_queue_init(8, &ring, 0); error != 0)
      return std::string("skip: no io_uring: ") + std::strerror(-error);
    const iovec buffer{memory_.make(), 64u << 10};
    const int error = ::io_uring_register_buffers(&ring, &buffer, 1);
    return error == 0 ? "" : std::string("register: ") + std::strerror(-error);
  });
  ASSERT_READY(child);
  expect_refused(child, memory_.range(), "io-uring-buffers", "Turn fixed buffers off");
}

TEST_F(Eligibility, LockedMemoryIsNamed) {
  start();
  const ChildProcess child([&]() -> std::string {
    // Sanitizers turn mlock(3) into nothing.
    return ::syscall(SYS_mlock, memory_.make(), 8 * kMiB) == 0 ? "" : "skip: " + problem("mlock");
  });
  ASSERT_READY(child);
  expect_refused(child, memory_.range(), "locked", "without memory locking");
}

TEST_F(Eligibility, UserfaultfdOfItsOwnIsNamed) {
  start();
  const ChildProcess child([&]() -> std::string {
    if (memory_.make() == nullptr) return problem("mmap");
    return ::syscall(SYS_userfaultfd, O_CLOEXEC) >= 0 ? "" : "skip: " + problem("userfaultfd");
  });
  ASSERT_READY(child);
  expect_refused(child, memory_.range(), "userfaultfd", "Release the VM or stop the other user");
}

TEST_F(Eligibility, HugetlbMemoryIsNamed) {
  start();
  const PlannedMemory huge(8 * kMiB);
  const std::uint64_t aligned = (huge.range().start + 2 * kMiB - 1) / (2 * kMiB) * (2 * kMiB);
  const AddressRange range{aligned, aligned + 4 * kMiB};
  const ChildProcess child([&]() -> std::string {
    // Reserving nothing leaves the machine's huge pages as they are: only the mapping matters.
    void* memory = ::mmap(reinterpret_cast<void*>(aligned), 4 * kMiB, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE | MAP_FIXED, -1, 0);
    return memory != MAP_FAILED ? "" : "skip: " + problem("hugetlb");
  });
  ASSERT_READY(child);
  expect_refused(child, range, "hugetlb", "transparent huge pages");
}

std::string share(const PlannedMemory& memory) {
  const int fd = ::memfd_create("cache", 0);
  if (fd < 0 || ::ftruncate(fd, 8 * kMiB) != 0) return problem("memfd");
  if (memory.make(MAP_SHARED, fd) == nullptr) return problem("mmap");
  ::close(fd);
  return "";
}

// Another process that opens the child's memory, and maps it too if it is told to.
std::string intrude(const ChildProcess& child, const PlannedMemory& memory, bool map) {
  const std::string file = "/proc/" + std::to_string(child.pid()) + "/map_files/" + text_of(memory.range());
  const int fd = ::open(file.c_str(), O_RDWR);
  if (fd < 0) return problem("open");
  return !map || ::mmap(nullptr, 8 * kMiB, PROT_READ, MAP_SHARED, fd, 0) != MAP_FAILED ? "" : problem("mmap");
}

TEST_F(Eligibility, MemoryThatAStrangerMapsIsNamed) {
  start();
  const ChildProcess child([&] { return share(memory_); });
  ASSERT_READY(child);
  const ChildProcess stranger([&] { return intrude(child, memory_, true); });
  ASSERT_READY(stranger);
  expect_refused(child, memory_.range(), "foreign-mapper", "Adopt it together with this one, or stop it");
  expect_refused(child, memory_.range(), "foreign-mapper", "(pid " + std::to_string(stranger.pid()) + ")");
  expect_parts(adopt(child.pid(), memory_.range(), {"--force", "foreign-mapper", "--yes"}), 3, {"foreign-mapper"});
}

TEST_F(Eligibility, MemoryThatAStrangerHasOpenIsNamedAndCanBeForced) {
  start();
  const ChildProcess child([&] { return share(memory_); });
  ASSERT_READY(child);
  const ChildProcess stranger([&] { return intrude(child, memory_, false); });
  ASSERT_READY(stranger);
  expect_refused(child, memory_.range(), "foreign-descriptor", "or --force foreign-descriptor");
  const ProcessState before = state_of_process(child.pid());
  const Outcome forced =
      adopt(child.pid(), memory_.range(), {"--force", "foreign-descriptor", "--yes", "--name", "forced"});
  expect_parts(forced, 0, {"warning", "foreign-descriptor"});
  EXPECT_EQ(release("forced").code, 0);
  EXPECT_TRUE(await([&] { return state_of_process(child.pid()) == before; }));
}

TEST_F(Eligibility, ParentThatOnlyHasTheMemoryOpenIsNoPartOfTheFamily) {
  start();
  const UniqueFd shared{::memfd_create("cache", 0)};
  ASSERT_EQ(::ftruncate(shared.get(), 8 * kMiB), 0);
  const ChildProcess child(
      [&]() -> std::string { return memory_.make(MAP_SHARED, shared.get()) != nullptr ? "" : problem("mmap"); });
  ASSERT_READY(child);
  expect_refused(child, memory_.range(), "foreign-descriptor", "(pid " + std::to_string(::getpid()) + ")");
}

TEST_F(Eligibility, FamilyIsJudgedAsAWhole) {
  // A server and its child map the same memory; the child has a userfaultfd of its own, so neither can be adopted.
  start();
  const ChildProcess server([&]() -> std::string {
    if (std::string wrong = share(memory_); !wrong.empty()) return wrong;
    int ready[2];
    if (::pipe(ready) != 0) return problem("pipe");
    if (::fork() == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      // The parent waits for the end of its pipe, which a child must not keep open.
      ::dup2(ready[1], 100);
      ::close_range(3, 99, 0);
      ::close_range(101, ~0u, 0);
      const bool made = ::syscall(SYS_userfaultfd, O_CLOEXEC) >= 0;
      const ssize_t said = ::write(100, made ? "y" : "n", 1);
      if (said != 1) ::_exit(1);
      for (;;) ::pause();
    }
    char made = 'n';
    return ::read(ready[0], &made, 1) == 1 && made == 'y' ? "" : "skip: no userfaultfd";
  });
  ASSERT_READY(server);
  expect_refused(server, memory_.range(), "family-member", "userfaultfd");
}

TEST_F(Eligibility, DirectIoIsNamedWithItsStorage) {
  start();
  const ChildProcess child([&]() -> std::string {
    if (memory_.make() == nullptr) return problem("mmap");
    return ::open("/proc/self/exe", O_RDONLY | O_DIRECT) >= 0 ? "" : "skip: " + problem("O_DIRECT");
  });
  ASSERT_READY(child);
  // Which of the two it is depends on this machine's disk; either is said before anything is done.
  const Outcome check = adopt(child.pid(), memory_.range(), {"--check"});
  const bool slow = check.all().find("direct-io-slow") != std::string::npos;
  if (slow) {
    expect_refused(child, memory_.range(), "direct-io-slow", "cache=writeback");
    expect_parts(adopt(child.pid(), memory_.range(), {"--force", "direct-io-slow", "--yes", "--name", "forced"}), 0,
                 {"warning", "direct-io-slow"});
    EXPECT_EQ(release("forced").code, 0);
  } else {
    expect_parts(check, 0, {"ELIGIBLE", "warning", "direct-io"});
  }
}

TEST_F(Eligibility, ExecutableThatIsNotListedIsNamedAndTheListCanBeReloaded) {
  start({{"adopt.allow_exe", "[\"/usr/bin/qemu-system-*\"]"}});
  const ChildProcess child([&] { return memory_.make() != nullptr ? "" : problem("mmap"); });
  ASSERT_READY(child);
  expect_refused(child, memory_.range(), "not-allow-listed", "Add it to adopt.allow_exe");
  const std::string own = std::filesystem::read_symlink("/proc/self/exe").string();
  EXPECT_NE(adopt(child.pid(), memory_.range(), {"--check"}).all().find(own), std::string::npos);
  agent().write_settings({{"adopt.allow_exe", "[\"" + own + "\"]"}});
  agent().reload();
  const std::string name = adopt_whole(child.pid(), memory_.range());
  EXPECT_EQ(release(name).code, 0);
}

TEST_F(Eligibility, ForbiddenTracingIsNamed) {
  start({{"adopt.allow_ptrace", "false"},
         {"adopt.handoff_socket", "\"/tmp/tidepool-test-" + std::to_string(::getpid()) + ".sock\""}});
  const ChildProcess child([&] { return memory_.make() != nullptr ? "" : problem("mmap"); });
  ASSERT_READY(child);
  expect_refused(child, memory_.range(), "ptrace-forbidden", "Set allow_ptrace = true");
}

TEST_F(Eligibility, ZombieIsNamed) {
  start();
  ChildProcess child([] { return std::string(); });
  child.leave_as_zombie();
  expect_parts(adopt(child.pid()), 3, {"zombie", "Name a process that runs"});
  expect_as_remembered();
}

TEST_F(Eligibility, SelectionThatFitsNothingIsNamed) {
  start();
  const ChildProcess child([&] { return memory_.make() != nullptr ? "" : problem("mmap"); });
  ASSERT_READY(child);
  for (const char* mapping : {"path:/dev/shm/nothing-*", "/nothing", ">=1TiB", "1000-2000"})
    expect_parts(adopt(child.pid(), {}, {"--mapping", mapping}), 3, {"nothing-to-manage", "Choose another --mapping"});
  for (const char* mapping : {"", "path:", ">=", ">=x", "2000-1000", "1001-2000", "1000-1000"})
    expect_parts(adopt(child.pid(), {}, {"--mapping", mapping}), 2, {"--mapping"});
  expect_as_remembered();
}

// An agent that may do less than it should says what it lacks.
TEST_F(Eligibility, MissingPermissionIsNamed) {
  if (::access("/usr/bin/setpriv", X_OK) != 0) GTEST_SKIP() << "setpriv is not installed";
  AgentProcess agent;
  const pid_t pid =
      start_program({"/usr/bin/setpriv", "--bounding-set", "-sys_ptrace,-sys_admin,-dac_override,-dac_read_search",
                     "--inh-caps", "-all", bin_folder() + "/tidepoold", "--config", agent.config()},
                    {}, agent.folder() / "agent.out", agent.folder() / "agent.log");
  const pid_t keeper = start_program({"tidepool-keeper", "--socket", agent.folder() / "keeper.sock"}, {},
                                     agent.folder() / "keeper.out", agent.folder() / "keeper.log");
  const ChildProcess child([&]() -> std::string {
    if (memory_.make() == nullptr) return problem("mmap");
    return ::setgid(65534) == 0 && ::setuid(65534) == 0 ? "" : problem("setuid");
  });
  ASSERT_READY(child);
  if (await([&] { return agent.log().find("msg=ready") != std::string::npos || !state_of_process(pid).alive; }) &&
      state_of_process(pid).alive) {
    const ProcessState before = state_of_process(child.pid());
    const Outcome outcome =
        agent.tidectl({"vm", "adopt", "--pid", std::to_string(child.pid()), "--mapping", text_of(memory_.range())});
    expect_parts(outcome, 3, {"not-permitted", "CAP_SYS_PTRACE"});
    EXPECT_EQ(state_of_process(child.pid()), before);
  } else {
    ADD_FAILURE() << agent.log();
  }
  for (const pid_t each : {pid, keeper}) {
    ::kill(each, SIGKILL);
    ::waitpid(each, nullptr, 0);
  }
}

}  // namespace
}  // namespace tidepool::tests
