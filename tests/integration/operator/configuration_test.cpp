// Configuration files that are no good: each is named with the remedy, and none is used in part.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "tests/support/agent_process.h"

namespace tidepool::tests {
namespace {

// What the agent's own check and tidectl say of a file, which must be the same verdict.
void expect_problem(const std::string& file, const std::string& part, const Words& prefix = {}) {
  for (const Words& words : std::vector<Words>{{bin_folder() + "/tidepoold", "--check-config", file},
                                               {bin_folder() + "/tidectl", "config", "check", file},
                                               {bin_folder() + "/tidepoold", "--config", file}}) {
    Words all = prefix;
    all.insert(all.end(), words.begin(), words.end());
    const Outcome outcome = run_program(all);
    EXPECT_EQ(outcome.code, 1) << words[1] << "\n" << outcome.all();
    EXPECT_NE(outcome.err.find(file), std::string::npos) << outcome.all();
    EXPECT_NE(outcome.err.find(part), std::string::npos) << "wanted: " << part << "\n" << outcome.all();
  }
}

std::string write(const TestFolder& folder, const std::string& name, const std::string& text) {
  std::ofstream(folder / name, std::ios::binary) << text;
  return folder / name;
}

TEST(ConfigurationFile, ThatCannotBeReadIsNamedWithTheReason) {
  const TestFolder folder;
  expect_problem(folder / "absent.toml", "No such file or directory");
  std::filesystem::create_directory(folder / "folder.toml");
  expect_problem(folder / "folder.toml", "regular file");
  ASSERT_EQ(::mkfifo((folder / "fifo.toml").c_str(), 0600), 0);
  expect_problem(folder / "fifo.toml", "regular file");
  expect_problem("/dev/zero", "regular file");
  expect_problem(write(folder, "huge.toml", std::string(2u << 20, '#')), "at most 1 MiB");
  expect_problem(write(folder, "empty.toml", ""), "schema = 1");
  std::string binary(4096, '\0');
  std::mt19937 random(7);
  for (char& c : binary) c = static_cast<char>(random());
  expect_problem(write(folder, "binary.toml", binary), ":1:");
}

TEST(ConfigurationFile, WithoutPermissionIsNamed) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to become somebody else";
  if (::access("/usr/bin/setpriv", X_OK) != 0) GTEST_SKIP() << "setpriv is not installed";
  const TestFolder folder;
  ASSERT_EQ(::chmod(folder.path().c_str(), 0755), 0);
  ::chmod(write(folder, "secret.toml", "schema = 1\n").c_str(), 0600);
  // As somebody else the programs themselves may not be reachable: copies in a folder that is.
  for (const char* program : {"tidepoold", "tidectl"})
    std::filesystem::copy_file(bin_folder() + "/" + program, folder / program);
  for (const Words& words : std::vector<Words>{{folder / "tidepoold", "--check-config", folder / "secret.toml"},
                                               {folder / "tidectl", "config", "check", folder / "secret.toml"}}) {
    Words all{"/usr/bin/setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"};
    all.insert(all.end(), words.begin(), words.end());
    const Outcome outcome = run_program(all);
    EXPECT_EQ(outcome.code, 1) << outcome.all();
    EXPECT_NE(outcome.err.find("Permission denied"), std::string::npos) << outcome.all();
  }
}

TEST(ConfigurationFile, ThatIsHalfWrittenIsNeverUsedInPart) {
  const TestFolder folder;
  const std::string whole = read_file(TIDEPOOL_SOURCE_DIR "/systemd/tidepool.toml");
  ASSERT_FALSE(whole.empty());
  EXPECT_EQ(run_program({"tidepoold", "--check-config", write(folder, "whole.toml", whole)}).code, 0);
  for (std::size_t length = 0; length < whole.size(); length += 97) {
    const Outcome outcome =
        run_program({"tidepoold", "--check-config", write(folder, "half.toml", whole.substr(0, length))});
    EXPECT_TRUE(outcome.code == 0 || outcome.code == 1) << length << "\n" << outcome.all();
    EXPECT_EQ(outcome.code == 0, outcome.err.empty()) << length << "\n" << outcome.all();
  }
}

TEST(ConfigurationFile, ThatContradictsItselfNamesBothKeys) {
  const TestFolder folder;
  const std::vector<std::pair<std::string, std::vector<std::string>>> contradictions{
      {"[defaults]\nguarantee = \"60%\"\nlimit = \"40%\"\n", {"defaults.limit", "defaults.guarantee"}},
      {"[safety]\nhost_reserve = \"60%\"\n[pool.embedded]\ncapacity = \"60%\"\n",
       {"pool.embedded.capacity", "safety.host_reserve"}},
      {"[pool.embedded]\npath = \"/dev/dax0.0\"\n", {"pool.embedded.path", "pool.embedded.store"}},
      {"[pool.embedded]\nstore = \"mapped\"\ncodec = \"zstd\"\n", {"pool.embedded.codec", "pool.embedded.store"}},
      {"[adopt]\nallow_ptrace = false\n", {"adopt.allow_ptrace", "adopt.handoff_socket"}},
      {"[adopt]\nauto = true\n", {"adopt.auto", "[[rule]]"}},
      {"[safety]\ncanary_time = \"1h\"\n", {"safety.canary_time", "safety.max_active_vms"}},
      {"[api]\nsocket = \"/run/a.sock\"\n[keeper]\nsocket = \"/run/a.sock\"\n", {"keeper.socket", "api.socket"}},
      {"[defaults]\nmin_cold_age = \"10ms\"\n", {"defaults.min_cold_age", "policy.tick"}},
      {"[[rule]]\nmode = \"active\"\n", {"rule[0]", "match.domain"}},
  };
  for (const auto& [text, keys] : contradictions) {
    const std::string file = write(folder, "agent.toml", "schema = 1\n" + text);
    for (const std::string& key : keys) expect_problem(file, key);
  }
}

class Reload : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = why_no_agent(); !why.empty()) GTEST_SKIP() << why;
  }
};

