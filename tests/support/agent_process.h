// The real agent with its keeper, in a folder of their own, and tidectl to speak with them: what a test of the whole
// starts with. Needs root, as adoption does.
#pragma once

#include <sys/types.h>

#include <map>
#include <string>

#include "tests/support/program.h"

namespace tidepool::tests {

// Why the agent cannot adopt anything here; empty when it can.
std::string why_no_agent();

// Dotted keys of the agent's configuration and their values as TOML text.
using Settings = std::map<std::string, std::string>;

class AgentProcess {
 public:
  // Written to the folder; nothing runs yet. What is not set is as a test wants it: everything in the folder, every
  // executable allowed, no metrics endpoint, short ticks and graces, a keeper of its own.
  explicit AgentProcess(const Settings& settings = {});
  // The agent is asked to end, and killed when it does not; then the keeper. Shows the agent's log when the test
  // failed.
  ~AgentProcess();
  AgentProcess(const AgentProcess&) = delete;
  AgentProcess& operator=(const AgentProcess&) = delete;

  // Starts keeper (unless it runs) and agent, and waits until it is ready. False, with a failure of the test, when it
  // ends instead.
  bool start(const std::function<bool()>& prepare = {});
  // Without waiting: for an agent that is expected to refuse. `prepare` as for start_program.
  void launch(const std::function<bool()>& prepare = {});
  bool await_ready();
  // SIGTERM, and the exit status. After that start() may follow.
  int stop();
  int await_end();
  void kill_agent();
  // SIGKILL. What it held goes with it.
  void kill_keeper();
  void start_keeper();

  void write_settings(const Settings& settings);
  void write_config(const std::string& text);
  // SIGHUP, and waits until the agent has said what became of it.
  void reload();

  // Against this agent, with the words behind "tidectl".
  Outcome tidectl(const Words& words) const;
  // The same, which must end with `code`; returns the output.
  std::string expect(const Words& words, int code) const;

  bool running() const;
  pid_t pid() const { return agent_; }
  pid_t keeper() const { return keeper_; }
  std::string log() const { return read_file(folder_ / "agent.log"); }
  std::string audit() const { return read_file(folder_ / "audit.jsonl"); }
  const TestFolder& folder() const { return folder_; }
  std::string socket() const { return folder_ / "agent.sock"; }
  std::string config() const { return folder_ / "agent.toml"; }
  Settings settings() const { return settings_; }

 private:
  TestFolder folder_;
  Settings settings_;
  mutable pid_t agent_ = 0;
  pid_t keeper_ = 0;
};

}  // namespace tidepool::tests
