// Processes that rules adopt without anybody asking, and adoption by a VM's name and by control group.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/unique_fd.h"
#include "tests/integration/load/load_process.h"
#include "tests/support/agent_process.h"
#include "tests/support/process_state.h"

namespace tidepool::tests {
namespace {

namespace fs = std::filesystem;

// A control group of our own below a hierarchy that is mounted here; gone at the end.
class OwnGroup {
 public:
  OwnGroup() {
    const std::string name = "tidepool-test-" + std::to_string(::getpid());
    for (const char* root : {"/sys/fs/cgroup/unified", "/sys/fs/cgroup", "/sys/fs/cgroup/pids"}) {
      if (!fs::exists(std::string(root) + "/cgroup.procs") || ::mkdir((root + ("/" + name)).c_str(), 0755) != 0)
        continue;
      folder_ = root + ("/" + name);
      path_ = "/" + name;
      return;
    }
  }
  ~OwnGroup() {
    if (!valid()) return;
    await([&] { return ::rmdir(folder_.c_str()) == 0; });
  }
  OwnGroup(const OwnGroup&) = delete;
  OwnGroup& operator=(const OwnGroup&) = delete;

  bool valid() const { return !folder_.empty(); }
  bool add(pid_t pid) const { return bool(std::ofstream(folder_ + "/cgroup.procs") << pid << std::flush); }
  const std::string& path() const { return path_; }      // as in /proc/PID/cgroup
  const std::string& folder() const { return folder_; }  // below the mount point

 private:
  std::string folder_;
  std::string path_;
};

class ByRule : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = why_no_agent(); !why.empty()) GTEST_SKIP() << why;
    // Programs that only this test runs, so that it adopts nobody else's.
    for (const char* name : {"web", "db"}) {
      fs::create_directories(agent_.folder() / "bin");
      fs::copy_file(bin_folder() + "/tidepool-load", program(name), fs::copy_options::overwrite_existing);
    }
  }
  std::string program(const std::string& name) const { return agent_.folder() / ("bin/" + name); }

  void write_config(const std::string& rules, const Settings& more = {}) {
    Settings settings{{"adopt.auto", "true"},
                      {"adopt.scan_interval", "\"100ms\""},
                      {"adopt.allow_exe", "[\"" + program("*") + "\"]"},
                      {"defaults.guarantee", "\"0%\""}};
    for (const auto& [key, value] : more) settings[key] = value;
    agent_.write_settings(settings);
    std::ofstream(agent_.config(), std::ios::app) << rules;
  }
  static std::vector<std::string> words(const std::string& memory = "private") {
    return {"--memory", memory, "--size", "8MiB", "--duration", "0", "--rate", "1000", "--threads", "1"};
  }

  std::string list() const { return agent_.expect({"vm", "list", "-q"}, 0); }
  bool adopted(pid_t pid) const {
    return await([&] { return list().find("-" + std::to_string(pid)) != std::string::npos; });
  }
  std::string name_of(const std::string& comm, pid_t pid) const { return comm + "-" + std::to_string(pid); }
  // How often the agent has searched is told by what it does for others: this one is adopted in a later search.
  void let_it_search_twice() {
    for (int i = 0; i < 2; ++i) {
      load::LoadProcess marker(words(), program("web"));
      marker.wait_until_ready();
      ASSERT_TRUE(adopted(marker.pid()));
      marker.signal(SIGTERM);
      marker.wait_for_exit();
    }
  }

  AgentProcess agent_;
};

const std::string kWebRule = "[[rule]]\nmatch = { exe = \"*/bin/web\" }\nmode = \"active\"\nlimit = \"25%\"\n";

TEST_F(ByRule, AdoptsWhatMatchesAndNothingElse) {
  write_config(kWebRule);
  load::LoadProcess before(words(), program("web"));
  before.wait_until_ready();
  load::LoadProcess other(words(), program("db"));
  other.wait_until_ready();
  ASSERT_TRUE(agent_.start());
  EXPECT_TRUE(adopted(before.pid())) << "it ran before the agent";
  load::LoadProcess after(words("memfd"), program("web"));
  after.wait_until_ready();
  EXPECT_TRUE(adopted(after.pid())) << "it was started later";
  let_it_search_twice();
  EXPECT_EQ(list().find(std::to_string(other.pid())), std::string::npos);
  const std::string shown = agent_.expect({"vm", "show", name_of("web", before.pid())}, 0);
  EXPECT_NE(shown.find("by rule"), std::string::npos) << shown;
  EXPECT_NE(shown.find("active"), std::string::npos) << shown;
  EXPECT_NE(shown.find("2.0M"), std::string::npos) << "the limit of its rule\n" << shown;
  for (load::LoadProcess* load : {&before, &after, &other}) {
    load->signal(SIGTERM);
    EXPECT_EQ(load->wait_for_exit(), 0);
  }
}

