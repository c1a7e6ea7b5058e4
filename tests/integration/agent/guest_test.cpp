// A whole virtual machine, unmodified and unprivileged: its guest fills its memory, works on it, and checks every byte,
// while the agent squeezes it to a part, its balloon grows and shrinks, and it is adopted and released again and again.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <pwd.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "base/unique_fd.h"
#include "tests/integration/agent/whole_rig.h"

namespace tidepool::tests {
namespace {

using namespace std::chrono_literals;

std::string cache_folder() {
  if (const char* cache = std::getenv("TIDEPOOL_CACHE")) return cache;
  if (const char* cache = std::getenv("XDG_CACHE_HOME")) return std::string(cache) + "/tidepool";
  const char* home = std::getenv("HOME");
  return std::string(home != nullptr ? home : "/root") + "/.cache/tidepool";
}

std::string why_no_guest() {
  if (const std::string why = why_no_agent(); !why.empty()) return why;
  if (!std::filesystem::exists("/usr/bin/qemu-system-x86_64")) return "no QEMU here (scripts/setup --demo installs it)";
  if (!std::filesystem::exists(cache_folder() + "/guest/vmlinuz")) return "no guest kernel here (scripts/setup --demo)";
  if (!std::filesystem::exists(cache_folder() + "/guest/initramfs"))
    return "no initramfs here: run guest_boots_test once";
  return {};
}

class Guest {
 public:
  // 192 MiB of memory, of which 96 are filled and verified; QEMU's default private memory, or a shared memfd.
  explicit Guest(bool shared) {
    const passwd* nobody = ::getpwnam("nobody");
    EXPECT_EQ(::chown(folder_.path().c_str(), nobody->pw_uid, nobody->pw_gid), 0);
    const std::string memory =
        shared ? "-object memory-backend-memfd,id=ram,size=192M,share=on -machine memory-backend=ram" : "";
    // As scripts/guest does: kernel and initramfs as descriptors, for the guest's user may not reach them.
    const std::string command =
        "exec 8<" + cache_folder() + "/guest/vmlinuz 9<" + cache_folder() + "/guest/initramfs; " +
        "exec setpriv --reuid nobody --regid nogroup --clear-groups --no-new-privs -- qemu-system-x86_64 -name "
        "guest-e2e," +
        "debug-threads=on -nodefaults -no-user-config -display none -no-reboot -machine pc -accel tcg,thread=multi "
        "-cpu max "
        "-smp 2 -m 192M -sandbox on -device virtio-balloon-pci,free-page-reporting=on " +
        memory +
        " -kernel /dev/fd/8 -initrd /dev/fd/9 -append 'console=ttyS0 quiet panic=-1 load.fill=96 load.hot=16 " +
        "load.rate=1000 load.seed=3' -chardev socket,id=console,path=" + folder_ / "console" +
        ",server=on,wait=off,logfile=" + folder_ / "console.log" +
        " -serial chardev:console -qmp unix:" + folder_ / "qmp" + ",server=on,wait=off";
    pid_ = start_program({"/bin/sh", "-c", command}, {}, folder_ / "out", folder_ / "err");
    EXPECT_TRUE(await([&] { return std::filesystem::exists(folder_ / "qmp"); })) << read_file(folder_ / "err");
    console_ = connect_to(folder_ / "console");
    monitor_ = connect_to(folder_ / "qmp");
    say(monitor_, "{\"execute\":\"qmp_capabilities\"}");
    EXPECT_TRUE(await_said("guest ready")) << console() << read_file(folder_ / "err");
  }
  ~Guest() {
    ::kill(pid_, SIGKILL);
    await_exit(pid_);
  }
  pid_t pid() const { return pid_; }
  std::string console() const { return read_file(folder_ / "console.log"); }
  // The guest checks every page; true when all were right.
  bool passes() {
    ++passes_;
    say(console_, "pass");
    const std::string wanted = "pass " + std::to_string(passes_) + " ";
    EXPECT_TRUE(await_said(wanted)) << console();
    return console().find(wanted + "ok") != std::string::npos && console().find("MISMATCH") == std::string::npos;
  }
  // How much memory the guest shall keep.
  void balloon(std::uint64_t mib) {
    say(monitor_, "{\"execute\":\"balloon\",\"arguments\":{\"value\":" + std::to_string(mib << 20) + "}}");
  }

