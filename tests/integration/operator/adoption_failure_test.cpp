// Adoption that fails half-way, at every stage that can fail: the process is as it was found, and the next adoption
// works.
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <filesystem>
#include <fstream>
#include <thread>

#include "tests/integration/operator/adoption_case.h"
#include "tests/support/child_process.h"
#include "tests/support/planned_memory.h"

namespace tidepool::tests {
namespace {

class FailedAdoption : public AdoptionCase {
 protected:
  // Adopts, which must fail with `parts`, and looks whether anything was left anywhere.
  void expect_failure(pid_t pid, AddressRange range, int code, std::initializer_list<std::string> parts) {
    const ProcessState before = state_of_process(pid);
    ASSERT_TRUE(before.alive);
    expect_parts(adopt(pid, range), code, parts);
    expect_untouched(pid, before);
  }
  void expect_untouched(pid_t pid, const ProcessState& before) {
    EXPECT_TRUE(await([&] { return state_of_process(pid) == before; }))
        << ::testing::PrintToString(state_of_process(pid)) << "\nwas\n"
        << ::testing::PrintToString(before);
    EXPECT_EQ(vms(), 0u);
    expect_as_remembered();
  }
  void expect_success(pid_t pid, AddressRange range) {
    const ProcessState before = state_of_process(pid);
    const std::string name = adopt_whole(pid, range);
    EXPECT_EQ(release(name).code, 0);
    expect_untouched(pid, before);
  }
  void use_helper(const std::string& path) {
    agent().stop();
    agent().write_settings({{"adopt.helper", "\"" + path + "\""}});
    ASSERT_TRUE(agent().start());
    remember();
  }

