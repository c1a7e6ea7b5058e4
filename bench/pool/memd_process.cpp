#include "bench/pool/memd_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <stdexcept>

namespace tidepool::bench {

protocol::ServerKey MemdProcess::key() {
  protocol::ServerKey bytes{};
  bytes.fill(0x37);
  return bytes;
}

MemdProcess::MemdProcess(int port, Bytes capacity, bool authenticate_unix, bool share) {
  char folder[] = "/tmp/bench-pool-XXXXXX";
  if (::mkdtemp(folder) == nullptr) throw std::runtime_error("no folder in /tmp");
  folder_ = folder;
  ::chmod(folder, 0755);
  address_ = port != 0 ? "tcp:127.0.0.1:" + std::to_string(port) : "unix:" + folder_ + "/socket";
  const std::string program = std::filesystem::read_symlink("/proc/self/exe").parent_path() / "tidepool-memd";
  if (!std::filesystem::exists(program)) throw std::runtime_error(program + " is missing: build it first");
  const std::string key_file = folder_ + "/key";
  const auto bytes = key();
  std::ofstream(key_file, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  ::chmod(key_file.c_str(), 0600);
  const std::string config = folder_ + "/memd.toml";
  std::ofstream(config) << "schema = 1\nname = \"bench\"\nlisten = [\"" << address_ << "\"]\nkey_file = \"" << key_file
                        << "\"\nmetrics = \"\"\nauthenticate_unix = " << (authenticate_unix ? "true" : "false")
                        << "\nmemory.share = " << (share ? "true" : "false") << "\nmemory.capacity = \""
                        << (capacity.value >> 20) << "MiB\"\nlimits.threads = 1\n";
  std::array<std::string, 3> words{program, "--config", config};
  std::array<char*, 4> arguments{words[0].data(), words[1].data(), words[2].data(), nullptr};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  const std::string log = folder_ + "/log";
  posix_spawn_file_actions_addopen(&actions, 2, log.c_str(), O_WRONLY | O_CREAT, 0600);
  posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
  const int error = ::posix_spawn(&pid_, program.c_str(), &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) throw std::runtime_error("cannot start " + program);
}

MemdProcess::~MemdProcess() {
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
  std::filesystem::remove_all(folder_);
}

}  // namespace tidepool::bench
