#include "tests/support/agent_process.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>

#include "base/unique_fd.h"

namespace tidepool::tests {
namespace {

std::size_t count_of(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

std::string quoted(const std::string& text) {
  return "\"" + text + "\"";
}

bool has_ended(pid_t pid) {
  siginfo_t info{};
  return ::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid != 0;
}

bool listens(const std::string& path) {
  const UniqueFd socket{::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)};
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  return ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
}

void end(pid_t pid) {
  if (pid <= 0) return;
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
}

}  // namespace

std::string why_no_agent() {
  return ::geteuid() == 0 ? "" : "adoption needs root";
}

AgentProcess::AgentProcess(const Settings& settings) {
  settings_ = {{"schema", "1"},
               {"api.socket", quoted(socket())},
               {"api.metrics", "\"\""},
               {"api.audit_log", quoted(folder_ / "audit.jsonl")},
               {"policy.need_archive", quoted(folder_ / "need")},
               {"keeper.holder", "\"keeper\""},
               {"keeper.socket", quoted(folder_ / "keeper.sock")},
               {"keeper.program", quoted(bin_folder() + "/tidepool-keeper")},
               {"adopt.allow_exe", "[\"/*\"]"},
               {"pool.embedded.capacity", "\"128MiB\""},
               {"pager.grace", "\"20ms\""},
               {"policy.tick", "\"100ms\""},
               {"defaults.min_cold_age", "\"200ms\""}};
  write_settings(settings);
}

AgentProcess::~AgentProcess() {
  if (running()) {
    ::kill(agent_, SIGTERM);
    await_end();
  }
  end(keeper_);
  if (::testing::Test::HasFailure()) std::cerr << "the agent's log:\n" << log() << "\n";
}

void AgentProcess::write_settings(const Settings& settings) {
  for (const auto& [key, value] : settings) settings_[key] = value;
  std::string text;
  for (const auto& [key, value] : settings_) text += key + " = " + value + "\n";
  write_config(text);
}

void AgentProcess::write_config(const std::string& text) {
  std::ofstream(config()) << text;
}

void AgentProcess::start_keeper() {
  if (keeper_ > 0 && !has_ended(keeper_)) return;
  keeper_ = start_program({"tidepool-keeper", "--socket", folder_ / "keeper.sock"}, {}, folder_ / "keeper.out",
                          folder_ / "keeper.log");
  // A keeper that was killed leaves its socket behind.
  EXPECT_TRUE(await([&] { return listens(folder_ / "keeper.sock") || has_ended(keeper_); }));
  EXPECT_FALSE(has_ended(keeper_)) << read_file(folder_ / "keeper.log");
}

void AgentProcess::launch(const std::function<bool()>& prepare) {
  // What a test's own service manager would offer is not meant for this agent.
  ::unsetenv("NOTIFY_SOCKET");
  agent_ =
      start_program({"tidepoold", "--config", config()}, {}, folder_ / "agent.out", folder_ / "agent.log", prepare);
}

bool AgentProcess::await_ready() {
  const bool ready = await([&] { return !running() || log().find("msg=ready") != std::string::npos; }) && running();
  EXPECT_TRUE(ready) << log();
  return ready;
}

bool AgentProcess::start(const std::function<bool()>& prepare) {
  start_keeper();
  launch(prepare);
  return await_ready();
}

bool AgentProcess::running() const {
  return agent_ > 0 && !has_ended(agent_);
}

int AgentProcess::await_end() {
  const int code = await_exit(agent_);
  agent_ = 0;
  return code;
}

int AgentProcess::stop() {
  ::kill(agent_, SIGTERM);
  return await_end();
}

void AgentProcess::kill_agent() {
  end(agent_);
  agent_ = 0;
}

void AgentProcess::kill_keeper() {
  end(keeper_);
  keeper_ = 0;
}

void AgentProcess::reload() {
  const auto said = [&] { return count_of(log(), "msg=\"configuration reloaded\"") + count_of(log(), "not reloaded"); };
  const std::size_t before = said();
  ::kill(agent_, SIGHUP);
  EXPECT_TRUE(await([&] { return said() > before || !running(); })) << log();
}

Outcome AgentProcess::tidectl(const Words& words) const {
  Words all{"tidectl", "--socket", socket()};
  all.insert(all.end(), words.begin(), words.end());
  return run_program(all);
}

std::string AgentProcess::expect(const Words& words, int code) const {
  const Outcome outcome = tidectl(words);
  std::string line = "tidectl";
  for (const std::string& word : words) line += " " + word;
  EXPECT_EQ(outcome.code, code) << line << "\n" << outcome.all();
  return outcome.all();
}

}  // namespace tidepool::tests