 private:
  static UniqueFd connect_to(const std::string& path) {
    UniqueFd socket{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    EXPECT_TRUE(await([&] {
      return ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
    })) << path;
    return socket;
  }
  static void say(const UniqueFd& socket, const std::string& text) {
    const std::string line = text + "\n";
    EXPECT_EQ(::write(socket.get(), line.data(), line.size()), static_cast<ssize_t>(line.size()));
  }
  bool await_said(const std::string& text) {
    const auto said = [&] {
      listen(console_);
      listen(monitor_);
      const std::string heard = console();
      const std::size_t at = heard.find(text);
      return at != std::string::npos && heard.find('\n', at) != std::string::npos;  // the line is whole
    };
    // Booting under emulation on a busy machine takes its time.
    for (int patience = 0; patience < 4; ++patience) {
      if (await(said)) return true;
    }
    return false;
  }
  // QEMU keeps a log of what it says, but waits for whoever is connected to take it, byte by byte.
  static void listen(const UniqueFd& socket) {
    std::array<char, 4096> text;
    while (::recv(socket.get(), text.data(), text.size(), MSG_DONTWAIT) > 0) {
    }
  }

  TestFolder folder_;
  pid_t pid_ = 0;
  UniqueFd console_;
  UniqueFd monitor_;
  int passes_ = 0;
};

class Guests : public testing::TestWithParam<bool> {};

TEST_P(Guests, FindEveryByteRightWhileTheyAreSqueezed) {
  if (const std::string why = why_no_guest(); !why.empty()) GTEST_SKIP() << why;
  // With a budget, however generous, it gets on.
  Whole whole(merciless({{"defaults.stall_budget", "\"50%\""}}));
  ASSERT_TRUE(whole.start());
  Guest guest(GetParam());
  ASSERT_TRUE(guest.passes());
  const ProcessState before = settled_state(guest.pid());
  const int rounds = is_stress_run() ? 50 : 2;
  for (int round = 0; round < rounds && !HasFailure(); ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    ASSERT_TRUE(whole.adopt(guest.pid(), "guest"));
    // A guest needs much of its memory to run at all: below a quarter it only waits.
    const std::uint64_t percent = round % 2 == 0 ? 40 : 25;
    whole.limit("guest", Bytes{(192ull << 20) * percent / 100});
    whole.await_moved_in_all("guest", Bytes{16ull << 20}, Bytes{});
    guest.balloon(150);
    EXPECT_TRUE(guest.passes()) << guest.console();
    guest.balloon(192);
    if (round % 5 == 0) {
      EXPECT_TRUE(guest.passes()) << guest.console();
    }
    std::printf("out %.1f MiB, home %.1f MiB\n",
                static_cast<double>(whole.figure("guest", "demoted_bytes_total")) / (1 << 20),
                static_cast<double>(whole.figure("guest", "promoted_bytes_total")) / (1 << 20));
    EXPECT_TRUE(whole.release("guest"));
    expect_as_found(guest.pid(), before);
  }
  EXPECT_TRUE(guest.passes()) << guest.console();
  EXPECT_EQ(whole.stop(), 0);
  EXPECT_TRUE(whole.held().empty()) << testing::PrintToString(whole.held());
}

INSTANTIATE_TEST_SUITE_P(Memory, Guests, testing::Values(false, true),
                         [](const auto& memory) { return memory.param ? "Shared" : "Private"; });

}  // namespace
}  // namespace tidepool::tests
