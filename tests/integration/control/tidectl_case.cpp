#include "tests/integration/control/tidectl_case.h"

#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

namespace tidepool::daemon::testing {

std::string slurp(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

Tidectl::Tidectl() {
  options_.socket = folder_.path() + "/agent.sock";
  options_.audit_log = folder_.path() + "/audit.jsonl";
  agent_.add_vm(example_vm("web-3"));
  agent_.add_vm(example_vm("db 1"));
  // Beside a program of its own, so that a real agent that happens to be built or installed is not found.
  program_ = folder_.path() + "/tidectl";
  std::filesystem::copy_file(TIDEPOOL_BINARY_DIR "/bin/tidectl", program_);
}

void Tidectl::start() {
  auto server = ApiServer::start(options_, agent_);
  ASSERT_TRUE(server) << server.error().message();
  server_ = std::move(*server);
}

void Tidectl::place_agent_program() {
  std::filesystem::copy_file(TIDEPOOL_BINARY_DIR "/tests/fake_tidepoold", folder_.path() + "/tidepoold");
}

pid_t Tidectl::spawn(const Words& words, const std::string& out, const std::string& err) {
  const pid_t child = ::fork();
  if (child != 0) return child;
  if (!::freopen("/dev/null", "r", stdin) || !::freopen(out.c_str(), "w", stdout) ||
      !::freopen(err.c_str(), "w", stderr))
    ::_exit(99);
  exec(words);
}

void Tidectl::exec(const Words& words) {
  ::setenv("TIDEPOOL_SOCKET", options_.socket.c_str(), 1);
  ::setenv("PATH", "/nonexistent:.:", 1);
  no_color_ ? ::setenv("NO_COLOR", "1", 1) : ::unsetenv("NO_COLOR");
  std::vector<char*> argv{program_.data()};
  for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  ::execv(program_.c_str(), argv.data());
  ::_exit(98);
}

Tidectl::Outcome Tidectl::run(const Words& words) {
  const std::string out = folder_.path() + "/out";
  const std::string err = folder_.path() + "/err";
  const pid_t child = spawn(words, out, err);
  int status = 0;
  ::waitpid(child, &status, 0);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status), slurp(out), slurp(err)};
}

Tidectl::Outcome Tidectl::run_on_terminal(const Words& words, const std::string& typed) {
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

void Tidectl::expect(const Words& words, int code, std::initializer_list<const char*> parts) {
  const Outcome outcome = run(words);
  std::string line;
  for (const std::string& word : words) line += " " + word;
  EXPECT_EQ(outcome.code, code) << line << "\n" << outcome.out << outcome.err;
  for (const char* part : parts)
    EXPECT_NE((outcome.out + outcome.err).find(part), std::string::npos) << part << " not in output of" << line << ":\n"
                                                                         << outcome.out << outcome.err;
}

}  // namespace tidepool::daemon::testing
