// The real program against a real server: every command, every exit status.
#include <gtest/gtest.h>
#include <pty.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <set>
#include <sstream>
#include <thread>

#include "daemon/control/api_server.h"
#include "tests/integration/control/fake_agent.h"
#include "tests/integration/control/raw_client.h"

namespace tidepool::daemon::testing {
namespace {

namespace json = boost::json;
using namespace std::chrono_literals;
using Words = std::vector<std::string>;

struct Outcome {
  int code = -1;
  std::string out;
  std::string err;
};

std::string slurp(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

class Tidectl : public ::testing::Test {
 protected:
  Tidectl() {
    options_.socket = folder_.path() + "/agent.sock";
    options_.audit_log = folder_.path() + "/audit.jsonl";
    agent_.add_vm(example_vm("web-3"));
    agent_.add_vm(example_vm("db 1"));
    // Beside a program of its own, so that a real agent that happens to be built or installed is not found.
    program_ = folder_.path() + "/tidectl";
    std::filesystem::copy_file(TIDEPOOL_BINARY_DIR "/bin/tidectl", program_);
  }

  void SetUp() override { start(); }

  void start() {
    auto server = ApiServer::start(options_, agent_);
    ASSERT_TRUE(server) << server.error().message();
    server_ = std::move(*server);
  }

  void place_agent_program() {
    std::filesystem::copy_file(TIDEPOOL_BINARY_DIR "/tests/fake_tidepoold", folder_.path() + "/tidepoold");
  }

  pid_t spawn(const Words& words, const std::string& out, const std::string& err) {
    const pid_t child = ::fork();
    if (child != 0) return child;
    if (!::freopen("/dev/null", "r", stdin) || !::freopen(out.c_str(), "w", stdout) ||
        !::freopen(err.c_str(), "w", stderr))
      ::_exit(99);
    exec(words);
  }

  [[noreturn]] void exec(const Words& words) {
    ::setenv("TIDEPOOL_SOCKET", options_.socket.c_str(), 1);
    ::setenv("PATH", "/nonexistent:.:", 1);
    ::unsetenv("NO_COLOR");
    std::vector<char*> argv{program_.data()};
    for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
    argv.push_back(nullptr);
    ::execv(program_.c_str(), argv.data());
    ::_exit(98);
  }

  Outcome run(const Words& words) {
    const std::string out = folder_.path() + "/out";
    const std::string err = folder_.path() + "/err";
    const pid_t child = spawn(words, out, err);
    int status = 0;
    ::waitpid(child, &status, 0);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status), slurp(out), slurp(err)};
  }

  // On a terminal, with what a person types.
  Outcome run_on_terminal(const Words& words, const std::string& typed) {
    int terminal = -1;
    const pid_t child = ::forkpty(&terminal, nullptr, nullptr, nullptr);
    if (child == 0) exec(words);
    EXPECT_EQ(::write(terminal, typed.data(), typed.size()), static_cast<ssize_t>(typed.size()));
    Outcome outcome;
    char chunk[4096];
    for (ssize_t got = 0; (got = ::read(terminal, chunk, sizeof chunk)) > 0;)
      outcome.out.append(chunk, static_cast<std::size_t>(got));
    int status = 0;
    ::waitpid(child, &status, 0);
    ::close(terminal);
    outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
    return outcome;
  }

  void expect(const Words& words, int code, std::initializer_list<const char*> parts) {
    const Outcome outcome = run(words);
    std::string line;
    for (const std::string& word : words) line += " " + word;
    EXPECT_EQ(outcome.code, code) << line << "\n" << outcome.out << outcome.err;
    for (const char* part : parts)
      EXPECT_NE((outcome.out + outcome.err).find(part), std::string::npos)
          << part << " not in output of" << line << ":\n"
          << outcome.out << outcome.err;
  }

