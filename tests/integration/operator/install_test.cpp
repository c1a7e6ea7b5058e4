// What an installation puts onto a host: a set that works, with the rights that its units leave it.
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <regex>
#include <set>

#include "kmod-interfaces/lock_file.h"
#include "tests/integration/operator/adoption_case.h"
#include "tests/support/child_process.h"
#include "tests/support/planned_memory.h"

namespace tidepool::tests {
namespace {

Outcome install(const std::string& prefix) {
  return run_program({TIDEPOOL_CMAKE, "--install", TIDEPOOL_BINARY_DIR, "--prefix", prefix});
}

std::string first_match(const std::string& text, const std::string& pattern) {
  std::smatch found;
  return std::regex_search(text, found, std::regex(pattern)) ? found[1].str() : "";
}

class Install : public AdoptionCase {
 protected:
  void SetUp() override {
    AdoptionCase::SetUp();
    const Outcome outcome = install(prefix_.path());
    ASSERT_EQ(outcome.code, 0) << outcome.all();
  }
  std::string unit(const std::string& name) const { return read_file(prefix_ / ("lib/systemd/system/" + name)); }

  const TestFolder prefix_;
};

TEST_F(Install, StaysBelowItsPrefixAndNamesWhatIsThere) {
  for (const char* program : {"tidepoold", "tidepool-adopt", "tidepool-keeper", "tidepool-memd", "tidepool-controller",
                              "tidectl", "tidepool-load"})
    EXPECT_EQ(::access((prefix_ / ("bin/" + std::string(program))).c_str(), X_OK), 0) << program;
  for (const char* name :
       {"tidepoold.service", "tidepool-keeper.service", "tidepool-memd.service", "tidepool-controller.service"}) {
    const std::string text = unit(name);
    // A place that was not filled in; systemd's own sets of system calls have one such sign.
    EXPECT_FALSE(std::regex_search(text, std::regex("@[A-Z_]+@"))) << text;
    const std::regex command("\nExec(?:Start|StartPre)=(\\S+)");
    const auto begin = std::sregex_iterator(text.begin(), text.end(), command);
    EXPECT_NE(begin, std::sregex_iterator()) << name;
    for (auto at = begin; at != std::sregex_iterator(); ++at) {
      EXPECT_TRUE((*at)[1].str().starts_with(prefix_.path())) << (*at)[1].str();
      EXPECT_EQ(::access((*at)[1].str().c_str(), X_OK), 0) << (*at)[1].str();
    }
    EXPECT_TRUE(std::filesystem::exists(first_match(text, "\nDocumentation=file:(\\S+)"))) << text;
  }
}

TEST_F(Install, ShippedConfigurationIsRightAndAnEditedOneIsKept) {
  const std::string config = first_match(unit("tidepoold.service"), "--config (\\S+)");
  ASSERT_EQ(config, prefix_ / "etc/tidepool/tidepool.toml");
  const Outcome check = run_program({prefix_ / "bin/tidepoold", "--check-config", config});
  EXPECT_EQ(check.code, 0) << check.all();
  std::ofstream(config, std::ios::app) << "# edited\n";
  EXPECT_EQ(install(prefix_.path()).code, 0);
  EXPECT_TRUE(read_file(config).ends_with("# edited\n"));
}

TEST_F(Install, SystemdAcceptsWhatIsInstalled) {
  if (::access("/usr/bin/systemd-analyze", X_OK) != 0) GTEST_SKIP() << "systemd is not installed";
  const std::string folder = prefix_ / "lib/systemd/system/";
  const Outcome verified =
      run_program({"/usr/bin/systemd-analyze", "verify", "--man=no", "--recursive-errors=no",
                   folder + "tidepoold.service", folder + "tidepool-keeper.service", folder + "tidepool-memd.service",
                   folder + "tidepool-controller.service", folder + "tidepool.slice"});
  std::istringstream lines(verified.all());
  for (std::string line; std::getline(lines, line);) EXPECT_EQ(line.find("tidepool"), std::string::npos) << line;
  const Outcome users =
      run_program({"/usr/bin/systemd-sysusers", "--dry-run", prefix_ / "lib/sysusers.d/tidepool.conf"});
  EXPECT_EQ(users.code, 0) << users.all();
  const TestFolder root;
  const Outcome files = run_program(
      {"/usr/bin/systemd-tmpfiles", "--root=" + root.path(), "--create", prefix_ / "lib/tmpfiles.d/tidepool.conf"});
  EXPECT_EQ(files.code, 0) << files.all();
  EXPECT_TRUE(std::filesystem::is_directory(root / "run/tidepool"));
  EXPECT_TRUE(std::filesystem::is_directory(root / "var/log/tidepool"));
}

// Helper and keeper are found beside the agent, wherever that is.
TEST_F(Install, WorksWhereItWasPut) {
  const std::string built = bin_folder();
  ::setenv("TIDEPOOL_BIN", (prefix_ / "bin").c_str(), 1);
  pid_t keeper = 0;
  {
    AgentProcess agent(Settings{{"keeper.program", "\"\""}});
    agent.launch();
    ASSERT_TRUE(agent.await_ready());
    keeper = kernel::lock_file_owner(agent.folder() / "keeper.sock.lock");
    ASSERT_GT(keeper, 0);
    EXPECT_EQ(std::filesystem::read_symlink("/proc/" + std::to_string(keeper) + "/exe"),
              prefix_ / "bin/tidepool-keeper");
    const PlannedMemory memory(4 * kMiB);
    const ChildProcess child([&] { return memory.make() != nullptr ? "" : "mmap"; });
    ASSERT_READY(child);
    agent.expect(
        {"vm", "adopt", "--pid", std::to_string(child.pid()), "--mapping", text_of(memory.range()), "--name", "one"},
        0);
    agent.expect({"vm", "release", "one"}, 0);
    EXPECT_EQ(agent.stop(), 0);
  }
  ::kill(keeper, SIGTERM);
  EXPECT_TRUE(await([&] { return !state_of_process(keeper).alive; }));
  ::setenv("TIDEPOOL_BIN", built.c_str(), 1);
}

// The unit's rights: its capabilities, no new ones, and a file system that is read-only but for what it may write.
bool confine(const std::set<std::string>& granted, const std::string& writable) {
  static const std::vector<std::pair<std::string, int>> kNames{{"CAP_CHOWN", CAP_CHOWN},
                                                               {"CAP_DAC_OVERRIDE", CAP_DAC_OVERRIDE},
                                                               {"CAP_DAC_READ_SEARCH", CAP_DAC_READ_SEARCH},
                                                               {"CAP_KILL", CAP_KILL},
                                                               {"CAP_IPC_LOCK", CAP_IPC_LOCK},
                                                               {"CAP_SYS_PTRACE", CAP_SYS_PTRACE},
                                                               {"CAP_SYS_ADMIN", CAP_SYS_ADMIN},
                                                               {"CAP_SYS_NICE", CAP_SYS_NICE},
                                                               {"CAP_SYS_RESOURCE", CAP_SYS_RESOURCE},
                                                               {"CAP_PERFMON", CAP_PERFMON},
                                                               {"CAP_BPF", CAP_BPF}};
  // As ProtectSystem=strict and ProtectHome=yes have it; best effort, for a container may not allow it.
  if (::unshare(CLONE_NEWNS) == 0) {
    ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
    ::mount(writable.c_str(), writable.c_str(), nullptr, MS_BIND, nullptr);
    ::mount(nullptr, "/", nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY, nullptr);
  }
  std::set<int> kept;
  for (const auto& [name, number] : kNames)
    if (granted.contains(name)) kept.insert(number);
  if (kept.size() != granted.size()) return false;  // a name that this test does not know
  for (int number = 0; number <= 63; ++number)
    if (!kept.contains(number) && ::prctl(PR_CAPBSET_READ, number) == 1 && ::prctl(PR_CAPBSET_DROP, number) != 0)
      return false;
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0;
}

TEST_F(Install, RightsOfTheUnitSufficeForEveryKindOfTarget) {
  std::set<std::string> granted;
  std::istringstream words(first_match(unit("tidepoold.service"), "\nCapabilityBoundingSet=([^\n]+)"));
  for (std::string word; words >> word;) granted.insert(word);
  ASSERT_FALSE(granted.empty());
  ASSERT_NE(unit("tidepoold.service").find("\nNoNewPrivileges=yes"), std::string::npos);
  agent_ = std::make_unique<AgentProcess>();
  ASSERT_TRUE(agent().start([&] { return confine(granted, agent().folder().path()); }));
  const std::string status = read_file("/proc/" + std::to_string(agent().pid()) + "/status");
  EXPECT_NE(status.find("NoNewPrivs:\t1"), std::string::npos);
  remember();

  const PlannedMemory memory(8 * kMiB);
  const auto become_nobody = [] { return ::setgid(65534) == 0 && ::setuid(65534) == 0; };
  const ChildProcess unprivileged(
      [&] { return memory.make() != nullptr && become_nobody() ? "" : "skip: cannot become somebody else"; });
  ASSERT_READY(unprivileged);
  const ChildProcess shared([&]() -> std::string {
    const int fd = ::memfd_create("cache", 0);
    if (::ftruncate(fd, 8 * kMiB) != 0 || memory.make(MAP_SHARED, fd) == nullptr || !become_nobody()) return "memfd";
    return "";
  });
  ASSERT_READY(shared);
  for (const ChildProcess* child : {&unprivileged, &shared}) {
    const ProcessState before = state_of_process(child->pid());
    const std::string name = adopt_whole(child->pid(), memory.range());
    ASSERT_FALSE(name.empty());
    EXPECT_EQ(release(name).code, 0);
    EXPECT_TRUE(await([&] { return state_of_process(child->pid()) == before; }));
  }
  expect_as_remembered();
}

}  // namespace
}  // namespace tidepool::tests
