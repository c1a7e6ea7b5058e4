// How tidectl is called: mistakes, help, completion.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>

#include "tests/integration/control/tidectl_case.h"

namespace tidepool::daemon::testing {
namespace {

using namespace std::chrono_literals;

TEST_F(Tidectl, UsageErrorsExitWith2AndSuggest) {
  expect({}, 2, {"--help"});
  expect({"vm"}, 2, {});
  expect({"vm", "lits"}, 2, {"'lits' is not a command; did you mean 'list'?"});
  expect({"--socket", "/x", "-o", "json", "hots", "show"}, 2, {"did you mean 'host'?"});
  expect({"--timeout", "5s", "vm", "set", "web-3", "--limit", ""}, 2, {"--limit", "must not be empty"});
  expect({"hots", "show"}, 2, {"did you mean 'host'?"});
  expect({"vm", "list", "--wach"}, 2, {"did you mean '--watch'?"});
  expect({"vm", "adopt", "--pdi", "4"}, 2, {"--pid"});
  expect({"vm", "show"}, 2, {"VM"});
  expect({"vm", "set", "web-3"}, 2, {"at least one setting"});
  expect({"vm", "adopt"}, 2, {"--pid"});
  expect({"vm", "adopt", "--pid", "1", "--domain", "x"}, 2, {});
  expect({"vm", "adopt", "--pid", "-3"}, 2, {});
  expect({"vm", "adopt", "--pid", "x"}, 2, {});
  for (const char* group : {"", "/", "//", ".", "..", "../..", "./", " "})
    expect({"vm", "adopt", "--cgroup", group}, 2, {"--cgroup", "names no control group"});
  for (const char* group : {"/a/..", "../a", "/a/../b", "/a/./b", "a/."})
    expect({"vm", "adopt", "--check", "--cgroup", group}, 2, {"without '.' and '..'"});
  expect({"vm", "adopt", "--pid", "1", "--mechanism", "magic"}, 2, {"--mechanism", "kernel"});
  expect({"vm", "adopt", "--domain", "x", "--mechanism", "kernel"}, 2, {"a pid or a cgroup"});
  expect({"vm", "adopt", "--pid", "1", "--mechanism", "kernel", "--mapping", "all"}, 2, {"mapping"});
  expect({"vm", "adopt", "--pid", "1", "--mechanism", "kernel", "--force", "vfio", "--yes"}, 2, {"can be forced"});
  expect({"workload", "adopt", "--domain", "x"}, 2, {});
  expect({"workload", "adopt"}, 2, {"--pid"});
  expect({"workload", "hold", "x"}, 2, {});
  // What only the agent can tell to be nonsense is the same mistake.
  expect({"vm", "set", "web-3", "--guarantee", "lots"}, 2, {"size such as"});
  expect({"vm", "set", "web-3", "--mode", "fast"}, 2, {"observe"});
  expect({"vm", "list", "-o", "xml"}, 2, {"json"});
  expect({"vm", "list", "--timeout", "5"}, 2, {"--timeout"});
  expect({"vm", "list", "--watch=soon"}, 2, {"--watch"});
  expect({"vm", "list", "--plan"}, 2, {"--plan"});
  expect({"pool", "resize"}, 2, {"--size"});
  expect({"completion", "tcsh"}, 2, {});
}

TEST_F(Tidectl, EveryCommandHasHelpWithAnExample) {
  std::set<std::string> described;
  std::ifstream file(TIDEPOOL_SOURCE_DIR "/docs/cli.md");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("| `tidectl ")) described.insert(line);
  ASSERT_FALSE(described.empty());
  for (const Words& words : std::vector<Words>{{"doctor"},
                                               {"status"},
                                               {"health"},
                                               {"top"},
                                               {"explain"},
                                               {"decisions"},
                                               {"operation"},
                                               {"vm", "list"},
                                               {"vm", "show"},
                                               {"vm", "adopt"},
                                               {"vm", "release"},
                                               {"vm", "set"},
                                               {"vm", "hold"},
                                               {"vm", "unhold"},
                                               {"vm", "events"},
                                               {"vm", "record"},
                                               {"vm", "heatmap"},
                                               {"vm", "wss"},
                                               {"host", "show"},
                                               {"host", "freeze"},
                                               {"host", "thaw"},
                                               {"host", "fits"},
                                               {"host", "evacuate"},
                                               {"pool", "status"},
                                               {"pool", "resize"},
                                               {"pool", "leases"},
                                               {"pool", "history"},
                                               {"pool", "backup"},
                                               {"pool", "restore"},
                                               {"pool", "vm", "list"},
                                               {"pool", "vm", "forget"},
                                               {"pool", "host", "list"},
                                               {"pool", "host", "set"},
                                               {"pool", "host", "forget"},
                                               {"pool", "tenant", "set"},
                                               {"pool", "node", "list"},
                                               {"pool", "node", "show"},
                                               {"pool", "node", "drain"},
                                               {"pool", "node", "undrain"},
                                               {"pool", "node", "ok-to-stop"},
                                               {"pool", "node", "forget"},
                                               {"pki", "init"},
                                               {"pki", "issue"},
                                               {"pki", "rotate"},
                                               {"pki", "list"},
                                               {"config", "check"},
                                               {"workload", "list"},
                                               {"workload", "show"},
                                               {"workload", "adopt"},
                                               {"workload", "release"},
                                               {"workload", "set"},
                                               {"config", "show"},
                                               {"config", "diff"},
                                               {"completion"}}) {
    Words with = words;
    with.push_back("--help");
    std::string name = "tidectl";
    for (const std::string& word : words) name += " " + word;
    const Outcome outcome = run(with);
    EXPECT_EQ(outcome.code, 0) << name;
    EXPECT_NE(outcome.out.find("Usage: " + name), std::string::npos) << outcome.out;
    EXPECT_NE(outcome.out.find("Example:"), std::string::npos) << name;
    // The page names it, and nothing but these.
    const auto row = std::ranges::find_if(described, [&](const std::string& line) {
      return line.starts_with("| `" + name + "`") || line.starts_with("| `" + name + " ");
    });
    ASSERT_NE(row, described.end()) << name << " is missing in docs/cli.md";
    described.erase(row);
  }
  for (const std::string& line : described) ADD_FAILURE() << "not a command: " << line;
}

std::string bash_completes(const std::string& script, const std::string& words, int at,
                           const std::string& before = "") {
  const std::string command = before + " bash --norc -c 'source " + script + "; COMP_WORDS=(" + words +
                              "); COMP_CWORD=" + std::to_string(at) + "; _tidectl; echo \"${COMPREPLY[*]}\"'";
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> pipe{::popen(command.c_str(), "r"), ::pclose};
  std::string text;
  for (int c = 0; pipe && (c = std::fgetc(pipe.get())) != EOF;) text += static_cast<char>(c);
  return text;
}

TEST_F(Tidectl, BashCompletesCommandsOptionsAndVms) {
  const std::string script = folder_.path() + "/completion.bash";
  std::ofstream(script) << run({"completion", "bash"}).out;
  EXPECT_EQ(bash_completes(script, "tidectl vm re", 2), "release record\n");
  EXPECT_EQ(bash_completes(script, "tidectl -o json vm set --g", 5), "--guarantee\n");
  EXPECT_EQ(bash_completes(script, "tidectl completion f", 2), "fish\n");
  const std::string reach = "PATH=" + folder_.path() + ":$PATH TIDEPOOL_SOCKET=" + options_.socket;
  EXPECT_EQ(bash_completes(script, "tidectl explain we", 2, reach), "web-3\n");
}

TEST_F(Tidectl, OtherShellsAcceptTheirScripts) {
  bool any = false;
  for (const char* shell : {"zsh", "fish"}) {
    const std::string script = folder_.path() + "/completion." + shell;
    std::ofstream(script) << run({"completion", shell}).out;
    EXPECT_GT(std::filesystem::file_size(script), 1000u);
    if (std::system(("command -v " + std::string(shell) + " >/dev/null 2>&1").c_str()) != 0) continue;
    any = true;
    EXPECT_EQ(std::system((std::string(shell) + " -n " + script).c_str()), 0) << shell;
  }
  if (!any) GTEST_SKIP() << "neither zsh nor fish is installed; only the scripts' presence was checked";
}

}  // namespace
}  // namespace tidepool::daemon::testing
