#include "tests/support/program.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "base/unique_fd.h"

namespace tidepool::tests {

bool await(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

std::string bin_folder() {
  const char* folder = std::getenv("TIDEPOOL_BIN");
  return folder != nullptr ? folder : TIDEPOOL_BINARY_DIR "/bin";
}

std::string read_file(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

pid_t start_program(const Words& words, const Environment& more, const std::string& out, const std::string& err,
                    const std::function<bool()>& prepare) {
  Words arguments = words;
  if (arguments.at(0).find('/') == std::string::npos) arguments[0] = bin_folder() + "/" + arguments[0];
  std::vector<char*> argv;
  argv.reserve(arguments.size() + 1);
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  const UniqueFd null{::open("/dev/null", O_RDONLY | O_CLOEXEC)};
  const UniqueFd output{::open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600)};
  const UniqueFd errors{::open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600)};
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::dup2(null.get(), STDIN_FILENO);
  ::dup2(output.get(), STDOUT_FILENO);
  ::dup2(errors.get(), STDERR_FILENO);
  for (const auto& [name, value] : more) ::setenv(name.c_str(), value.c_str(), 1);
  if (prepare && !prepare()) ::_exit(126);
  ::execv(argv[0], argv.data());
  ::_exit(127);
}

int await_exit(pid_t pid) {
  int status = 0;
  const auto ended = [&] {
    const pid_t got = ::waitpid(pid, &status, WNOHANG);
    return got == pid || (got < 0 && errno == ECHILD);
  };
  if (!await(ended)) {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, &status, 0);
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

Outcome run_program(const Words& words, const Environment& more) {
  const TestFolder folder;
  const pid_t pid = start_program(words, more, folder / "out", folder / "err");
  Outcome outcome;
  outcome.code = await_exit(pid);
  outcome.out = read_file(folder / "out");
  outcome.err = read_file(folder / "err");
  return outcome;
}

TestFolder::TestFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "tidepool-test-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
  path_ = name;
}

TestFolder::~TestFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace tidepool::tests