TEST_F(ByRule, FollowsTheConfigurationWhenItIsReadAgain) {
  write_config("[[rule]]\nmatch = { exe = \"*/bin/db\" }\n");
  load::LoadProcess web(words(), program("web"));
  web.wait_until_ready();
  ASSERT_TRUE(agent_.start());
  write_config(kWebRule);
  agent_.reload();
  EXPECT_TRUE(adopted(web.pid()));
}

TEST_F(ByRule, MatchesControlGroups) {
  const OwnGroup group;
  if (!group.valid()) GTEST_SKIP() << "no control group can be made here";
  write_config("[[rule]]\nmatch = { cgroup = \"" + group.path() + "*\" }\n[[rule]]\nmatch = { exe = \"*/bin/web\" }\n");
  load::LoadProcess member(words(), program("db"));
  load::LoadProcess stranger(words(), program("db"));
  member.wait_until_ready();
  stranger.wait_until_ready();
  ASSERT_TRUE(group.add(member.pid()));
  ASSERT_TRUE(agent_.start());
  EXPECT_TRUE(adopted(member.pid()));
  let_it_search_twice();
  EXPECT_EQ(list().find(std::to_string(stranger.pid())), std::string::npos);
  // It joins while the agent runs.
  ASSERT_TRUE(group.add(stranger.pid()));
  EXPECT_TRUE(adopted(stranger.pid()));
}

TEST_F(ByRule, MatchesTheNamesOfVms) {
  write_config("[[rule]]\nmatch = { domain = \"db-*\" }\nclass = \"gold\"\n");
  load::LoadProcess db(words(), program("db"));
  db.wait_until_ready();
  ASSERT_TRUE(agent_.start());
  EXPECT_TRUE(adopted(db.pid()));
  EXPECT_NE(agent_.expect({"vm", "show", name_of("db", db.pid())}, 0).find("gold"), std::string::npos);
}

// Another process that holds a descriptor of the memory is in the way, until it lets go.
TEST_F(ByRule, RemembersARefusalAndTriesAgain) {
  write_config(kWebRule + "[[rule]]\nmatch = { exe = \"*/bin/db\" }\n");
  load::LoadProcess db(words("memfd"), program("db"));
  db.wait_until_ready();
  const std::string memory = [&] {
    for (const auto& [number, what] : state_of_process(db.pid()).descriptors) {
      if (what.starts_with("/memfd:")) return "/proc/" + std::to_string(db.pid()) + "/fd/" + std::to_string(number);
    }
    return std::string();
  }();
  ASSERT_FALSE(memory.empty());
  {
    const UniqueFd in_the_way{::open(memory.c_str(), O_RDONLY | O_CLOEXEC)};
    ASSERT_TRUE(in_the_way.valid());
    ASSERT_TRUE(agent_.start());
    const std::string name = name_of("db", db.pid());
    EXPECT_TRUE(await([&] {
      return agent_.tidectl({"vm", "events", name}).out.find("holds a descriptor of the same memory") !=
             std::string::npos;
    }));
    let_it_search_twice();
    const std::string log = agent_.log();
    const std::string line = "not adopted by rule";
    EXPECT_EQ(log.find(line), log.rfind(line)) << "told once, not at every search";
    EXPECT_EQ(list().find(name), std::string::npos);
    const auto refused = [&] {
      return boost::json::parse(agent_.expect({"vm", "list", "-o", "json"}, 0)).at("refused").as_array();
    };
    ASSERT_EQ(refused().size(), 1u);
    EXPECT_EQ(refused()[0].at("name").as_string(), name);
    EXPECT_EQ(refused()[0].at("pid").as_int64(), db.pid());
    EXPECT_NE(agent_.expect({"vm", "list"}, 0).find("refused"), std::string::npos);
  }
  EXPECT_TRUE(adopted(db.pid())) << "its reason has gone";
  EXPECT_TRUE(await([&] { return agent_.expect({"vm", "list"}, 0).find("refused") == std::string::npos; }));
}

TEST_F(ByRule, LeavesAloneWhatAPersonReleased) {
  write_config(kWebRule);
  load::LoadProcess web(words(), program("web"));
  web.wait_until_ready();
  ASSERT_TRUE(agent_.start());
  ASSERT_TRUE(adopted(web.pid()));
  const std::string name = name_of("web", web.pid());
  agent_.expect({"vm", "release", name}, 0);
  let_it_search_twice();
  EXPECT_EQ(list().find(name), std::string::npos);
  agent_.reload();
  EXPECT_TRUE(adopted(web.pid())) << "a new configuration is a new wish";
}