TEST_F(Reload, OfABrokenFileKeepsTheOldOneAndSaysSo) {
  AgentProcess agent;
  ASSERT_TRUE(agent.start());
  const std::string right = read_file(agent.config());
  const std::string in_force = agent.expect({"config", "show", "-o", "json"}, 0);
  for (const std::string& broken : {right + "mode = \"fast\"\n", right.substr(0, right.size() / 2) + "\n= ?",
                                    std::string(), right + "safety.host_reserve = \"100%\"\n"}) {
    agent.write_config(broken);
    agent.reload();
    EXPECT_TRUE(agent.running());
    const std::string shown = agent.expect({"config", "show"}, 0);
    EXPECT_NE(shown.find("last reload failed"), std::string::npos) << shown;
    EXPECT_NE(agent.expect({"status"}, 0).find("last reload failed"), std::string::npos);
    EXPECT_NE(agent.log().find("not reloaded"), std::string::npos);
    agent.expect({"config", "diff"}, 1);
  }
  std::filesystem::remove(agent.config());
  agent.reload();
  EXPECT_NE(agent.expect({"config", "show"}, 0).find("No such file"), std::string::npos);
  agent.write_config(right);
  agent.reload();
  EXPECT_EQ(agent.expect({"status"}, 0).find("last reload failed"), std::string::npos);
  // The same values as before all this.
  const auto values = [](const std::string& document) { return document.substr(document.find("\"values\"")); };
  EXPECT_EQ(values(agent.expect({"config", "show", "-o", "json"}, 0)), values(in_force));
}

TEST_F(Reload, AppliesWhatCanChangeAndNamesWhatWaits) {
  AgentProcess agent;
  ASSERT_TRUE(agent.start());
  agent.write_settings({{"defaults.guarantee", "\"30%\""},
                        {"api.workers", "3"},
                        {"pager.grace", "\"30ms\""},
                        {"log.level", "\"debug\""}});
  const std::string diff = agent.expect({"config", "diff"}, 0);
  for (const char* part : {"defaults.guarantee", "\"50%\"", "\"30%\"", "api.workers", "restart", "reload"})
    EXPECT_NE(diff.find(part), std::string::npos) << part << "\n" << diff;
  agent.reload();
  const std::string shown = agent.expect({"config", "show"}, 0);
  EXPECT_NE(shown.find("waits for a restart: api.workers"), std::string::npos) << shown;
  EXPECT_NE(shown.find("30%"), std::string::npos) << shown;
  // What waits is not shown as if it were in force.
  const std::string after = agent.expect({"config", "diff"}, 0);
  EXPECT_NE(after.find("api.workers"), std::string::npos) << after;
  EXPECT_EQ(after.find("defaults.guarantee"), std::string::npos) << after;
}

// What was resized by hand stays so, as long as the agent does.
TEST_F(Reload, LeavesAPoolThatWasResizedAsItIs) {
  AgentProcess agent;
  ASSERT_TRUE(agent.start());
  const std::string done = agent.expect({"pool", "resize", "--size", "64MiB", "--yes"}, 0);
  EXPECT_NE(done.find("to keep it, set pool.embedded.capacity to \"64MiB\""), std::string::npos) << done;
  agent.write_settings({{"defaults.guarantee", "\"30%\""}});
  agent.reload();
  EXPECT_NE(agent.expect({"pool", "status"}, 0).find("of 64.0M"), std::string::npos);
  EXPECT_EQ(agent.stop(), 0);
  ASSERT_TRUE(agent.start());
  EXPECT_NE(agent.expect({"pool", "status"}, 0).find("of 128M"), std::string::npos);
  // One that the file says is another matter.
  agent.write_settings({{"pool.embedded.capacity", "\"96MiB\""}});
  agent.reload();
  EXPECT_NE(agent.expect({"pool", "status"}, 0).find("of 96.0M"), std::string::npos);
}

}  // namespace
}  // namespace tidepool::tests
