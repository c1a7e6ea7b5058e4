// The VM rig's init: puts the host's file tree under a writable layer, runs one command in it, and switches the machine
// off. The command (a bash script) comes from, and its exit status goes to, a folder shared with the host.
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

#include "tests/guest/guest_system.h"

namespace tidepool::guest {
namespace {

constexpr const char* kHost = "/host";
constexpr const char* kLayer = "/layer";
constexpr const char* kRoot = "/root";
constexpr const char* kShare = "/run/tidepool-vm";
constexpr const char* kNinePOptions = "trans=virtio,version=9p2000.L,msize=524288";

[[noreturn]] void give_up(const std::string& what) {
  std::printf("vm: %s: %s\n", what.c_str(), std::strerror(errno));
  power_off();
}

void mount_or_give_up(const char* source, const std::string& target, const char* type, unsigned long flags,
                      const std::string& options) {
  ::mkdir(target.c_str(), 0755);
  if (::mount(source, target.c_str(), type, flags, options.c_str()) != 0) give_up("cannot mount " + target);
}

// What a kernel may lack: a test that needs it says so itself.
void mount_if_possible(const char* type, const std::string& target) {
  ::mkdir(target.c_str(), 0755);
  if (::mount(type, target.c_str(), type, 0, nullptr) != 0)
    std::printf("vm: no %s at %s: %s\n", type, target.c_str(), std::strerror(errno));
}

void make_root() {
  mount_or_give_up("host", kHost, "9p", MS_RDONLY, std::string(kNinePOptions) + ",cache=loose");
  mount_or_give_up("tmpfs", kLayer, "tmpfs", 0, "");
  for (const char* name : {"/upper", "/work"}) ::mkdir((std::string(kLayer) + name).c_str(), 0755);
  mount_or_give_up("overlay", kRoot, "overlay", 0,
                   std::string("lowerdir=") + kHost + ",upperdir=" + kLayer + "/upper,workdir=" + kLayer + "/work");
  const std::string root = kRoot;
  mount_or_give_up("proc", root + "/proc", "proc", 0, "");
  mount_or_give_up("sysfs", root + "/sys", "sysfs", 0, "");
  mount_or_give_up("devtmpfs", root + "/dev", "devtmpfs", 0, "");
  mount_if_possible("devpts", root + "/dev/pts");
  mount_if_possible("tmpfs", root + "/dev/shm");
  mount_if_possible("debugfs", root + "/sys/kernel/debug");
  mount_if_possible("tracefs", root + "/sys/kernel/tracing");
  mount_if_possible("cgroup2", root + "/sys/fs/cgroup");
  mount_or_give_up("share", root + kShare, "9p", 0, kNinePOptions);
}

void bring_loopback_up() {
  const int socket = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  ifreq request{};
  std::strncpy(request.ifr_name, "lo", IFNAMSIZ - 1);
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  if (socket < 0 || ::ioctl(socket, SIOCSIFFLAGS, &request) != 0) std::printf("vm: no loopback network\n");
  if (socket >= 0) ::close(socket);
}

// QEMU's software processor keeps translations when the kernel clears accessed bits without flushing, so memory in a
// tight loop looks idle. A switch of address spaces flushes them: one process per processor that wakes every two
// milliseconds.
void tick_on_every_processor() {
  constexpr useconds_t kPeriod = 2000;
  const long processors = ::sysconf(_SC_NPROCESSORS_ONLN);
  for (int processor = 0; processor < processors; ++processor) {
    if (::fork() != 0) continue;
    cpu_set_t only;
    CPU_ZERO(&only);
    CPU_SET(processor, &only);
    ::sched_setaffinity(0, sizeof only, &only);
    ::setpriority(PRIO_PROCESS, 0, -20);
    for (;;) ::usleep(kPeriod);
  }
}

// The second serial line, byte for byte.
int open_output() {
  const int line = ::open("/dev/ttyS1", O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (line < 0) give_up("cannot open the output line");
  termios settings{};
  ::tcgetattr(line, &settings);
  ::cfmakeraw(&settings);
  ::tcsetattr(line, TCSANOW, &settings);
  return line;
}

int run_command(int output) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::setsid();
    if (::chroot(kRoot) != 0 || ::chdir("/") != 0) std::_Exit(126);
    const int nothing = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    ::dup2(nothing, STDIN_FILENO);
    ::dup2(output, STDOUT_FILENO);
    ::dup2(output, STDERR_FILENO);
    const std::string script = std::string(kShare) + "/command";
    ::execl("/bin/bash", "bash", script.c_str(), nullptr);
    std::_Exit(127);
  }
  int status = 0;
  // Orphans of the command end here, too.
  for (pid_t ended = 0; ended != child;) {
    ended = ::wait(&status);
    if (ended < 0 && errno != EINTR) return 126;
  }
  ::tcdrain(output);
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

}  // namespace
}  // namespace tidepool::guest

int main() {
  using namespace tidepool::guest;
  prepare_system();
  make_root();
  bring_loopback_up();
  const int output = open_output();
  tick_on_every_processor();
  const int status = run_command(output);
  {
    std::ofstream file(std::string(kRoot) + kShare + "/status");
    file << status << '\n';
  }
  power_off();
}
