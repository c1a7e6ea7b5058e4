// Starting, reloading and ending the agent: what is in its way, and what it says then.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "kmod-interfaces/lock_file.h"
#include "tests/support/agent_process.h"
#include "tests/support/notify_socket.h"
#include "tests/support/process_state.h"

namespace tidepool::tests {
namespace {

class Start : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = why_no_agent(); !why.empty()) GTEST_SKIP() << why;
  }
};

// An agent that is expected to end by itself, with a file of its own.
Outcome try_to_start(const AgentProcess& like, Settings changes) {
  const TestFolder folder;
  Settings all = like.settings();
  for (auto& [key, value] : changes) all[key] = value;
  std::ofstream file(folder / "agent.toml");
  for (const auto& [key, value] : all) file << key << " = " << value << "\n";
  file.close();
  return run_program({"tidepoold", "--config", folder / "agent.toml"});
}

void expect_refusal(const Outcome& outcome, std::initializer_list<std::string> parts) {
  EXPECT_EQ(outcome.code, 1) << outcome.all();
  for (const std::string& part : parts)
    EXPECT_NE(outcome.err.find(part), std::string::npos) << part << "\n" << outcome.err;
  EXPECT_EQ(outcome.err.find("msg=ready"), std::string::npos) << outcome.err;
}

TEST_F(Start, AnswersAndEnds) {
  AgentProcess agent;
  ASSERT_TRUE(agent.start());
  EXPECT_NE(agent.expect({"status"}, 0).find("observe"), std::string::npos);
  agent.expect({"health"}, 0);
  EXPECT_EQ(agent.stop(), 0);
  EXPECT_FALSE(std::filesystem::exists(agent.socket()));
  // Nothing is held for an agent that ended in order.
  ASSERT_TRUE(agent.start());
  EXPECT_EQ(agent.stop(), 0);
}

// Plays systemd: what the agent says to it, oldest first.
class Manager {
 public:
  // For AgentProcess::start.
  std::function<bool()> introduce() const {
    return [this] {
      return ::setenv("NOTIFY_SOCKET", socket_.path().c_str(), 1) == 0 &&
             ::setenv("WATCHDOG_PID", std::to_string(::getpid()).c_str(), 1) == 0 &&
             ::setenv("WATCHDOG_USEC", "30000000", 1) == 0;
    };
  }
  // Until a message begins like this, which it returns; what was said before is forgotten.
  std::string await_message(const std::string& start) const {
    std::string message;
    EXPECT_TRUE(await([&] {
      do message = socket_.next(MSG_DONTWAIT);
      while (!message.empty() && !message.starts_with(start));
      return !message.empty();
    })) << start;
    return message;
  }

 private:
  const TestFolder folder_;
  const NotifySocket socket_{folder_ / "notify"};
};

TEST_F(Start, TellsTheServiceManagerHowItIsAndFeedsItsWatchdog) {
  const Manager manager;
  AgentProcess agent;
  ASSERT_TRUE(agent.start(manager.introduce()));
  EXPECT_NE(manager.await_message("READY=1").find("\nSTATUS="), std::string::npos);
  // With no VM there is no fault to answer, but the loop that would goes round.
  manager.await_message("WATCHDOG=1");
  manager.await_message("WATCHDOG=1");
  agent.reload();
  EXPECT_NE(manager.await_message("RELOADING=1").find("\nMONOTONIC_USEC="), std::string::npos);
  manager.await_message("READY=1");
  EXPECT_EQ(agent.stop(), 0);
  manager.await_message("STOPPING=1");
  manager.await_message("EXTEND_TIMEOUT_USEC=");
}

TEST_F(Start, ProtectsItselfFromThePressureThatItManages) {
  AgentProcess agent;
  ASSERT_TRUE(agent.start());
  if (!is_sanitized(agent.pid())) {
    EXPECT_GT(status_kib(agent.pid(), "VmLck"), 0u);
  }
  const std::string folder = "/proc/" + std::to_string(agent.pid());
  // Where root may not (no CAP_SYS_RESOURCE, as in containers), that is said.
  if (read_file(folder + "/oom_score_adj") != "-1000\n") {
    EXPECT_NE(agent.log().find("error=\"write /proc/self/oom_score_adj: Permission denied"), std::string::npos);
  }
  std::istringstream limits(read_file(folder + "/limits"));
  std::string line;
  while (std::getline(limits, line) && !line.starts_with("Max open files")) {
  }
  std::istringstream words(line.substr(std::string("Max open files").size()));
  std::uint64_t soft = 0;
  std::uint64_t hard = 0;
  ASSERT_TRUE(words >> soft >> hard) << line;
  EXPECT_EQ(soft, hard);
}

