#include "tests/integration/load/load_process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>

namespace tidepool::load {

LoadProcess::LoadProcess(std::vector<std::string> arguments, const std::string& name) {
  const char* folder = std::getenv("TIDEPOOL_BIN");
  const std::string program =
      name.starts_with('/') ? name : std::string(folder ? folder : TIDEPOOL_BINARY_DIR "/bin") + "/" + name;
  arguments.insert(arguments.begin(), program);
  std::vector<char*> argv;
  argv.reserve(arguments.size() + 1);
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);

  std::array<int, 2> ends{-1, -1};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
    ADD_FAILURE() << "no pipe";
    return;
  }
  output_ = UniqueFd{ends[0]};
  const UniqueFd write_end{ends[1]};
  pid_ = ::fork();
  if (pid_ == 0) {
    ::dup2(write_end.get(), STDOUT_FILENO);
    ::execv(program.c_str(), argv.data());
    ::_exit(127);
  }
  EXPECT_GT(pid_, 0);
}

LoadProcess::~LoadProcess() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

void LoadProcess::signal(int number) const {
  EXPECT_EQ(::kill(pid_, number), 0);
}

std::optional<std::string> LoadProcess::read_line(std::chrono::seconds limit) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  for (;;) {
    if (const std::size_t end = buffered_.find('\n'); end != std::string::npos) {
      std::string line = buffered_.substr(0, end);
      buffered_.erase(0, end + 1);
      return line;
    }
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    pollfd readable{.fd = output_.get(), .events = POLLIN, .revents = 0};
    if (left.count() <= 0 || ::poll(&readable, 1, static_cast<int>(left.count())) <= 0) return std::nullopt;
    std::array<char, 4096> chunk{};
    const ssize_t got = ::read(output_.get(), chunk.data(), chunk.size());
    if (got <= 0) return std::nullopt;
    buffered_.append(chunk.data(), static_cast<std::size_t>(got));
  }
}

AddressRange LoadProcess::wait_until_ready() {
  while (const auto line = read_line()) {
    unsigned long long start = 0;
    unsigned long long end = 0;
    if (std::sscanf(line->c_str(), "ready pid=%*d address=%llx-%llx", &start, &end) == 2)
      return {.start = start, .end = end};
  }
  ADD_FAILURE() << "tidepool-load never became ready";
  return {};
}

int LoadProcess::wait_for_exit() {
  int status = 0;
  EXPECT_EQ(::waitpid(pid_, &status, 0), pid_);
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::vector<std::byte> LoadProcess::peek(std::uint64_t address, std::size_t size) const {
  std::vector<std::byte> bytes(size);
  const iovec local{.iov_base = bytes.data(), .iov_len = size};
  // NOLINTNEXTLINE(performance-no-int-to-ptr): an address in the other process
  const iovec remote{.iov_base = reinterpret_cast<void*>(address), .iov_len = size};
  EXPECT_EQ(::process_vm_readv(pid_, &local, 1, &remote, 1, 0), static_cast<ssize_t>(size));
  return bytes;
}

void LoadProcess::poke(std::uint64_t address, const std::vector<std::byte>& bytes) const {
  const iovec local{.iov_base = const_cast<std::byte*>(bytes.data()), .iov_len = bytes.size()};
  // NOLINTNEXTLINE(performance-no-int-to-ptr): an address in the other process
  const iovec remote{.iov_base = reinterpret_cast<void*>(address), .iov_len = bytes.size()};
  EXPECT_EQ(::process_vm_writev(pid_, &local, 1, &remote, 1, 0), static_cast<ssize_t>(bytes.size()));
}

void LoadProcess::stop_threads() const {
  signal(SIGSTOP);
  int status = 0;
  // Returns once the whole group has stopped.
  EXPECT_EQ(::waitpid(pid_, &status, WUNTRACED), pid_);
  EXPECT_TRUE(WIFSTOPPED(status));
}

}  // namespace tidepool::load
