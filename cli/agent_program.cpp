#include "cli/agent_program.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <string_view>

#include "base/unique_fd.h"

namespace tidepool::cli {
namespace {

constexpr std::size_t kMostCaptured = 16u << 20;

bool executable(const std::filesystem::path& path) {
  return ::access(path.c_str(), X_OK) == 0 && std::filesystem::is_regular_file(path);
}

Result<std::string> read_all(int fd) {
  std::string text;
  std::array<char, 16384> chunk{};
  while (true) {
    const ssize_t got = ::read(fd, chunk.data(), chunk.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno_failure("read", "the program's output");
    if (got == 0) return text;
    text.append(chunk.data(), static_cast<std::size_t>(got));
    if (text.size() > kMostCaptured) return failure(std::errc::file_too_large, "read", "the program's output");
  }
}

}  // namespace

std::optional<std::string> find_program(std::string_view name) {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (!error && executable(self.parent_path() / name)) return (self.parent_path() / name).string();
  const char* path = std::getenv("PATH");
  std::string_view rest = path ? path : "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
  while (!rest.empty()) {
    const std::string_view folder = rest.substr(0, rest.find(':'));
    rest.remove_prefix(std::min(rest.size(), folder.size() + 1));
    // An empty or relative entry means the current folder: no place to find a privileged program in.
    if (!folder.starts_with('/')) continue;
    if (const auto candidate = std::filesystem::path(folder) / name; executable(candidate)) return candidate.string();
  }
  return std::nullopt;
}

Result<ProgramEnd> run_program(const std::string& program, const std::vector<std::string>& arguments, bool capture) {
  std::array<int, 2> ends{-1, -1};
  if (capture && ::pipe2(ends.data(), O_CLOEXEC) != 0) return errno_failure("create", "a pipe");
  const UniqueFd reading{ends[0]};
  UniqueFd writing{ends[1]};
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  if (capture) ::posix_spawn_file_actions_adddup2(&actions, writing.get(), STDOUT_FILENO);
  std::vector<char*> argv{const_cast<char*>(program.c_str())};  // posix_spawn takes char* and changes nothing
  for (const std::string& each : arguments) argv.push_back(const_cast<char*>(each.c_str()));
  argv.push_back(nullptr);
  pid_t child = 0;
  const int failed = ::posix_spawn(&child, program.c_str(), &actions, nullptr, argv.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) return failure_from(failed, "start", program);
  writing.reset();
  ProgramEnd end;
  Result<> read_problem;
  if (capture) {
    Result<std::string> text = read_all(reading.get());
    if (text) {
      end.output = std::move(*text);
    } else {
      read_problem = Failure(text.error());
    }
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return errno_failure("wait for", program);
  }
  if (!read_problem) return Failure(read_problem.error());
  end.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return end;
}

}  // namespace tidepool::cli
