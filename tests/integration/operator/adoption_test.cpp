// Adoption of what cannot be adopted, or not now: a clear error each, the process as it was, and nothing left behind in
// agent or keeper.
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <boost/json.hpp>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <random>
#include <thread>

#include "tests/integration/operator/adoption_case.h"
#include "tests/support/child_process.h"
#include "tests/support/planned_memory.h"

namespace tidepool::tests {
namespace {

class Adoption : public AdoptionCase {};

// A process with private memory, idle.
std::string have_memory(const PlannedMemory& memory) {
  return memory.make() != nullptr ? "" : "mmap";
}

unsigned rounds(unsigned usual) {
  const char* more = std::getenv("TIDEPOOL_LONG");
  return more != nullptr ? usual * 20 : usual;
}

TEST_F(Adoption, OfAProcessThatDoesNotExistFails) {
  start();
  pid_t gone = 0;
  {
    const ChildProcess child([] { return std::string(); });
    gone = child.pid();
  }
  for (const Words& check : std::vector<Words>{{}, {"--check"}})
    expect_parts(adopt(gone, {}, check), 1, {std::to_string(gone), "No such process"});
  expect_parts(agent().tidectl({"vm", "adopt", "--domain", "nobody"}), 1,
               {"nobody", "name a running VM, or use --pid"});
  expect_parts(agent().tidectl({"vm", "adopt", "--cgroup", "no/such/group"}), 2, {"no/such/group"});
  expect_as_remembered();
}

TEST_F(Adoption, OfKernelThreadsIsRefused) {
  start();
  if (read_file("/proc/2/comm") != "kthreadd\n") GTEST_SKIP() << "this pid namespace shows no kernel threads";
  expect_parts(adopt(2), 3, {"kernel-thread", "Name a user process"});
  expect_parts(adopt(2, {}, {"--check"}), 3, {"REFUSED", "kernel-thread"});
  expect_as_remembered();
}

TEST_F(Adoption, OfTidepoolsOwnProcessesIsRefused) {
  start();
  // The helper waits some seconds for its order.
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
  const UniqueFd mine{ends[0]};
  const pid_t helper = ::fork();
  if (helper == 0) {
    ::dup2(ends[1], 3);
    ::execl((bin_folder() + "/tidepool-adopt").c_str(), "tidepool-adopt", nullptr);
    ::_exit(127);
  }
  ::close(ends[1]);
  EXPECT_TRUE(await([&] { return read_file("/proc/" + std::to_string(helper) + "/comm") == "tidepool-adopt\n"; }));
  for (const pid_t own : {agent().pid(), agent().keeper(), helper}) {
    expect_parts(adopt(own), 3, {"self", "Name another process"});
    expect_parts(adopt(own, {}, {"--check"}), 3, {"self"});
  }
  ::kill(helper, SIGKILL);
  ::waitpid(helper, nullptr, 0);
  expect_as_remembered();
}

TEST_F(Adoption, OfATracedProcessIsRefused) {
  start();
  const PlannedMemory memory(4 * kMiB);
  const ChildProcess child([&] { return have_memory(memory); });
  ASSERT_READY(child);
  std::atomic<bool> seized{false};
  std::atomic<bool> done{false};
  std::thread tracer([&] {
    seized = ::syscall(SYS_ptrace, 0x4206, child.pid(), 0, 0) == 0;  // PTRACE_SEIZE
    while (!done) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  });
  EXPECT_TRUE(await([&] { return seized.load(); }));
  expect_parts(adopt(child.pid(), memory.range()), 3, {"traced", "Detach the debugger"});
  done = true;
  tracer.join();
  expect_as_remembered();
}

void end_and_reap(pid_t pid) {
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
}

// A program of these bytes at these places, and zeros between them.
std::string write_program(const std::string& path,
                          std::initializer_list<std::pair<std::size_t, std::initializer_list<unsigned>>> parts) {
  std::string file(0x90, '\0');
  for (const auto& [start, bytes] : parts) {
    std::size_t at = start;
    for (const unsigned byte : bytes) file.at(at++) = static_cast<char>(byte);
  }
  std::ofstream(path, std::ios::binary) << file;
  std::filesystem::permissions(path, std::filesystem::perms::owner_all);
  return path;
}

// The smallest program there is: waits for a signal, by the 32-bit system call.
std::string write_32_bit_program(const TestFolder& folder) {
  return write_program(
      folder / "thirty-two",
      {{0, {0x7f, 'E', 'L', 'F', 1, 1, 1}},                                             // 32 bits, little-endian
       {16, {2, 0, 3, 0, 1, 0, 0, 0}},                                                  // executable, i386
       {24, {0x54, 0x80, 0x04, 0x08, 52, 0, 0, 0}},                                     // entry, program header
       {40, {52, 0, 32, 0, 1, 0}},                                                      // sizes and count of headers
       {52, {1, 0, 0, 0, 0, 0, 0, 0, 0x00, 0x80, 0x04, 0x08, 0x00, 0x80, 0x04, 0x08}},  // load all of it at 0x8048000
       {68, {0x90, 0, 0, 0, 0x90, 0, 0, 0, 5, 0, 0, 0, 0, 0x10, 0, 0}},
       {84, {0xb8, 29, 0, 0, 0, 0xcd, 0x80, 0xeb, 0xf7}}});  // mov eax, pause; int 0x80; again
}

// For kernels that run no 32-bit code: the same for 64 bits, with a header that says 32, which the kernel does not look
// at (fs/binfmt_elf.c: load_elf_binary) and Tidepool goes by.
std::string write_program_that_says_32_bit(const TestFolder& folder) {
  return write_program(folder / "says-thirty-two",
                       {{0, {0x7f, 'E', 'L', 'F', 1, 1, 1}},
                        {16, {2, 0, 62, 0, 1, 0, 0, 0}},  // executable, x86-64
                        {24, {0x78, 0, 0x40, 0}},         // entry
                        {32, {64}},                       // program header
                        {52, {64, 0, 56, 0, 1, 0}},       // sizes and count of headers
                        {64, {1, 0, 0, 0, 5, 0, 0, 0}},   // load, read and execute
                        {80, {0, 0, 0x40, 0}},            // all of it, at 0x400000
                        {88, {0, 0, 0x40, 0}},
                        {96, {0x90}},
                        {104, {0x90}},
                        {112, {0, 0x10}},
                        {120, {0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7}}});  // mov eax, pause; syscall; again
}

TEST_F(Adoption, Of32BitProcessesIsRefused) {
  start();
  const TestFolder folder;
  bool refused = false;
  for (const std::string& program : {write_32_bit_program(folder), write_program_that_says_32_bit(folder)}) {
    const pid_t pid = start_program({program}, {}, folder / "out", folder / "err");
    const auto runs = [&] {
      std::error_code dead;
      return std::filesystem::read_symlink("/proc/" + std::to_string(pid) + "/exe", dead) == program;
    };
    if (await([&] { return runs() || !state_of_process(pid).alive; }) && runs()) {
      const ProcessState before = state_of_process(pid);
      expect_parts(adopt(pid), 3, {"32-bit", "Run a 64-bit build"});
      EXPECT_EQ(state_of_process(pid), before);
      std::cout << "refused: " << program << "\n";
      refused = true;
    }
    end_and_reap(pid);
  }
  EXPECT_TRUE(refused) << "neither program runs here";
  expect_as_remembered();
}

// The file says what a VM begins with, not what one that is there should become.
TEST_F(Adoption, IsWhenSettingsAreTakenFromTheConfiguration) {
  start();
  const PlannedMemory memory(8 * kMiB);
  const ChildProcess first([&] { return have_memory(memory); });
  ASSERT_READY(first);
  adopt_whole(first.pid(), memory.range(), {"--name", "first"});
  const auto settings = [&](const char* name) { return ask({"vm", "show", name}).at("settings"); };
  const boost::json::value before = settings("first");
  agent().write_settings({{"mode", "\"dry-run\""},
                          {"defaults.guarantee", "\"25%\""},
                          {"rule", "[{match = {domain = \"*\"}, stall_budget = \"7%\"}]"}});
  agent().reload();
  EXPECT_EQ(settings("first"), before);
  const ChildProcess second([&] { return have_memory(memory); });
  ASSERT_READY(second);
  adopt_whole(second.pid(), memory.range(), {"--name", "second"});
  const boost::json::value after = settings("second");
  EXPECT_EQ(after.at("mode"), "dry-run");
  EXPECT_EQ(after.at("guarantee_bytes").to_number<std::uint64_t>(), 2 * kMiB);
  EXPECT_EQ(after.at("stall_budget").to_number<double>(), 0.07);
  for (const char* name : {"first", "second"}) EXPECT_EQ(release(name).code, 0);
}

TEST_F(Adoption, OfWhatIsAdoptedFailsAndChangesNothing) {
  start();
  const PlannedMemory memory(8 * kMiB);
  const ChildProcess child([&] { return have_memory(memory); });
  ASSERT_READY(child);
  const ProcessState before = state_of_process(child.pid());
  const std::string name = adopt_whole(child.pid(), memory.range());
  const ProcessState adopted = state_of_process(child.pid());
  EXPECT_EQ(adopted.watched_mappings, 1u);
  for (const Words& check : std::vector<Words>{{}, {"--check"}})
    expect_parts(adopt(child.pid(), memory.range(), check), 1, {"it is adopted already, as " + name});
  EXPECT_EQ(state_of_process(child.pid()), adopted);
  // Another process may not have its name.
  const ChildProcess other([&] { return have_memory(memory); });
  ASSERT_READY(other);
  expect_parts(adopt(other.pid(), memory.range(), {"--name", name}), 1, {name, "it is taken; choose another"});
  expect_parts(adopt(other.pid(), memory.range(), {"--name", "web 3"}), 1, {"web 3", "letters, digits"});
  EXPECT_EQ(release(name).code, 0);
  EXPECT_TRUE(await([&] { return state_of_process(child.pid()) == before; }))
      << ::testing::PrintToString(state_of_process(child.pid())) << "\nwas\n"
      << ::testing::PrintToString(before);
  expect_as_remembered();
}

TEST_F(Adoption, ByTwoAtOnceSucceedsOnceAndLeavesTheOtherWithAReason) {
  start();
  const PlannedMemory memory(8 * kMiB);
  const ChildProcess child([&] { return have_memory(memory); });
  ASSERT_READY(child);
  const ProcessState before = state_of_process(child.pid());
  for (unsigned round = 0; round < rounds(4); ++round) {
    std::vector<Outcome> outcomes(4);
    std::vector<std::thread> askers;
    for (Outcome& outcome : outcomes) askers.emplace_back([&] { outcome = adopt(child.pid(), memory.range()); });
    for (std::thread& asker : askers) asker.join();
    unsigned succeeded = 0;
    for (const Outcome& outcome : outcomes) {
      succeeded += outcome.code == 0 ? 1 : 0;
      if (outcome.code == 0) continue;
      EXPECT_EQ(outcome.code, 1) << outcome.all();
      EXPECT_TRUE(outcome.err.find("another request is adopting it") != std::string::npos ||
                  outcome.err.find("it is adopted already") != std::string::npos)
          << outcome.all();
    }
    EXPECT_EQ(succeeded, 1u);
    ASSERT_EQ(vms(), 1u);
    const std::string name(ask({"vm", "list"}).at("items").at(0).at("name").as_string());
    ASSERT_EQ(release(name).code, 0);
    EXPECT_TRUE(await([&] { return state_of_process(child.pid()) == before; }));
  }
  expect_as_remembered();
}

// A process of its own whose pid the test may hand to another: the child of a fork that nobody else waits for.
pid_t start_with_pid(const PlannedMemory& memory, pid_t wanted) {
  clone_args arguments{};
  arguments.exit_signal = SIGCHLD;
  if (wanted != 0) {
    arguments.set_tid = reinterpret_cast<std::uint64_t>(&wanted);
    arguments.set_tid_size = 1;
  }
  const auto pid = static_cast<pid_t>(::syscall(SYS_clone3, &arguments, sizeof arguments));
  if (pid != 0) return pid;
  static_cast<void>(memory.make());
  for (;;) ::pause();
}

TEST_F(Adoption, OfAProcessThatDiesMeanwhileLeavesNothing) {
  start();
  const unsigned seed = std::random_device{}();
  std::cout << "seed " << seed << "\n";
  std::mt19937 random(seed);
  const PlannedMemory memory(4 * kMiB);
  unsigned adopted = 0;
  const unsigned total = rounds(30);
  for (unsigned round = 0; round < total; ++round) {
    const pid_t pid = start_with_pid(memory, 0);
    ASSERT_GT(pid, 0);
    Outcome outcome;
    std::thread asker([&] { outcome = adopt(pid, memory.range()); });
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 60'000));
    end_and_reap(pid);
    asker.join();
    EXPECT_TRUE(outcome.code == 0 || outcome.code == 1 || outcome.code == 3) << outcome.all();
    adopted += outcome.code == 0 ? 1 : 0;
    if (outcome.code != 0) {
      EXPECT_NE(outcome.err.find(std::to_string(pid)), std::string::npos) << outcome.all();
    }
  }
  std::cout << adopted << " of " << total << " were adopted before they died\n";
  EXPECT_TRUE(await([&] { return vms() == 0; }));
  expect_as_remembered();
  EXPECT_EQ(
      read_file("/proc/" + std::to_string(agent().pid()) + "/task/" + std::to_string(agent().pid()) + "/children"), "");
}

TEST_F(Adoption, OfAPidThatIsGivenToAnotherNeverTouchesThatOneUnasked) {
  start();
  const unsigned seed = std::random_device{}();
  std::cout << "seed " << seed << "\n";
  std::mt19937 random(seed);
  const PlannedMemory memory(4 * kMiB);
  for (unsigned round = 0; round < rounds(30); ++round) {
    const pid_t pid = start_with_pid(memory, 0);
    ASSERT_GT(pid, 0);
    Outcome outcome;
    std::thread asker([&] { outcome = adopt(pid, memory.range()); });
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 60'000));
    end_and_reap(pid);
    const pid_t next = start_with_pid(memory, pid);
    const int error = errno;
    asker.join();
    if (next != pid) GTEST_SKIP() << "no process can be given a pid here: " << std::strerror(error);
    EXPECT_TRUE(await([&] { return state_of_process(pid).state == 'S'; }));
    // It may have been adopted itself, when the agent first looked after the change; then it is released like any
    // other.
    bool it_is_adopted = false;
    const auto list = ask({"vm", "list"});
    for (const auto& vm : list.at("items").as_array()) {
      const std::string name(vm.at("name").as_string());
      const Outcome released = release(name);
      it_is_adopted = it_is_adopted || released.code == 0;
    }
    EXPECT_TRUE(await([&] { return vms() == 0; }));
    // The kernel's worker thread for a ring ends a moment after the ring.
    EXPECT_TRUE(await([&] { return state_of_process(pid).threads.size() == 1; }));
    const ProcessState state = state_of_process(pid);
    EXPECT_TRUE(state.alive);
    EXPECT_EQ(state.tracer, 0);
    EXPECT_EQ(state.watched_mappings, 0u);
    for (const auto& [number, what] : state.descriptors)
      EXPECT_EQ(what.find("userfaultfd"), std::string::npos) << number;
    end_and_reap(pid);
  }
  expect_as_remembered();
}

// Descriptors are counted everywhere; here is memory. What a round forgets would be there twenty times: a page map
// alone takes 128 KiB.
TEST_F(Adoption, AgainAndAgainTakesNoMemoryForGood) {
  start();
  if (is_sanitized(agent().pid())) GTEST_SKIP() << "a sanitizer keeps what is freed; the release build checks this";
  const PlannedMemory memory(64 * kMiB);
  const pid_t pid = start_with_pid(memory, 0);
  ASSERT_GT(pid, 0);
  EXPECT_TRUE(await([&] { return state_of_process(pid).state == 'S'; }));
  const AddressRange nowhere{0x10000, 0x10000 + kPageSize};
  const auto one_round = [&] {
    ASSERT_EQ(adopt(pid, memory.range(), {"--name", "again", "--mode", "active"}).code, 0);
    agent().expect({"vm", "set", "again", "--guarantee", "0", "--limit", "8MiB"}, 0);
    EXPECT_TRUE(await([&] { return ask({"vm", "show", "again"}).at("memory").at("far_bytes").as_int64() > 0; }));
    ASSERT_EQ(release("again").code, 0);
    EXPECT_NE(adopt(pid, nowhere).code, 0);
  };
  for (unsigned round = 0; round < 5 && !HasFatalFailure(); ++round) one_round();
  const auto taken = [&] { return own_memory_kib(agent().pid()) + own_memory_kib(agent().keeper()); };
  const std::uint64_t before = taken();
  const unsigned total = rounds(20);
  for (unsigned round = 0; round < total && !HasFatalFailure(); ++round) one_round();
  // Operations, events and decisions are remembered, up to a bound: some KiB of each round.
  const std::uint64_t most = before + 512 + std::uint64_t{16} * total;
  EXPECT_TRUE(await([&] { return taken() <= most; }))
      << taken() << " KiB are agent's and keeper's, " << before << " before";
  std::cout << before << " KiB, then " << taken() << "\n";
  end_and_reap(pid);
  expect_as_remembered();
}

// Made, unmade and made again at the same place, for ever.
void keep_changing(const PlannedMemory& memory, unsigned seed) {
  std::mt19937 random(seed);
  for (;;) {
    static_cast<void>(memory.make());
    ::usleep(static_cast<useconds_t>(random() % 3000));
    memory.unmake();
    ::usleep(static_cast<useconds_t>(random() % 500));
  }
}

TEST_F(Adoption, OfMemoryThatComesAndGoesFailsOrHoldsAndIsUndone) {
  start();
  const PlannedMemory memory(4 * kMiB);
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::close_range(3, ~0u, 0);
    keep_changing(memory, 1);
  }
  EXPECT_TRUE(await([&] { return open_descriptors(pid) == 3; }));
  const ProcessState before = state_of_process(pid);
  unsigned adopted = 0;
  for (unsigned round = 0; round < rounds(20); ++round) {
    const Outcome outcome = adopt(pid, memory.range(), {"--name", "restless"});
    EXPECT_TRUE(outcome.code == 0 || outcome.code == 1 || outcome.code == 3) << outcome.all();
    if (outcome.code == 0) {
      ++adopted;
      EXPECT_EQ(release("restless").code, 0);
    } else {
      EXPECT_TRUE(outcome.all().find("nothing-to-manage") != std::string::npos ||
                  outcome.err.find("try again") != std::string::npos)
          << outcome.all();
    }
    EXPECT_TRUE(await([&] {
      const ProcessState now = state_of_process(pid);
      return now.descriptors == before.descriptors && now.watched_mappings == 0 && now.threads == before.threads;
    })) << ::testing::PrintToString(state_of_process(pid));
  }
  std::cout << adopted << " adoptions held\n";
  end_and_reap(pid);
  expect_as_remembered();
}

}  // namespace
}  // namespace tidepool::tests