  TemporaryFolder folder_;
  std::string program_;
  FakeAgent agent_;
  ApiServerOptions options_;
  std::unique_ptr<ApiServer> server_;
};

TEST_F(Tidectl, ReadingCommandsShowTables) {
  expect({"status"}, 0, {"0.1.0", "observe", "net saved", "2.0G = 33.3% of touched"});
  expect({"health"}, 0, {"OK", "fault-loop"});
  expect({"doctor"}, 0,
         {"OK    userfaultfd", "MISSING MINOR WP", "WARN  tracker:damon", "SAFE  evacuation", "--fix-hints"});
  expect({"doctor", "--fix-hints"}, 0, {"What would help", "fault sampling is used"});
  expect({"vm", "list"}, 0,
         {"NAME   MODE    PROMISED  RESIDENT  FAR   GUAR  STALL/BUDGET  STATE",
          "web-3  active  8.0G      3.1G      2.9G  2.0G  0.4%/1.0%     ok"});
  expect({"vm", "list", "-q"}, 0, {"db 1\nweb-3\n"});
  expect({"vm", "show", "web-3"}, 0, {"qemu-system", "7f0000000000-7f0200000000", "p99 140us"});
  expect({"vm", "show", "db 1"}, 0, {"db 1"});
  expect({"vm", "events", "web-3", "--since", "4"}, 0, {"event 5"});
  expect({"explain", "web-3"}, 0, {"Slow? No: 0.4% stall, budget 1.0%."});
  expect({"decisions", "--vm", "web-3"}, 0, {"SEQ  AT", "CARRIED OUT", "demote", "cold", "yes"});
  expect({"host", "show"}, 0, {"host-1", "movement", "free"});
  expect({"host", "fits", "--guaranteed", "4GiB", "--oversubscribed", "4GiB"}, 0, {"yes: there is room"});
  expect({"host", "evacuate", "--plan"}, 0, {"POSSIBLE", "web-3", "4.2s"});
  expect({"pool", "status"}, 0, {"DRAM (lz4)", "3.0:1"});
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

TEST_F(Tidectl, ListsOfAnyLengthAreComplete) {
  for (int i = 0; i < 2100; ++i) agent_.add_vm(example_vm("vm-" + std::to_string(10000 + i)));
  const json::value document = json::parse(run({"vm", "list", "-o", "json"}).out);
  EXPECT_EQ(document.at("items").as_array().size(), 2102u);
}

TEST_F(Tidectl, ChangingCommandsDoWhatTheySay) {
  expect({"vm", "set", "web-3", "--guarantee", "1GiB", "--mode", "observe"}, 0,
         {"guarantee", "2GiB", "1GiB", "observe"});
  expect({"vm", "set", "web-3", "--guarantee", "1GiB"}, 0, {"nothing to change"});
  expect({"vm", "set", "web-3", "--guarantee", "3GiB", "--plan"}, 0, {"1GiB", "3GiB"});
  EXPECT_EQ((*agent_.vm_show("web-3")).policy.guarantee, Bytes{1ull << 30});
  expect({"vm", "set", "web-3", "--limit", "none", "--stall-budget", "2%", "--min-cold-age", "90s"}, 0, {});
  EXPECT_TRUE(agent_.last_settings().no_limit);
  expect({"vm", "hold", "web-3", "--reason", "live migration"}, 0, {"held"});
  EXPECT_EQ((*agent_.vm_show("web-3")).hold_reason, "live migration");
  expect({"vm", "unhold", "web-3"}, 0, {"no longer held"});
  expect({"host", "freeze"}, 0, {"frozen"});
  EXPECT_TRUE(agent_.frozen());
  expect({"host", "thaw", "-q"}, 0, {});
  EXPECT_FALSE(agent_.frozen());
  expect({"pool", "resize", "--size", "8GiB", "--yes"}, 0, {"8GiB"});
  expect({"host", "evacuate", "--yes"}, 0, {"evacuate", "succeeded"});
  expect({"vm", "release", "web-3"}, 0, {"release", "web-3", "succeeded"});
  expect({"vm", "release", "web-3", "--no-wait"}, 0, {"running", "op-"});
  const std::string id(json::parse(run({"vm", "release", "db 1", "--no-wait", "-o", "json"}).out).at("id").as_string());
  expect({"operation", id}, 0, {"release", "db 1", id.c_str()});
  expect({"operation", id, "--wait"}, 0, {"release", "succeeded"});
  expect({"operation", "op-999"}, 1, {"op-999"});
}

TEST_F(Tidectl, RecordingPassesEverythingOn) {
  expect({"vm", "record", "web-3", "--stop"}, 1, {"not recorded"});
  expect({"vm", "record", "web-3", "--file", "/tmp/a b.trace"}, 0, {"record", "web-3", "succeeded"});
  EXPECT_EQ(agent_.last_recording().file, "/tmp/a b.trace");
  EXPECT_EQ(agent_.last_recording().duration, 60s);
  EXPECT_EQ(agent_.last_recording().max_size, Bytes{1ull << 30});
  expect({"vm", "record", "web-3", "--file", "here.trace", "--duration", "2h", "--max-size", "5MiB", "--no-wait"}, 0,
         {"running", "op-"});
  EXPECT_EQ(agent_.last_recording().file, std::filesystem::current_path().string() + "/here.trace");
  EXPECT_EQ(agent_.last_recording().duration, 2h);
  EXPECT_EQ(agent_.last_recording().max_size, Bytes{5ull << 20});
  expect({"vm", "record", "web-3", "--stop"}, 0, {"ends now"});
  expect({"vm", "record", "web-3", "--file", "/exists"}, 1, {"File exists", "name another one"});
  expect({"vm", "record", "nobody", "--file", "/x"}, 1, {"nobody"});
  expect({"vm", "record", "web-3", "--file", "/x", "--duration", "25h"}, 1, {"duration"});
  expect({"vm", "record", "web-3", "--file", "/x", "--max-size", "1KiB"}, 1, {"max_size", "1MiB"});
  for (const Words& wrong : std::vector<Words>{{},
                                               {"--file"},
                                               {"--file", ""},
                                               {"--file", "/x", "--stop"},
                                               {"--file", "/x", "--duration", "soon"},
                                               {"--file", "/x", "--duration", "60"},
                                               {"--file", "/x", "--duration", "-1s"},
                                               {"--file", "/x", "--max-size", "much"},
                                               {"--file", "/x", "more"}}) {
    Words words{"vm", "record", "web-3"};
    words.insert(words.end(), wrong.begin(), wrong.end());
    expect(words, 2, {"--help"});
  }
}

TEST_F(Tidectl, AdoptionPassesEverythingOn) {
  expect({"vm", "adopt", "--pid", "7", "--name", "cache", "--mapping", "7f0000000000-7f0000100000", "--mode", "active",
          "--guarantee", "25%"},
         0, {"adopt", "cache", "succeeded"});
  const AdoptRequest request = agent_.last_adoption();
  EXPECT_EQ(request.pid, 7);
  EXPECT_EQ(request.name, "cache");
  EXPECT_EQ(request.mapping.range, (AddressRange{0x7f0000000000, 0x7f0000100000}));
  EXPECT_EQ(request.settings.guarantee, Amount::part(0.25));
  expect({"vm", "adopt", "--domain", "a-b", "--mapping", ">=64MiB"}, 0, {});
  EXPECT_EQ(agent_.last_adoption().mapping.at_least, Bytes{64u << 20});
  expect({"vm", "adopt", "--domain", "a-b", "--mapping", "/dev/shm/x-*"}, 0, {});
  EXPECT_EQ(agent_.last_adoption().mapping.name, "/dev/shm/x-*");
  expect({"vm", "adopt", "--pid", "7", "--mapping", "1000-1001"}, 2, {"page aligned"});
}

TEST_F(Tidectl, RefusalsExitWith3AndSayWhy) {
  expect({"vm", "adopt", "--pid", "13"}, 3, {"refused: VFIO group 12 pins this memory", "detach the device", "vfio"});
  expect({"vm", "adopt", "--pid", "13", "--check"}, 3, {"REFUSED", "vfio"});
  expect({"vm", "adopt", "--pid", "13", "--plan"}, 3, {"REFUSED"});
  expect({"host", "fits", "--guaranteed", "400GiB"}, 3, {"no: there is no room"});
  expect({"vm", "set", "web-3", "--guarantee", "9GiB"}, 3, {"refused", "Try: --guarantee 8GiB"});
  expect({"vm", "set", "web-3", "--guarantee", "9GiB", "--plan"}, 3,
         {"REFUSED guarantee 9GiB of 8GiB. Try: --guarantee 8GiB"});
  expect({"pool", "resize", "--size", "1MiB", "--yes"}, 3,
         {"REFUSED need 0.9 GiB home, spare 0.4 GiB. Try: --size 1GiB"});
}

TEST_F(Tidectl, ErrorsAreJsonTooWhenAskedFor) {
  const Outcome outcome = run({"vm", "adopt", "--pid", "13", "-o", "json"});
  EXPECT_EQ(outcome.code, 3);
  EXPECT_EQ(json::parse(outcome.out).at("error").at("findings").at(0).at("code").as_string(), "vfio");
}

TEST_F(Tidectl, FailuresExitWith1) {
  expect({"vm", "show", "nobody"}, 1, {"nobody", "vm list"});
  expect({"vm", "adopt", "--pid", "404"}, 1, {"No such process"});
  expect({"vm", "adopt", "--pid", "7", "--name", "web-3"}, 1, {"choose another --name"});
  expect({"vm", "set", "web-3", "--guarantee", "lots"}, 1, {"size such as"});
  agent_.set_healthy(false);
  expect({"health"}, 1, {"SICK", "keeper", "does not answer"});
  agent_.end_operations_as(OperationState::kFailed);
  expect({"vm", "release", "web-3"}, 1, {"failed", "free memory"});
}

TEST_F(Tidectl, PartialEndExitsWith5) {
  agent_.end_operations_as(OperationState::kPartial);
  expect({"host", "evacuate", "--yes"}, 5, {"partial"});
}

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
  expect({"vm", "set", "web-3", "--mode", "fast"}, 2, {"observe"});
  expect({"vm", "list", "-o", "xml"}, 2, {"json"});
  expect({"vm", "list", "--timeout", "5"}, 2, {"--timeout"});
  expect({"vm", "list", "--watch=soon"}, 2, {"--watch"});
  expect({"vm", "list", "--plan"}, 2, {"--plan"});
  expect({"pool", "resize"}, 2, {"--size"});
  expect({"completion", "tcsh"}, 2, {});
}

TEST_F(Tidectl, DangerousActionsNeedAYes) {
  expect({"host", "evacuate"}, 2, {"--yes"});
  expect({"pool", "resize", "--size", "8GiB"}, 2, {"--yes"});
  expect({"vm", "adopt", "--pid", "7", "--force", "o-direct"}, 2, {"--yes"});
  expect({"vm", "adopt", "--pid", "7", "--force", "o-direct", "--yes"}, 0, {});
  EXPECT_EQ(agent_.last_adoption().force, Words{"o-direct"});

  const Outcome no = run_on_terminal({"host", "evacuate"}, "n\n");
  EXPECT_EQ(no.code, 3) << no.out;
  EXPECT_NE(no.out.find("nothing was done"), std::string::npos);
  const Outcome yes = run_on_terminal({"host", "evacuate"}, "y\n");
  EXPECT_EQ(yes.code, 0) << yes.out;
}

TEST_F(Tidectl, ProgressIsForTerminalsOnly) {
  EXPECT_NE(run_on_terminal({"vm", "release", "web-3"}, "").out.find("[###"), std::string::npos);
  EXPECT_EQ(run_on_terminal({"vm", "release", "web-3", "-q"}, "").out.find("[###"), std::string::npos);
  const Outcome piped = run({"vm", "release", "web-3"});
  EXPECT_EQ((piped.out + piped.err).find('\r'), std::string::npos);
}

TEST_F(Tidectl, ColourIsForTerminalsOnlyAndCanBeTurnedOff) {
  EXPECT_NE(run_on_terminal({"health"}, "").out.find("\x1b["), std::string::npos);
  EXPECT_EQ(run_on_terminal({"health", "--no-color"}, "").out.find("\x1b["), std::string::npos);
  EXPECT_EQ(run({"health"}).out.find('\x1b'), std::string::npos);
}

TEST_F(Tidectl, NamesCannotSendEscapesToTheTerminal) {
  agent_.add_vm(example_vm("evil\x1b[2J\n"));
  EXPECT_EQ(run({"vm", "list"}).out.find('\x1b'), std::string::npos);
  EXPECT_EQ(run({"vm", "list", "-q"}).out.find('\x1b'), std::string::npos);
}

TEST_F(Tidectl, UnreachableAgentExitsWith4) {
  server_.reset();
  expect({"vm", "list"}, 4, {"is tidepoold running?"});
  expect({"vm", "list", "--socket", std::string(200, 'x')}, 4, {});
  expect({"vm", "list", "--socket", folder_.path()}, 4, {});
  std::ofstream(options_.socket) << "not a socket";
  expect({"vm", "list"}, 4, {});
}

TEST_F(Tidectl, ServerThatStallsExitsWith5) {
  agent_.hold_calls();
  expect({"vm", "list", "--timeout", "300ms"}, 5, {"timed out"});
  agent_.let_go();
}

TEST_F(Tidectl, ServerThatGivesUpOnACallExitsWith5) {
  server_.reset();
  options_.request_timeout = 200ms;
  start();
  agent_.hold_calls();
  expect({"vm", "list"}, 5, {"did not answer in time"});
  agent_.let_go();
}

TEST_F(Tidectl, OperationThatOutlastsTheTimeOutExitsWith5AndNamesIt) {
  // Each look at the operation takes 200 ms or more, and it needs two.
  expect({"vm", "release", "web-3", "--timeout", "100ms"}, 5, {"op-1", "goes on"});
}

// A server of another kind, or one that breaks off.
class Stranger {
 public:
  Stranger(const std::string& path, std::string answer)
      : answer_(std::move(answer)), listener_(::socket(AF_UNIX, SOCK_STREAM, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    EXPECT_EQ(::bind(listener_.get(), static_cast<const sockaddr*>(static_cast<const void*>(&address)), sizeof address),
              0);
    EXPECT_EQ(::listen(listener_.get(), 8), 0);
    thread_ = std::thread([this] {
      while (true) {
        const UniqueFd peer{::accept(listener_.get(), nullptr, nullptr)};
        if (!peer.valid()) return;
        char chunk[4096];
        [[maybe_unused]] const ssize_t got = ::recv(peer.get(), chunk, sizeof chunk, 0);
        ::send(peer.get(), answer_.data(), answer_.size(), MSG_NOSIGNAL);
      }
    });
  }
  ~Stranger() {
    ::shutdown(listener_.get(), SHUT_RDWR);
    thread_.join();
  }

 private:
  std::string answer_;
  UniqueFd listener_;
  std::thread thread_;
};

TEST_F(Tidectl, AnswersThatAreNotTheAgentsExitWith4) {
  server_.reset();
  for (const char* answer : {"", "SSH-2.0-OpenSSH\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
                             "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
                             "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"}) {
    const Stranger stranger(options_.socket, answer);
    expect({"vm", "list"}, 4, {"tidectl: "});
    std::filesystem::remove(options_.socket);
  }
}

TEST_F(Tidectl, AnswersWithUnexpectedFieldsAreShownAsFarAsTheyGo) {
  server_.reset();
  const std::string body = R"({"items": [{"name": 5, "memory": "much", "blocked": 3}, 7, null], "next_cursor": null})";
  const Stranger stranger(options_.socket,
                          "HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body);
  expect({"vm", "list"}, 0, {"NAME"});
}

TEST_F(Tidectl, DoctorAsksTheProgramWhenNoAgentRuns) {
  server_.reset();
  expect({"doctor"}, 4, {"no tidepoold"});
  place_agent_program();
  expect({"doctor"}, 1, {"--doctor instead", "FAIL  userfaultfd"});
  EXPECT_TRUE(json::parse(run({"doctor", "-o", "json"}).out).at("rows").is_array());
}

TEST_F(Tidectl, ConfigCheckNeedsNoAgent) {
  server_.reset();
  const std::string file = folder_.path() + "/t.toml";
  std::ofstream(file) << "schema = 1\nmdoe = \"active\"\n";
  expect({"config", "check", file}, 1, {"no tidepoold"});
  place_agent_program();
  expect({"config", "check", file}, 1, {":2:1: unknown key 'mdoe'; did you mean 'mode'?"});
  const json::value document = json::parse(run({"config", "check", file, "-o", "json"}).out);
  EXPECT_EQ(document.at("problems").at(0).at("line").to_number<int>(), 2);
  std::ofstream(file) << "schema = 1\n";
  expect({"config", "check", file}, 0, {"ok"});
  expect({"config", "check", "/nonexistent"}, 1, {"No such file"});
}

TEST_F(Tidectl, ConfigDiffTellsWhatWaitsForARestart) {
  place_agent_program();
  const std::string file = folder_.path() + "/t.toml";
  std::ofstream(file) << "schema = 1\nmode = \"active\"\n[pool.embedded]\ncodec = \"zstd\"\n";
  expect({"config", "diff", file}, 0, {"mode", "reload", "pool.embedded.codec", "restart"});
  std::ofstream(file) << "schema = 1\n";
  expect({"config", "diff", file}, 0, {"no difference"});
  std::ofstream(file) << "broken";
  expect({"config", "diff", file}, 1, {"config check"});
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

TEST_F(Tidectl, EveryCommandHasHelpWithAnExample) {
  std::set<std::string> described;
  std::ifstream file(TIDEPOOL_SOURCE_DIR "/docs/cli.md");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("| `tidectl ")) described.insert(line);
  ASSERT_FALSE(described.empty());
  for (const Words& words :
       std::vector<Words>{{"doctor"},           {"status"},         {"health"},         {"top"},
                          {"explain"},          {"decisions"},      {"operation"},      {"vm", "list"},
                          {"vm", "show"},       {"vm", "adopt"},    {"vm", "release"},  {"vm", "set"},
                          {"vm", "hold"},       {"vm", "unhold"},   {"vm", "events"},   {"vm", "record"},
                          {"host", "show"},     {"host", "freeze"}, {"host", "thaw"},   {"host", "fits"},
                          {"host", "evacuate"}, {"pool", "status"}, {"pool", "resize"}, {"config", "check"},
                          {"config", "show"},   {"config", "diff"}, {"completion"}}) {
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
