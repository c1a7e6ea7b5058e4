// A keeper of the test's own, in a folder of its own.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <thread>

#include "base/unique_fd.h"
#include "pool/keeper/keeper_holder.h"

namespace tidepool::pool::testing {

inline std::string keeper_program() {
  return std::string(TIDEPOOL_BINARY_DIR) + "/bin/tidepool-keeper";
}

inline bool eventually(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

inline UniqueFd memfd_with(const std::string& text) {
  UniqueFd fd{::memfd_create("held", MFD_CLOEXEC)};
  EXPECT_EQ(::pwrite(fd.get(), text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
  return fd;
}

inline std::string text_of(int fd) {
  std::string text(64, '\0');
  const ssize_t got = ::pread(fd, text.data(), text.size(), 0);
  text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  return text;
}

class Folder {
 public:
  Folder() {
    std::string name = "/tmp/tidepool-keeper-XXXXXX";
    EXPECT_NE(::mkdtemp(name.data()), nullptr);
    path_ = name;
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  std::string socket() const { return path_ + "/keeper.sock"; }
  std::string path() const { return path_; }
  // The keeper that has the lock, 0 when there is none.
  pid_t keeper_pid() const {
    std::ifstream file(socket() + ".lock");
    pid_t pid = 0;
    file >> pid;
    return pid;
  }
  KeeperOptions options() const { return {.socket = socket(), .program = keeper_program()}; }

 private:
  std::string path_;
};

// A keeper that runs as a child, until the test ends.
class KeeperProcess {
 public:
  explicit KeeperProcess(const std::string& socket, rlim_t descriptors = 0) {
    int ends[2];
    EXPECT_EQ(::pipe(ends), 0);
    errors_ = UniqueFd{ends[0]};
    pid_ = ::fork();
    if (pid_ == 0) {
      ::dup2(ends[1], STDERR_FILENO);
      const rlimit limit{descriptors, descriptors};
      if (descriptors != 0) ::setrlimit(RLIMIT_NOFILE, &limit);
      const std::string program = keeper_program();
      ::execl(program.c_str(), program.c_str(), "--socket", socket.c_str(), nullptr);
      ::_exit(127);
    }
    ::close(ends[1]);
  }
  ~KeeperProcess() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      wait();
    }
  }
  KeeperProcess(const KeeperProcess&) = delete;
  KeeperProcess& operator=(const KeeperProcess&) = delete;

  pid_t pid() const { return pid_; }
  void signal(int number) const { ::kill(pid_, number); }
  // Exit status, or minus the signal that ended it.
  int wait() {
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  bool running() const { return pid_ > 0 && ::waitpid(pid_, nullptr, WNOHANG) == 0; }
  // What it has said, up to the next pause or its end.
  std::string read_errors() const {
    std::string text(1024, '\0');
    const ssize_t got = ::read(errors_.get(), text.data(), text.size());
    text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
    return text;
  }
  std::size_t open_descriptors() const {
    std::size_t count = 0;
    for ([[maybe_unused]] const auto& entry :
         std::filesystem::directory_iterator("/proc/" + std::to_string(pid_) + "/fd"))
      ++count;
    return count;
  }

 private:
  pid_t pid_ = -1;
  UniqueFd errors_;
};

inline std::unique_ptr<KeeperHolder> connect_to(const Folder& folder) {
  std::unique_ptr<KeeperHolder> holder;
  EXPECT_TRUE(eventually([&] {
    auto connected = KeeperHolder::connect(folder.options());
    if (connected) holder = std::move(*connected);
    return holder != nullptr;
  }));
  return holder;
}

}  // namespace tidepool::pool::testing