TEST_F(ByRule, KeepsToTheBoundOnActiveVms) {
  write_config(kWebRule, {{"safety.max_active_vms", "1"}});
  load::LoadProcess first(words(), program("web"));
  load::LoadProcess second(words(), program("web"));
  first.wait_until_ready();
  second.wait_until_ready();
  ASSERT_TRUE(agent_.start());
  ASSERT_TRUE(adopted(first.pid()));
  ASSERT_TRUE(adopted(second.pid()));
  const auto mode = [&](pid_t pid) {
    return agent_.expect({"vm", "show", name_of("web", pid), "-o", "json"}, 0).find("\"mode\": \"active\"") !=
                   std::string::npos
               ? 1
               : 0;
  };
  EXPECT_EQ(mode(first.pid()) + mode(second.pid()), 1);
  const pid_t observed = mode(first.pid()) == 1 ? second.pid() : first.pid();
  EXPECT_NE(agent_.expect({"vm", "events", name_of("web", observed)}, 0).find("stays in observe mode"),
            std::string::npos);
}

TEST_F(ByRule, EndsInOrderWithWhatItAdopted) {
  write_config(kWebRule);
  load::LoadProcess web(words(), program("web"));
  web.wait_until_ready();
  // Its threads come and go while it starts.
  ProcessState before = state_of_process(web.pid());
  EXPECT_TRUE(await([&] {
    const ProcessState now = state_of_process(web.pid());
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    before = state_of_process(web.pid());
    return now == before;
  }));
  ASSERT_TRUE(agent_.start());
  ASSERT_TRUE(adopted(web.pid()));
  EXPECT_EQ(agent_.stop(), 0);
  // Released at the end, and not adopted again meanwhile. The ring's thread ends in its own time.
  EXPECT_TRUE(await([&] { return state_of_process(web.pid()) == before; }))
      << testing::PrintToString(state_of_process(web.pid()));
}

class ByName : public ByRule {};

TEST_F(ByName, AdoptsAControlGroupByItsPathInEveryForm) {
  const OwnGroup group;
  if (!group.valid()) GTEST_SKIP() << "no control group can be made here";
  write_config("", {{"adopt.auto", "false"}});
  load::LoadProcess large({"--memory", "private", "--size", "16MiB", "--duration", "0", "--rate", "1000"},
                          program("db"));
  load::LoadProcess small(words(), program("db"));
  large.wait_until_ready();
  small.wait_until_ready();
  ASSERT_TRUE(group.add(large.pid()));
  ASSERT_TRUE(group.add(small.pid()));
  ASSERT_TRUE(agent_.start());
  for (const std::string& path : {group.path(), group.folder(), group.path().substr(1)}) {
    const std::string checked = agent_.expect({"vm", "adopt", "--cgroup", path, "--check"}, 0);
    EXPECT_NE(checked.find(std::to_string(large.pid())), std::string::npos) << "the one with most memory\n" << checked;
  }
  agent_.expect({"vm", "adopt", "--cgroup", group.path()}, 0);
  EXPECT_EQ(list(), name_of("db", large.pid()) + "\n");
  EXPECT_NE(agent_.expect({"vm", "adopt", "--cgroup", group.path() + "/none"}, 2).find("/proc/PID/cgroup"),
            std::string::npos);
  EXPECT_NE(agent_.expect({"vm", "adopt", "--cgroup", "/"}, 2).find("in which all processes are"), std::string::npos);
}

TEST_F(ByName, AdoptsAVmByItsName) {
  const std::string qemu = "/usr/bin/qemu-system-x86_64";
  if (::access(qemu.c_str(), X_OK) != 0) GTEST_SKIP() << qemu << " is not installed";
  write_config("", {{"adopt.auto", "false"}, {"adopt.allow_exe", "[\"/usr/bin/qemu-system-*\"]"}});
  const std::string name = "tidepool-test-" + std::to_string(::getpid());
  load::LoadProcess guest({"-name", "guest=" + name + ",debug-threads=on", "-machine", "pc", "-accel", "tcg", "-m",
                           "64", "-display", "none", "-nodefaults", "-S", "-monitor", "none", "-serial", "none"},
                          qemu);
  ASSERT_TRUE(agent_.start());
  // Its name is there before its memory is.
  ASSERT_TRUE(await([&] {
    return agent_.tidectl({"vm", "adopt", "--domain", name, "--check"}).out.find("64.0M") != std::string::npos;
  }));
  agent_.expect({"vm", "adopt", "--domain", name}, 0);
  EXPECT_EQ(list(), name + "\n");
  EXPECT_NE(agent_.expect({"vm", "show", name}, 0).find("64.0M"), std::string::npos);
  EXPECT_NE(agent_.expect({"vm", "adopt", "--domain", name}, 1).find("adopted already"), std::string::npos);
  agent_.expect({"vm", "release", name}, 0);
  EXPECT_NE(agent_.expect({"vm", "adopt", "--domain", name + "-none"}, 1).find("--pid"), std::string::npos);
}

}  // namespace
}  // namespace tidepool::tests
