// The systemd units: what systemd says of them, and what must never be in them.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <regex>
#include <sstream>
#include <string>

#include "tests/integration/control/raw_client.h"

namespace tidepool::daemon::testing {
namespace {

std::string read(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// As installed below /usr.
std::string built(const std::string& unit) {
  std::string text = read(TIDEPOOL_SOURCE_DIR "/systemd/" + unit + ".in");
  text = std::regex_replace(text, std::regex("@BINDIR@"), "/usr/bin");
  text = std::regex_replace(text, std::regex("@DOCDIR@"), "/usr/share/doc/tidepool/docs");
  text = std::regex_replace(text, std::regex("@MEMD_CONFIG@"), "/etc/tidepool/memd.toml");
  text = std::regex_replace(text, std::regex("@CONTROLLER_CONFIG@"), "/etc/tidepool/controller.toml");
  return std::regex_replace(text, std::regex("@CONFIG@"), "/etc/tidepool/tidepool.toml");
}

bool has(const std::string& unit, const std::string& directive) {
  return unit.starts_with(directive) || unit.find("\n" + directive) != std::string::npos;
}

TEST(Units, SystemdFindsNothingWrong) {
  if (std::system("command -v systemd-analyze >/dev/null 2>&1") != 0)
    GTEST_SKIP() << "systemd-analyze is not installed";
  const TemporaryFolder folder;
  std::string files;
  for (const char* unit :
       {"tidepoold.service", "tidepool-keeper.service", "tidepool-memd.service", "tidepool-controller.service"}) {
    std::string text = built(unit);
    ASSERT_FALSE(text.empty()) << unit;
    // Verification wants programs that exist: they do once installed.
    text = std::regex_replace(text, std::regex("(ExecStart|ExecStartPre)=\\S+"), "$1=/bin/true");
    std::ofstream(folder.path() + "/" + unit) << text;
    files += " " + folder.path() + "/" + unit;
  }
  std::filesystem::copy_file(TIDEPOOL_SOURCE_DIR "/systemd/tidepool.slice", folder.path() + "/tidepool.slice");
  const std::string command = "cd " + folder.path() +
                              " && SYSTEMD_LOG_LEVEL=warning systemd-analyze verify --man=no --recursive-errors=no" +
                              files + " ./tidepool.slice 2>&1";
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> pipe{::popen(command.c_str(), "r"), ::pclose};
  std::string output;
  for (int c = 0; pipe && (c = std::fgetc(pipe.get())) != EOF;) output += static_cast<char>(c);
  std::string ours;
  std::istringstream lines(output);
  for (std::string line; std::getline(lines, line);)
    if (line.find("tidepool") != std::string::npos) ours += line + "\n";
  EXPECT_EQ(ours, "") << output;
}

// A filtered tracer is denied PTRACE_O_SUSPEND_SECCOMP, and the adoption helper inherits the agent's filter.
TEST(Units, AgentIsNeverGivenASeccompFilter) {
  const std::string unit = built("tidepoold.service");
  for (const char* directive :
       {"SystemCallFilter=", "SystemCallArchitectures=", "SystemCallLog=", "PrivateDevices=", "ProtectKernelTunables=",
        "ProtectKernelModules=", "ProtectKernelLogs=", "ProtectClock=", "ProtectHostname=", "RestrictAddressFamilies=",
        "RestrictNamespaces=", "RestrictRealtime=", "RestrictSUIDSGID=", "LockPersonality=", "MemoryDenyWriteExecute="})
    EXPECT_FALSE(has(unit, directive)) << directive;
}

TEST(Units, AgentsMemoryIsProtectedAndNeverLimited) {
  for (const std::string& unit : {built("tidepoold.service"), built("tidepool-keeper.service"),
                                  read(TIDEPOOL_SOURCE_DIR "/systemd/tidepool.slice")}) {
    EXPECT_FALSE(has(unit, "MemoryHigh="));
    EXPECT_FALSE(has(unit, "MemoryMax="));
    EXPECT_FALSE(has(unit, "MemorySwapMax="));
  }
  EXPECT_TRUE(has(read(TIDEPOOL_SOURCE_DIR "/systemd/tidepool.slice"), "MemoryMin="));
  EXPECT_TRUE(has(built("tidepoold.service"), "OOMScoreAdjust=-1000"));
  EXPECT_TRUE(has(built("tidepoold.service"), "Slice=tidepool.slice"));
}

TEST(Units, EveryCapabilityIsExplained) {
  const std::string unit = built("tidepoold.service");
  const std::string marker = "\nCapabilityBoundingSet=";
  const std::size_t at = unit.find(marker);
  ASSERT_NE(at, std::string::npos);
  std::istringstream words(unit.substr(at + marker.size(), unit.find('\n', at + 1) - at - marker.size()));
  int count = 0;
  for (std::string word; words >> word; ++count) {
    ASSERT_TRUE(word.starts_with("CAP_")) << word;
    EXPECT_TRUE(has(unit, "# " + word.substr(4) + " ")) << word << " is granted without a reason";
  }
  EXPECT_GT(count, 0);
}

TEST(Units, MemoryServersAndControllersHaveNoPrivileges) {
  for (const std::string name : {"tidepool-memd", "tidepool-controller"}) {
    const std::string unit = built(name + ".service");
    EXPECT_TRUE(has(unit, "User=" + name + "\n"));
    EXPECT_TRUE(has(unit, "CapabilityBoundingSet=\n"));
    EXPECT_TRUE(has(unit, "NoNewPrivileges=yes"));
    EXPECT_NE(read(TIDEPOOL_SOURCE_DIR "/systemd/tidepool.sysusers").find("\nu " + name + " "), std::string::npos);
  }
}

TEST(Units, KeeperOutlivesTheAgent) {
  const std::string agent = built("tidepoold.service");
  EXPECT_TRUE(std::regex_search(agent, std::regex("\nAfter=[^\n]*tidepool-keeper.service")));
  for (const char* bond : {"BindsTo=", "PartOf=", "Requires="}) {
    EXPECT_FALSE(has(agent, bond));
    EXPECT_FALSE(has(built("tidepool-keeper.service"), bond));
  }
}

}  // namespace
}  // namespace tidepool::daemon::testing
