// Wrong flags and values that make no sense, for every program: what is wrong, where to look, and exit status 2.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/support/agent_process.h"

namespace tidepool::tests {
namespace {

void expect_usage(const Words& words) {
  const Outcome outcome = run_program(words);
  std::string line;
  for (const std::string& word : words) line += word + " ";
  EXPECT_EQ(outcome.code, 2) << line << "\n" << outcome.all();
  EXPECT_FALSE(outcome.err.empty()) << line;
  EXPECT_EQ(outcome.out, "") << line;
}

void expect_help(const std::string& program) {
  for (const char* flag : {"--help", "-h"}) {
    const Outcome outcome = run_program({program, flag});
    EXPECT_EQ(outcome.code, 0) << program << outcome.all();
    EXPECT_NE(outcome.out.find(program), std::string::npos) << outcome.all();
    EXPECT_EQ(outcome.err, "") << program;
  }
}

TEST(Usage, OfTheAgent) {
  expect_help("tidepoold");
  EXPECT_EQ(run_program({"tidepoold", "--version"}).code, 0);
  const TestFolder folder;
  std::ofstream(folder / "a.toml") << "schema = 1\n";
  expect_usage({"tidepoold", "--nonsense"});
  expect_usage({"tidepoold", "--config"});
  expect_usage({"tidepoold", folder / "a.toml"});
  expect_usage({"tidepoold", "--config", folder / "a.toml", folder / "a.toml"});
  expect_usage({"tidepoold", "--check-config"});
  expect_usage({"tidepoold", "--check-config", folder / "a.toml", "more"});
  expect_usage({"tidepoold", "--doctor", "--check-config", folder / "a.toml"});
  expect_usage({"tidepoold", "--json"});
}

TEST(Usage, OfHelperAndKeeper) {
  // The helper is started by the agent alone: whatever it is told otherwise, it does nothing.
  for (const Words& words :
       std::vector<Words>{{"tidepool-adopt"}, {"tidepool-adopt", "--pid", "1"}, {"tidepool-adopt", "x"}})
    expect_usage(words);
  const Outcome help = run_program({"tidepool-keeper", "--help"});
  EXPECT_EQ(help.code, 0);
  EXPECT_NE(help.out.find("--socket"), std::string::npos);
  expect_usage({"tidepool-keeper"});
  expect_usage({"tidepool-keeper", "--socket"});
  expect_usage({"tidepool-keeper", "--socket", ""});
  expect_usage({"tidepool-keeper", "--nonsense"});
  expect_usage({"tidepool-keeper", "--socket", "/tmp/x", "more"});
  const Outcome longest = run_program({"tidepool-keeper", "--socket", "/tmp/" + std::string(200, 'x')});
  EXPECT_EQ(longest.code, 1);
  EXPECT_NE(longest.err.find("at most 107"), std::string::npos) << longest.err;
}

TEST(Usage, OfTheWorkloads) {
  expect_help("tidepool-load");
  expect_help("tidepool-cache-load");
  for (const Words& words : std::vector<Words>{{"--nonsense"},
                                               {"--size", "0"},
                                               {"--size", "-1MiB"},
                                               {"--size", "5"},
                                               {"--size", "lots"},
                                               {"--size", "99999999999GiB"},
                                               {"--threads", "0"},
                                               {"--threads", "x"},
                                               {"--duration", "-1"},
                                               {"--memory", "core"},
                                               {"--pattern", "chaos"},
                                               {"--read-ratio", "2"},
                                               {"--rate", "-5"},
                                               {"--verify", "maybe"},
                                               {"-o", "xml"},
                                               {"extra"}}) {
    Words all{"tidepool-load"};
    all.insert(all.end(), words.begin(), words.end());
    expect_usage(all);
  }
  expect_usage({"tidepool-cache-load", "--nonsense"});
}

// Before an agent is asked anything: there is none here.
TEST(Usage, OfTidectl) {
  const std::vector<Words> wrong{{},
                                 {"nonsense"},
                                 {"--nonsense"},
                                 {"vm"},
                                 {"vm", "nonsense"},
                                 {"vm", "show"},
                                 {"vm", "show", "a", "b"},
                                 {"vm", "list", "extra"},
                                 {"vm", "list", "-o"},
                                 {"vm", "list", "-o", "xml"},
                                 {"vm", "list", "--watch=0s"},
                                 {"vm", "list", "--watch=soon"},
                                 {"vm", "list", "--timeout", "0s"},
                                 {"vm", "list", "--timeout", "-1s"},
                                 {"vm", "list", "--timeout", "1"},
                                 {"vm", "list", "--plan"},
                                 {"vm", "list", "--socket", ""},
                                 {"vm", "adopt"},
                                 {"vm", "adopt", "--pid", "0"},
                                 {"vm", "adopt", "--pid", "-1"},
                                 {"vm", "adopt", "--pid", "1.5"},
                                 {"vm", "adopt", "--pid", "99999999999"},
                                 {"vm", "adopt", "--pid", "1", "--cgroup", "x"},
                                 {"vm", "adopt", "--domain", ""},
                                 {"vm", "adopt", "--cgroup", ""},
                                 {"vm", "adopt", "--cgroup", "/"},
                                 {"vm", "adopt", "--cgroup", ".."},
                                 {"vm", "adopt", "--cgroup", "/a/../b"},
                                 {"vm", "adopt", "--pid", "1", "--mapping", "x-y z", "--mode", "fast"},
                                 {"vm", "adopt", "--pid", "1", "--force"},
                                 {"vm", "set", "a"},
                                 {"vm", "set", "a", "--limit"},
                                 {"vm", "set", "", "--mode", "active"},
                                 {"vm", "show", ""},
                                 {"vm", "release"},
                                 {"vm", "hold"},
                                 {"vm", "unhold"},
                                 {"vm", "events"},
                                 {"vm", "record", "a"},
                                 {"vm", "record", "a", "--file", "/x", "--duration", "x"},
                                 {"vm", "events", "a", "--since", "x"},
                                 {"vm", "events", "a", "--since", "-1"},
                                 {"explain"},
                                 {"decisions", "--since"},
                                 {"operation"},
                                 {"host"},
                                 {"host", "freeze", "now"},
                                 {"host", "freeze", "--plan"},
                                 {"pool"},
                                 {"pool", "resize"},
                                 {"pool", "resize", "--size"},
                                 {"pool", "resize", "8GiB"},
                                 {"config"},
                                 {"config", "check"},
                                 {"config", "check", "a", "b"},
                                 {"completion"},
                                 {"completion", "tcsh"},
                                 {"top", "--watch=never"},
                                 {"doctor", "now"},
                                 {"health", "now"}};
  for (const Words& words : wrong) {
    Words all{"tidectl"};
    all.insert(all.end(), words.begin(), words.end());
    const Outcome outcome = run_program(all, {{"TIDEPOOL_SOCKET", "/nonexistent/agent.sock"}});
    std::string line;
    for (const std::string& word : words) line += word + " ";
    EXPECT_EQ(outcome.code, 2) << "tidectl " << line << "\n" << outcome.all();
    EXPECT_NE(outcome.err.find("tidectl: "), std::string::npos) << line << outcome.err;
    EXPECT_EQ(outcome.out, "") << line;
  }
}

// Values that only the agent can judge are its to refuse: nothing changes.
TEST(Usage, NonsenseValuesAreRefusedByTheAgent) {
  if (const std::string why = why_no_agent(); !why.empty()) GTEST_SKIP() << why;
  AgentProcess agent;
  ASSERT_TRUE(agent.start());
  for (const char* size :
       {"0", "-1", "lots", "1XiB", "1e400", "101%", "9999999999999999999GiB", "", " 1GiB", "1 GiB"}) {
    const Outcome outcome = agent.tidectl({"pool", "resize", "--size", size, "--yes"});
    EXPECT_TRUE(outcome.code == 1 || outcome.code == 2 || outcome.code == 3) << size << "\n" << outcome.all();
    EXPECT_FALSE(outcome.all().empty()) << size;
  }
  EXPECT_NE(agent.expect({"pool", "status"}, 0).find("of 128M"), std::string::npos);
  EXPECT_EQ(agent.tidectl({"pool", "resize", "--size", "100%", "--yes"}).code, 3);  // nothing would be left
  for (const Words& words : std::vector<Words>{{"vm", "show", "nobody"},
                                               {"vm", "set", "nobody", "--mode", "active"},
                                               {"vm", "hold", "nobody"},
                                               {"vm", "unhold", "nobody"},
                                               {"vm", "release", "nobody"},
                                               {"vm", "events", "nobody"},
                                               {"explain", "nobody"},
                                               {"decisions", "--vm", "nobody"},
                                               {"operation", "op-99"},
                                               {"vm", "show", "../../etc/passwd"},
                                               {"vm", "show", std::string(5000, 'x')}}) {
    const Outcome outcome = agent.tidectl(words);
    EXPECT_EQ(outcome.code, 1) << words[1] << "\n" << outcome.all();
    EXPECT_FALSE(outcome.err.empty());
  }
  for (const char* group : {"/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/nobody-has-this", "/etc", "/etc/passwd",
                            "/sys/fs/cgroup/cgroup.procs", "a b\n"}) {
    for (const bool check : {true, false}) {
      Words words{"vm", "adopt", "--cgroup", group};
      if (check) words.emplace_back("--check");
      const Outcome outcome = agent.tidectl(words);
      EXPECT_EQ(outcome.code, 2) << group << "\n" << outcome.all();
      EXPECT_NE(outcome.err.find("control group"), std::string::npos) << outcome.all();
    }
  }
  agent.expect({"health"}, 0);
}

}  // namespace
}  // namespace tidepool::tests