TEST_F(Start, SecondAgentOnTheSameSocketIsRefusedAndTheFirstGoesOn) {
  AgentProcess agent;
  ASSERT_TRUE(agent.start());
  const auto before = open_descriptors(agent.pid());
  const auto held_before = open_descriptors(agent.keeper());
  expect_refusal(
      try_to_start(agent, {}),
      {agent.socket(), "another agent is running, pid " + std::to_string(agent.pid()), "a socket of its own"});
  EXPECT_TRUE(await([&] { return open_descriptors(agent.pid()) == before; }));
  EXPECT_TRUE(await([&] { return open_descriptors(agent.keeper()) == held_before; }));
  agent.expect({"status"}, 0);
  EXPECT_EQ(agent.stop(), 0);
}

TEST_F(Start, SecondAgentWithTheSameKeeperIsRefusedAndTheFirstGoesOn) {
  AgentProcess agent;
  ASSERT_TRUE(agent.start());
  const TestFolder folder;
  const auto held_before = open_descriptors(agent.keeper());
  expect_refusal(
      try_to_start(agent, {{"api.socket", "\"" + (folder / "second.sock") + "\""}}),
      {"keeper.sock", "it serves another agent, pid " + std::to_string(agent.pid()), "keeper.socket of its own"});
  EXPECT_TRUE(await([&] { return open_descriptors(agent.keeper()) == held_before; }));
  EXPECT_FALSE(std::filesystem::exists(folder / "second.sock"));
  agent.expect({"health"}, 0);
  EXPECT_EQ(agent.stop(), 0);
}

TEST_F(Start, SecondAgentWithTheSamePoolFileIsRefused) {
  const TestFolder folder;
  const std::string pool = "/dev/shm/tidepool-test-pool-" + std::to_string(::getpid());
  std::ofstream(pool) << "";
  std::filesystem::resize_file(pool, 64u << 20);
  const Settings mapped{{"pool.embedded.store", "\"mapped\""},
                        {"pool.embedded.path", "\"" + pool + "\""},
                        {"pool.embedded.capacity", "\"100%\""}};
  AgentProcess agent(mapped);
  const bool started = agent.start();
  EXPECT_TRUE(started);
  if (started) {
    AgentProcess other(mapped);
    other.start_keeper();  // one that an agent starts outlives it
    expect_refusal(try_to_start(other, {}), {pool, "another store uses it"});
    agent.expect({"pool", "status"}, 0);
  }
  std::filesystem::remove(pool);
}

