// What tidectl shows: tables, JSON and YAML, once or over and over.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <algorithm>
#include <boost/json.hpp>
#include <fstream>
#include <sstream>
#include <thread>

#include "tests/integration/control/tidectl_case.h"

namespace tidepool::daemon::testing {
namespace {

namespace json = boost::json;
using namespace std::chrono_literals;

TEST_F(Tidectl, ReadingCommandsShowTables) {
  expect({"status"}, 0, {"0.1.0", "observe", "net saved", "2.0G = 33.3% of touched"});
  expect({"health"}, 0, {"OK", "fault-loop"});
  expect({"doctor"}, 0,
         {"OK    userfaultfd", "MISSING MINOR WP", "WARN  tracker:damon", "SAFE  evacuation", "--fix-hints"});
  expect({"doctor", "--fix-hints"}, 0, {"What would help", "fault sampling is used"});
  expect({"vm", "list"}, 0,
         {"NAME   MODE    BY     PROMISED  RESIDENT  FAR   GUAR  STALL/BUDGET  STATE",
          "web-3  active  pager  8.0G      3.1G      2.9G  2.0G  0.4%/1.0%     ok"});
  expect({"workload", "list"}, 0, {"web-3  active  pager"});
  expect({"workload", "show", "web-3"}, 0, {"moved by", "pager"});
  expect({"vm", "list", "-q"}, 0, {"db 1\nweb-3\n"});
  expect({"vm", "show", "web-3"}, 0, {"qemu-system", "7f0000000000-7f0200000000", "p99 140us"});
  expect({"vm", "show", "db 1"}, 0, {"db 1"});
  expect({"vm", "events", "web-3", "--since", "4"}, 0, {"event 5"});
  expect({"explain", "web-3"}, 0, {"Slow? No: 0.4% stall, budget 1.0%."});
  expect({"decisions", "--vm", "web-3"}, 0, {"SEQ  AT", "CARRIED OUT", "demote", "cold", "yes"});
  expect({"host", "show"}, 0, {"host-1", "movement", "free", "kernel 100M"});
  expect({"host", "fits", "--guaranteed", "4GiB", "--oversubscribed", "4GiB"}, 0, {"yes: there is room"});
  expect({"host", "evacuate", "--plan"}, 0, {"POSSIBLE", "web-3", "4.2s"});
  expect({"pool", "status"}, 0,
         {"DRAM (lz4)", "3.0:1", "zram, 1.0G of 4.0G free", "1.0G of it of workloads", "5us to wait for"});
  expect({"config", "show"}, 0, {"safety.host_reserve", "\"5%\""});
  expect({"top", "--no-color"}, 0, {"FAULTS/S", "120.0", "21us"});
  expect({"--version"}, 0, {"tidectl 0.1.0"});
}

TEST_F(Tidectl, EveryReadingCommandGivesValidJsonAndYaml) {
  for (const Words& words : std::vector<Words>{{"status"},
                                               {"health"},
                                               {"doctor"},
                                               {"vm", "list"},
                                               {"vm", "show", "web-3"},
                                               {"vm", "events", "web-3"},
                                               {"vm", "heatmap", "web-3"},
                                               {"vm", "wss", "web-3"},
                                               {"explain", "web-3"},
                                               {"decisions"},
                                               {"host", "show"},
                                               {"host", "evacuate", "--plan"},
                                               {"host", "fits", "--guaranteed", "1GiB"},
                                               {"pool", "status"},
                                               {"config", "show"},
                                               {"top"},
                                               {"vm", "adopt", "--pid", "7", "--check"}}) {
    Words with = words;
    with.insert(with.end(), {"-o", "json"});
    const Outcome outcome = run(with);
    EXPECT_EQ(outcome.code, 0) << words.back();
    boost::system::error_code error;
    json::parse(outcome.out, error);
    EXPECT_FALSE(error) << words.back() << ": " << outcome.out;
    with.back() = "yaml";
    const Outcome yaml = run(with);
    EXPECT_EQ(yaml.code, 0);
    EXPECT_NE(yaml.out.find(": "), std::string::npos) << yaml.out;
  }
}

TEST_F(Tidectl, YamlIsReadBackAsTheSameDocument) {
  if (std::system("python3 -c 'import yaml' 2>/dev/null") != 0) GTEST_SKIP() << "python3 with yaml is not installed";
  VmStatus vm = example_vm("yes");  // a word that YAML takes for a boolean
  vm.exe = "/opt/a: b #c \"d\"\n- e";
  agent_.add_vm(vm);
  std::ofstream(folder_.path() + "/y") << run({"vm", "list", "-o", "yaml"}).out;
  std::ofstream(folder_.path() + "/j") << run({"vm", "list", "-o", "json"}).out;
  const std::string command =
      "cd " + folder_.path() +
      " && python3 -c 'import yaml, json; assert yaml.safe_load(open(\"y\")) == json.load(open(\"j\"))'";
  EXPECT_EQ(std::system(command.c_str()), 0) << slurp(folder_.path() + "/y");
}

TEST_F(Tidectl, JsonHasExactBytesWhereTheTableIsShort) {
  EXPECT_NE(run({"vm", "show", "web-3", "-o", "json"}).out.find("3113851290"), std::string::npos);
}

TEST_F(Tidectl, ListsWhatARuleMatchesAndWasRefused) {
  agent_.refuse({"db-1", 4711, "/usr/bin/db", "vfio: devices may write to its memory"});
  EXPECT_NE(run({"vm", "list"}).out.find("vfio: devices may write to its memory"), std::string::npos);
  EXPECT_EQ(run({"vm", "list", "-q"}).out.find("db-1"), std::string::npos) << "it is no VM yet";
  const json::value document = json::parse(run({"vm", "list", "-o", "json"}).out);
  EXPECT_EQ(document.at("refused").at(0).at("exe").as_string(), "/usr/bin/db");
}

TEST_F(Tidectl, ListsOfAnyLengthAreComplete) {
  for (int i = 0; i < 2100; ++i) agent_.add_vm(example_vm("vm-" + std::to_string(10000 + i)));
  const json::value document = json::parse(run({"vm", "list", "-o", "json"}).out);
  EXPECT_EQ(document.at("items").as_array().size(), 2102u);
}

TEST_F(Tidectl, WatchRepeatsUntilTheAgentGoes) {
  const std::string out = folder_.path() + "/watched";
  const pid_t child = spawn({"vm", "list", "-o", "json", "--watch=50ms"}, out, folder_.path() + "/watched.err");
  const auto lines = [&] {
    const std::string text = slurp(out);
    return std::ranges::count(text, '\n');
  };
  while (lines() < 3) std::this_thread::sleep_for(5ms);
  server_.reset();
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 4);
  std::istringstream text(slurp(out));
  for (std::string line; std::getline(text, line);) EXPECT_TRUE(json::parse(line).at("items").is_array());
}

TEST_F(Tidectl, FollowGoesOnFromWhereItWas) {
  const std::string out = folder_.path() + "/followed";
  const pid_t child = spawn({"decisions", "--vm", "web-3", "--follow"}, out, folder_.path() + "/followed.err");
  while (slurp(out).find("\n5 ") == std::string::npos) std::this_thread::sleep_for(5ms);
  while (server_->counters().requests < 2) std::this_thread::sleep_for(5ms);
  ::kill(child, SIGINT);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  const std::string text = slurp(out);
  EXPECT_EQ(std::ranges::count(text, '\n'), 4) << text;  // a header and three
}

// Another agent, which numbers its decisions from the beginning, is followed as the first was.
TEST_F(Tidectl, FollowGoesOnOverARestartOfTheAgent) {
  const std::string out = folder_.path() + "/followed";
  const std::string err = out + ".err";
  const pid_t child = spawn({"decisions", "--vm", "web-3", "--follow"}, out, err);
  while (slurp(out).find("\n5 ") == std::string::npos) std::this_thread::sleep_for(5ms);
  server_.reset();
  while (slurp(err).find("waiting for the agent") == std::string::npos) std::this_thread::sleep_for(5ms);
  agent_.forget_decisions(2);
  start();
  while (slurp(err).find("started anew") == std::string::npos) std::this_thread::sleep_for(5ms);
  // The new agent has the first entry again.
  while (std::ranges::count(slurp(out), '\n') < 5) std::this_thread::sleep_for(5ms);
  ::kill(child, SIGINT);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status)) << "it went on until it was told to end";
  EXPECT_NE(slurp(err).find("the agent answers again"), std::string::npos) << slurp(err);
}

TEST_F(Tidectl, FollowBeginsOnlyWhereSomebodyAnswers) {
  server_.reset();
  EXPECT_EQ(run({"decisions", "--follow"}).code, 4);
}

}  // namespace
}  // namespace tidepool::daemon::testing
