#include "tests/guest/guest_system.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

namespace tidepool::guest {
namespace {

void mount_at(const char* type, const char* target) {
  ::mkdir(target, 0755);
  if (::mount(type, target, type, 0, nullptr) != 0 && errno != EBUSY) {
    std::printf("guest: cannot mount %s: %s\n", target, std::strerror(errno));
  }
}

void load_module(const std::filesystem::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0 || (::syscall(SYS_finit_module, fd, "", 0) != 0 && errno != EEXIST)) {
    std::printf("guest: cannot load %s: %s\n", path.c_str(), std::strerror(errno));
  }
  if (fd >= 0) ::close(fd);
}

}  // namespace

void prepare_system() {
  mount_at("devtmpfs", "/dev");
  mount_at("proc", "/proc");
  mount_at("sysfs", "/sys");
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  std::vector<std::filesystem::path> modules;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator("/modules", none)) modules.push_back(entry.path());
  std::ranges::sort(modules);
  for (const auto& module : modules) load_module(module);
}

std::map<std::string, std::string> load_parameters() {
  std::map<std::string, std::string> parameters;
  std::ifstream line("/proc/cmdline");
  constexpr std::string_view kPrefix = "load.";
  for (std::string word; line >> word;) {
    const std::size_t equals = word.find('=');
    if (!word.starts_with(kPrefix) || equals == std::string::npos) continue;
    parameters[word.substr(kPrefix.size(), equals - kPrefix.size())] = word.substr(equals + 1);
  }
  return parameters;
}

std::string poll_command() {
  static std::string pending;
  pollfd console{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
  if (::poll(&console, 1, 0) > 0) {
    std::array<char, 256> chunk{};
    const ssize_t got = ::read(STDIN_FILENO, chunk.data(), chunk.size());
    if (got > 0) pending.append(chunk.data(), static_cast<std::size_t>(got));
  }
  const std::size_t end = pending.find('\n');
  if (end == std::string::npos) return {};
  std::string command = pending.substr(0, end);
  pending.erase(0, end + 1);
  while (!command.empty() && command.back() == '\r') command.pop_back();
  return command;
}

void power_off() {
  std::fflush(stdout);
  ::sync();
  ::reboot(RB_POWER_OFF);
  for (;;) ::pause();
}

}  // namespace tidepool::guest