TEST_F(Start, MetricsAddressThatIsTakenIsNamedAndNothingIsLeftBehind) {
  const UniqueFd taken{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  ASSERT_EQ(::bind(taken.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(taken.get(), 1), 0);
  ASSERT_EQ(::getsockname(taken.get(), reinterpret_cast<sockaddr*>(&address), &length), 0);
  const std::string endpoint = "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
  AgentProcess agent;
  ASSERT_TRUE(agent.start());
  EXPECT_EQ(agent.stop(), 0);
  expect_refusal(try_to_start(agent, {{"api.metrics", "\"" + endpoint + "\""}}), {endpoint, "api.metrics"});
  // What the start that failed had given to the keeper is gone: the next one succeeds.
  EXPECT_TRUE(agent.start());
}

TEST_F(Start, AuditLogThatCannotBeOpenedIsNamedAndNothingIsLeftBehind) {
  AgentProcess agent;
  ASSERT_TRUE(agent.start());
  EXPECT_EQ(agent.stop(), 0);
  expect_refusal(try_to_start(agent, {{"api.audit_log", "\"/nonexistent/audit.jsonl\""}}),
                 {"/nonexistent/audit.jsonl", "No such file or directory", "api.audit_log"});
  EXPECT_TRUE(agent.start());
}

TEST_F(Start, SocketThatACrashLeftBehindIsReplaced) {
  AgentProcess agent;
  ASSERT_TRUE(agent.start());
  agent.kill_agent();
  ASSERT_TRUE(std::filesystem::exists(agent.socket()));
  agent.expect({"status"}, 4);
  // The keeper still holds the pool of the one that was killed; no VM depends on it.
  ASSERT_TRUE(agent.start());
  agent.expect({"status"}, 0);
}

TEST_F(Start, PathThatIsNoSocketIsLeftAlone) {
  AgentProcess agent;
  std::ofstream(agent.socket()) << "precious";
  expect_refusal(try_to_start(agent, {}), {agent.socket(), "it exists and is not a socket; move it away"});
  EXPECT_EQ(read_file(agent.socket()), "precious");
}

TEST_F(Start, KeeperIsStartedWhereNoneRuns) {
  AgentProcess agent(Settings{{"keeper.program", "\"\""}});
  const std::string lock = agent.folder() / "keeper.sock.lock";
  agent.launch();
  ASSERT_TRUE(agent.await_ready());
  const pid_t keeper = kernel::lock_file_owner(lock);
  ASSERT_GT(keeper, 0);
  EXPECT_EQ(std::filesystem::read_symlink("/proc/" + std::to_string(keeper) + "/exe").filename(), "tidepool-keeper");
  EXPECT_EQ(agent.stop(), 0);
  EXPECT_TRUE(state_of_process(keeper).alive);  // it outlives its agent
  ::kill(keeper, SIGTERM);
  EXPECT_TRUE(await([&] { return !state_of_process(keeper).alive; }));
}

TEST_F(Start, KeeperThatCannotBeStartedIsNamed) {
  AgentProcess agent;
  expect_refusal(try_to_start(agent, {{"keeper.program", "\"/nonexistent/keeper\""}}), {"/nonexistent/keeper"});
  expect_refusal(try_to_start(agent, {{"keeper.program", "\"/bin/false\""}}), {"/bin/false", "it ended at once"});
}

TEST_F(Start, FolderThatCannotBeWrittenIsNamed) {
  AgentProcess agent;
  expect_refusal(try_to_start(agent, {{"api.socket", "\"/nonexistent/agent.sock\""}}),
                 {"/nonexistent/agent.sock", "No such file or directory", "its folder must exist and be writable"});
  // Root is stopped by a file system that is mounted read-only; in a mount namespace of its own.
  const TestFolder read_only;
  const std::string script = "mount -t tmpfs -o ro none " + read_only.path() + " || exit 77; exec " + bin_folder() +
                             "/tidepoold --config " + agent.config();
  agent.write_settings({{"api.socket", "\"" + (read_only / "agent.sock") + "\""}});
  const Outcome outcome = run_program({"/usr/bin/unshare", "-m", "sh", "-c", script});
  if (outcome.code == 77 || outcome.err.find("unshare failed") != std::string::npos)
    GTEST_SKIP() << "no mount namespace can be made here: " << outcome.err;
  expect_refusal(outcome, {read_only / "agent.sock", "Read-only file system"});
}

TEST_F(Start, FullDiskOfTheAuditLogStopsNothingAndIsSaid) {
  AgentProcess agent(Settings{{"api.audit_log", "\"/dev/full\""}});
  ASSERT_TRUE(agent.start());
  agent.expect({"health"}, 0);
  agent.expect({"host", "freeze"}, 0);
  EXPECT_NE(agent.expect({"status"}, 0).find("frozen"), std::string::npos);
  // The record is in the log instead, whole.
  EXPECT_NE(agent.log().find("audit_write_failed"), std::string::npos) << agent.log();
  EXPECT_NE(agent.log().find("/v1/host/frozen"), std::string::npos) << agent.log();
  const std::string health = agent.expect({"health"}, 1);
  EXPECT_NE(health.find("audit"), std::string::npos) << health;
  EXPECT_NE(health.find("No space left on device"), std::string::npos) << health;
}

}  // namespace
}  // namespace tidepool::tests