  const PlannedMemory memory_{8 * kMiB};
  TestFolder folder_;
};

TEST_F(FailedAdoption, WithoutAHelperSaysWhatToInstall) {
  start({{"adopt.helper", "\"/nonexistent/tidepool-adopt\""}});
  const ChildProcess child([&] { return memory_.make() != nullptr ? "" : "mmap"; });
  ASSERT_READY(child);
  expect_failure(child.pid(), memory_.range(), 1,
                 {"/nonexistent/tidepool-adopt", "No such file", "install it beside tidepoold, or set adopt.helper"});
  use_helper("");
  expect_success(child.pid(), memory_.range());
}

TEST_F(FailedAdoption, WhoseHelperDiesOrTalksNonsense) {
  start({{"adopt.helper", "\"" + helper_with(folder_, "kill -9 $$") + "\""}});
  const ChildProcess child([&] { return memory_.make() != nullptr ? "" : "mmap"; });
  ASSERT_READY(child);
  expect_failure(child.pid(), memory_.range(), 1, {"tidepool-adopt: it ended without an answer"});
  helper_with(folder_, "exit 0");
  expect_failure(child.pid(), memory_.range(), 1, {"tidepool-adopt: it ended without an answer"});
  helper_with(folder_, "printf nonsense >&3; exit 0");
  expect_failure(child.pid(), memory_.range(), 1, {"tidepool-adopt"});
  helper_with(folder_, "");
  expect_success(child.pid(), memory_.range());
}

TEST_F(FailedAdoption, WhoseKeeperIsGone) {
  start();
  const ChildProcess child([&] { return memory_.make() != nullptr ? "" : "mmap"; });
  ASSERT_READY(child);
  const ProcessState before = state_of_process(child.pid());
  ::kill(agent().keeper(), SIGKILL);
  expect_parts(adopt(child.pid(), memory_.range()), 1, {"keeper.sock"});
  EXPECT_TRUE(await([&] { return state_of_process(child.pid()) == before; }))
      << ::testing::PrintToString(state_of_process(child.pid()));
  EXPECT_EQ(vms(), 0u);
  expect_parts(agent().tidectl({"health"}), 1, {"holder", "SICK"});
}

// What the child does when the helper's hook tells it to: the agent has looked at it, and not taken hold yet.
void (*g_change)() = nullptr;
const PlannedMemory* g_memory = nullptr;
char g_done[256];

void on_signal(int) {
  g_change();
  ::close(::open(g_done, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
}

std::string obey(const PlannedMemory& memory, const TestFolder& folder, void (*change)()) {
  g_memory = &memory;
  g_change = change;
  std::snprintf(g_done, sizeof g_done, "%s", (folder / "done").c_str());
  ::signal(SIGUSR1, on_signal);
  return memory.make() != nullptr ? "" : "mmap";
}

std::string hook_for(pid_t pid, const TestFolder& folder) {
  const std::string done = folder / "done";
  // Once only: the helper that undoes an adoption changes nothing more.
  return "if [ ! -e " + done + " ]; then kill -USR1 " + std::to_string(pid) + "; while [ ! -e " + done +
         " ]; do sleep 0.01; done; fi";
}

TEST_F(FailedAdoption, WhoseMappingVanishes) {
  start({{"adopt.helper", "\"" + (folder_ / "helper") + "\""}});
  const ChildProcess child([&] { return obey(memory_, folder_, [] { g_memory->unmake(); }); });
  ASSERT_READY(child);
  helper_with(folder_, hook_for(child.pid(), folder_));
  expect_failure(child.pid(), memory_.range(), 1, {"0x", "try again"});
}

TEST_F(FailedAdoption, WhoseMappingBecomesAnotherKind) {
  start({{"adopt.helper", "\"" + (folder_ / "helper") + "\""}});
  const ChildProcess child([&] {
    return obey(memory_, folder_, [] {
      const int file = ::open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
      void* const first = reinterpret_cast<void*>(g_memory->range().start);
      if (::mmap(first, kMiB, PROT_READ, MAP_PRIVATE | MAP_FIXED, file, 0) == MAP_FAILED) ::_exit(1);
      ::close(file);
    });
  });
  ASSERT_READY(child);
  helper_with(folder_, hook_for(child.pid(), folder_));
  expect_failure(child.pid(), memory_.range(), 1, {"0x", "try again"});
}

TEST_F(FailedAdoption, WhoseMemoryAnotherUserfaultfdTookMeanwhile) {
  start({{"adopt.helper", "\"" + (folder_ / "helper") + "\""}});
  const ChildProcess child([&] {
    return obey(memory_, folder_, [] {
      const int fd = static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC));
      uffdio_api api{};
      api.api = UFFD_API;
      ::ioctl(fd, UFFDIO_API, &api);
      uffdio_register registration{};
      registration.range = {g_memory->range().start, g_memory->range().size()};
      registration.mode = UFFDIO_REGISTER_MODE_WP;
      ::ioctl(fd, UFFDIO_REGISTER, &registration);
    });
  });
  ASSERT_READY(child);
  helper_with(folder_, hook_for(child.pid(), folder_));
  const ProcessState before = state_of_process(child.pid());
  expect_parts(adopt(child.pid(), memory_.range()), 1, {"another userfaultfd watches a part of it"});
  // Its own userfaultfd is left; nothing of ours is.
  EXPECT_TRUE(await([&] { return state_of_process(child.pid()).descriptors.size() == before.descriptors.size() + 1; }));
  EXPECT_EQ(state_of_process(child.pid()).watched_mappings, 1u);
  EXPECT_TRUE(await([&] { return state_of_process(child.pid()).threads == before.threads; }));
  expect_as_remembered();
}

TEST_F(FailedAdoption, WhoseMemoryAnotherProcessMapsMeanwhile) {
  start({{"adopt.helper", "\"" + (folder_ / "helper") + "\""}});
  const ChildProcess child([&]() -> std::string {
    const int fd = ::memfd_create("cache", 0);
    if (fd < 0 || ::ftruncate(fd, 8 * kMiB) != 0) return "memfd";
    return memory_.make(MAP_SHARED, fd) != nullptr ? "" : "mmap";
  });
  ASSERT_READY(child);
  const std::string done = folder_ / "done";
  const std::string file = "/proc/" + std::to_string(child.pid()) + "/map_files/" + text_of(memory_.range());
  // A stranger that maps the same memory once it is told to, and stays.
  const pid_t stranger = ::fork();
  if (stranger == 0) {
    while (!std::filesystem::exists(folder_ / "go")) ::usleep(5000);
    const int fd = ::open(file.c_str(), O_RDWR | O_CLOEXEC);
    const bool mapped = fd >= 0 && ::mmap(nullptr, 8 * kMiB, PROT_READ, MAP_SHARED, fd, 0) != MAP_FAILED;
    ::close(fd);
    if (mapped) std::ofstream(done) << "done";
    for (;;) ::pause();
  }
  helper_with(folder_, "touch " + (folder_ / "go") + "; while [ ! -e " + done + " ]; do sleep 0.01; done");
  expect_failure(child.pid(), memory_.range(), 3, {"it changed meanwhile", "maps the same memory"});
  ::kill(stranger, SIGKILL);
  ::waitpid(stranger, nullptr, 0);
  expect_success(child.pid(), memory_.range());
}

// Half of its memory is shared. The other half is private, and grows and shrinks by a page, in place, until it is told
// to stop.
std::string breathe(const PlannedMemory& memory, const TestFolder& folder) {
  const std::size_t half = memory.range().size() / 2;
  const int fd = ::memfd_create("cache", MFD_CLOEXEC);
  char* const start = memory.make();
  if (fd < 0 || start == nullptr || ::ftruncate(fd, static_cast<off_t>(half)) != 0 ||
      ::mmap(start, half, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
    return "memory";
  ::close(fd);
  char* const own = start + half;
  const std::size_t less = half - kPageSize;
  ::munmap(own + less, kPageSize);  // room to grow
  std::thread([own, less, stop = folder / "stop"] {
    while (!std::filesystem::exists(stop)) {
      ::mremap(own, less, less + kPageSize, 0);
      ::usleep(1000);
      ::mremap(own, less + kPageSize, less, 0);
      ::usleep(1000);
    }
    std::ofstream(stop + "ped") << "stopped";
    for (;;) ::pause();
  }).detach();
  return "";
}

// Maps a file when `come` is there, says so with `came`, and stays.
pid_t start_guest(const std::string& file, std::size_t size, const std::string& come, const std::string& came) {
  const pid_t guest = ::fork();
  if (guest != 0) return guest;
  while (!std::filesystem::exists(come)) ::usleep(1000);
  const int fd = ::open(file.c_str(), O_RDWR | O_CLOEXEC);
  if (::mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED) ::_exit(1);
  ::close(fd);
  std::ofstream(came) << "came";
  for (;;) ::pause();
}

// What was registered, and could not be unregistered because the process was changing it, goes a moment later: whoever
// tries again at once is not told that a userfaultfd is in the way.
TEST_F(FailedAdoption, OfMemoryThatIsBeingChangedCanBeTriedAgainAtOnce) {
  start({{"adopt.helper", "\"" + (folder_ / "helper") + "\""}});
  const ChildProcess child([&] { return breathe(memory_, folder_); });
  ASSERT_READY(child);
  const std::size_t half = memory_.range().size() / 2;
  const AddressRange shared{memory_.range().start, memory_.range().start + half};
  const AddressRange range{shared.start, memory_.range().end - kPageSize};
  const std::string come = folder_ / "come";
  const std::string came = folder_ / "came";
  const std::string file = "/proc/" + std::to_string(child.pid()) + "/map_files/" + text_of(shared);
  // Every attempt fails, for somebody else maps the memory meanwhile; until one leaves something registered.
  helper_with(folder_, "touch " + come + "; while [ ! -e " + came + " ]; do sleep 0.01; done");
  const bool left = await([&] {
    const pid_t guest = start_guest(file, half, come, came);
    const Outcome outcome = adopt(child.pid(), range);
    EXPECT_NE(outcome.code, 0) << outcome.all();
    ::kill(guest, SIGKILL);
    ::waitpid(guest, nullptr, 0);
    for (const std::string& sign : {come, came}) std::filesystem::remove(sign);
    return state_of_process(child.pid()).watched_mappings > 0;
  });
  EXPECT_TRUE(left) << "no adoption failed with something registered";
  std::ofstream(folder_ / "stop") << "stop";
  EXPECT_TRUE(await([&] { return std::filesystem::exists(folder_ / "stopped"); }));
  helper_with(folder_, "");
  expect_parts(adopt(child.pid(), range, {"--name", "calm"}), 0, {"calm"});
  EXPECT_EQ(release("calm").code, 0);
  EXPECT_TRUE(await([&] { return state_of_process(child.pid()).watched_mappings == 0; }));
  expect_as_remembered();
}

// One descriptor more at a time: whatever step needs the one that is missing fails.
TEST_F(FailedAdoption, WhoseAgentRunsOutOfDescriptorsAtAnyStep) {
  start();
  const ChildProcess child([&] { return memory_.make() != nullptr ? "" : "mmap"; });
  ASSERT_READY(child);
  const ProcessState before = state_of_process(child.pid());
  rlimit usual{};
  ASSERT_EQ(::prlimit(agent().pid(), RLIMIT_NOFILE, nullptr, &usual), 0);
  const std::size_t open = open_descriptors(agent().pid());
  unsigned failures = 0;
  bool succeeded = false;
  for (rlim_t room = 1; room < 40 && !succeeded; ++room) {
    const rlimit tight{open + room, usual.rlim_max};
    ASSERT_EQ(::prlimit(agent().pid(), RLIMIT_NOFILE, &tight, nullptr), 0);
    const Outcome outcome = adopt(child.pid(), memory_.range(), {"--name", "tight", "--timeout", "60s"});
    ASSERT_EQ(::prlimit(agent().pid(), RLIMIT_NOFILE, &usual, nullptr), 0);
    succeeded = outcome.code == 0;
    failures += succeeded ? 0 : 1;
    if (succeeded) {
      EXPECT_EQ(release("tight").code, 0);
    }
    // It could not even be asked, or could not do it.
    EXPECT_TRUE(outcome.code == 0 || outcome.code == 1 || outcome.code == 4 || outcome.code == 5) << outcome.all();
    expect_untouched(child.pid(), before);
  }
  EXPECT_TRUE(succeeded);
  EXPECT_GT(failures, 5u);
}

}  // namespace
}  // namespace tidepool::tests
