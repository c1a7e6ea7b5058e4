#include "tests/integration/handoff/handoff_peer.h"

#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <span>
#include <sstream>
#include <thread>

#include "kmod-interfaces/fd_passing.h"
#include "kmod-interfaces/userfaultfd.h"
#include "tests/support/program.h"

namespace tidepool::tests {
namespace {

[[noreturn]] void give_up(const char* what) {
  std::perror(what);
  ::_exit(70);
}

std::uint64_t word(std::uint64_t page, std::uint64_t version, std::uint64_t index) {
  if (version == 0) return 0;
  // Some pages repeat one word, half of them compress.
  if (page % 7 == 3) return version * 0x0101010101010101ull;
  if (page % 2 == 0 && index % 4 != 0) return version;
  std::uint64_t x = (page * 0x9E3779B97F4A7C15ull) ^ (version * 0xC2B2AE3D27D4EB4Full) ^ index;
  x ^= x >> 29;
  return x * 0xBF58476D1CE4E5B9ull;
}

// The process: what it has, and what it does when told.
class Child {
 public:
  Child(const PeerOptions& options, int channel) : options_(options), channel_(channel) {}

  void run() {
    make_memory();
    UniqueFd userfaultfd = make_userfaultfd();
    if (options_.user != 0 || options_.group != 0) become_somebody();
    hand_off(userfaultfd);
    say(read_answer(connection_.get()));
    for (std::string line = hear(); !line.empty(); line = hear()) say(obey(line) ? "yes" : "no");
    ::_exit(0);
  }

 private:
  void make_memory() {
    const std::size_t size = options_.pages * kPageSize;
    const std::size_t part = size / options_.regions;
    if (options_.shared) {
      file_ = UniqueFd{::memfd_create("guest", MFD_CLOEXEC)};
      if (::ftruncate(file_.get(), static_cast<off_t>(size)) != 0) give_up("ftruncate");
    }
    // Apart by inaccessible pages, as VMMs like it, and each with its own mapping.
    const std::size_t stride = part + 16 * kPageSize;
    void* room = ::mmap(nullptr, stride * options_.regions, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room == MAP_FAILED) give_up("mmap");
    for (unsigned i = 0; i < options_.regions; ++i) {
      auto* at = static_cast<std::byte*>(room) + i * stride;
      const int flags = MAP_FIXED | (options_.shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS);
      if (::mmap(at, part, PROT_READ | PROT_WRITE, flags, file_.get(), static_cast<off_t>(i * part)) == MAP_FAILED)
        give_up("mmap");
      ::madvise(at, part, MADV_NOHUGEPAGE);
      if (options_.touches_first) std::memset(at, 1, part);
      const auto start = reinterpret_cast<std::uintptr_t>(at);
      regions_.push_back({start, start + part});
    }
    zero_from_.resize(options_.pages);
  }

  // In another process that has its memory at the same addresses.
  UniqueFd foreign_userfaultfd() {
    std::array<int, 2> ends{};
    if (::socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()) != 0) give_up("socketpair");
    const pid_t owner = ::fork();
    if (owner == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      UniqueFd fd = open_userfaultfd();
      const std::array passed{fd.get()};
      static constexpr std::array letter{std::byte{'u'}};
      (void)kernel::send_message(ends[0], letter, passed);
      for (;;) ::pause();
    }
    std::array<std::byte, 1> letter{};
    auto got = kernel::receive_message(ends[1], letter);
    if (!got || got->descriptors.size() != 1) give_up("foreign userfaultfd");
    return std::move(got->descriptors.front());
  }

  UniqueFd open_userfaultfd() {
    const int flags = O_CLOEXEC | (options_.blocking ? 0 : O_NONBLOCK) | options_.userfaultfd_flags;
    UniqueFd fd{static_cast<int>(::syscall(SYS_userfaultfd, flags))};
    if (!fd.valid()) give_up("userfaultfd");
    kernel::Userfaultfd userfaultfd{std::move(fd)};
    if (options_.features && !userfaultfd.handshake(*options_.features)) give_up("UFFDIO_API");
    for (const AddressRange& region : regions_) {
      if (options_.features && options_.registers && !userfaultfd.register_range(region, UFFDIO_REGISTER_MODE_MISSING))
        give_up("UFFDIO_REGISTER");
    }
    return UniqueFd{::fcntl(userfaultfd.fd(), F_DUPFD_CLOEXEC, 0)};
  }

  UniqueFd make_userfaultfd() { return options_.foreign ? foreign_userfaultfd() : open_userfaultfd(); }

  void become_somebody() {
    if (::setgroups(0, nullptr) != 0 || ::setresgid(options_.group, options_.group, options_.group) != 0 ||
        ::setresuid(options_.user, options_.user, options_.user) != 0)
      give_up("become another user");
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  }

  void hand_off(const UniqueFd& userfaultfd) {
    connection_ = connect_to(options_.socket);
    if (!connection_.valid()) give_up("connect");
    std::vector<int> descriptors{userfaultfd.get()};
    if (options_.send_file) descriptors.push_back(file_.get());
    if (options_.descriptors_swapped) std::ranges::reverse(descriptors);
    const std::string message = handoff_message(regions_);
    if (!kernel::send_message(connection_.get(), std::as_bytes(std::span(message)), descriptors)) give_up("send");
    userfaultfd_ = userfaultfd.duplicate();
  }

  volatile std::uint64_t* page(std::uint64_t number) const {
    const std::uint64_t per_region = options_.pages / options_.regions;
    const AddressRange& region = regions_[number / per_region];
    // NOLINTNEXTLINE(performance-no-int-to-ptr): an address of ours
    return reinterpret_cast<std::uint64_t*>(region.start + number % per_region * kPageSize);
  }

  void write_page(std::uint64_t number, std::uint64_t version) {
    volatile std::uint64_t* words = page(number);
    for (std::uint64_t i = 0; i < kPageSize / 8; ++i) words[i] = word(number, version, i);
  }
  bool page_is(std::uint64_t number, std::uint64_t version) const {
    const volatile std::uint64_t* words = page(number);
    for (std::uint64_t i = 0; i < kPageSize / 8; ++i) {
      if (words[i] == word(number, version, i)) continue;
      std::fprintf(stderr, "page %lu word %lu is %lx, version %lu\n", number, i, words[i], version);
      return false;
    }
    return true;
  }
  std::uint64_t pages() const { return options_.pages; }

  bool fill(std::uint64_t version) {
    for (std::uint64_t i = 0; i < pages(); ++i) write_page(i, version);
    zero_from_.assign(pages(), false);
    return true;
  }
  bool holds(std::uint64_t version) const {
    for (std::uint64_t i = 0; i < pages(); ++i) {
      if (!page_is(i, zero_from_[i] ? 0 : version)) return false;
    }
    return true;
  }
  bool holds_file(const std::string& path) const {
    std::ifstream file(path, std::ios::binary);
    std::array<char, kPageSize> expected{};
    for (std::uint64_t i = 0; i < pages(); ++i) {
      if (!file.read(expected.data(), expected.size())) return false;
      if (std::memcmp(expected.data(), const_cast<const std::uint64_t*>(page(i)), kPageSize) != 0) return false;
    }
    return true;
  }
  bool kernel_reads() const {
    const UniqueFd sink{::memfd_create("sink", MFD_CLOEXEC)};
    for (const AddressRange& region : regions_) {
      // NOLINTNEXTLINE(performance-no-int-to-ptr): an address of ours
      const auto* from = reinterpret_cast<const std::byte*>(region.start);
      for (std::size_t done = 0; done < region.size();) {
        const ssize_t count = ::write(sink.get(), from + done, region.size() - done);
        if (count <= 0) return false;
        done += static_cast<std::size_t>(count);
      }
    }
    return true;
  }

  void work() {
    std::mt19937_64 random(7);
    std::vector<std::uint64_t> versions(pages(), 0);
    while (!stop_) {
      const std::uint64_t at = random() % pages();
      if (!page_is(at, versions[at])) wrong_ = true;
      if (random() % 2 == 0) write_page(at, ++versions[at]);
    }
    for (std::uint64_t i = 0; i < pages(); ++i) {
      if (!page_is(i, versions[i])) wrong_ = true;
    }
  }
  bool start_working() {
    fill(0);
    stop_ = false;
    worker_ = std::thread([this] { work(); });
    return true;
  }
  bool stop_working() {
    stop_ = true;
    worker_.join();
    return !wrong_;
  }

  bool discard_first_half() {
    for (std::uint64_t i = 0; i < pages() / 2; ++i) {
      if (::madvise(const_cast<std::uint64_t*>(page(i)), kPageSize, MADV_DONTNEED) != 0) return false;
      zero_from_[i] = true;
    }
    return true;
  }
  bool connection_closed() const {
    pollfd waiting{.fd = connection_.get(), .events = POLLIN | POLLRDHUP, .revents = 0};
    char byte = 0;
    return ::poll(&waiting, 1, 120000) == 1 && ::recv(connection_.get(), &byte, 1, MSG_DONTWAIT) == 0;
  }

  bool obey(const std::string& line) {
    std::istringstream words(line);
    std::string what;
    std::string argument;
    words >> what >> argument;
    if (what == "fill") return fill(std::strtoull(argument.c_str(), nullptr, 10));
    if (what == "holds") return holds(std::strtoull(argument.c_str(), nullptr, 10));
    if (what == "holds-file") return holds_file(argument);
    if (what == "kernel-reads") return kernel_reads();
    if (what == "work") return start_working();
    if (what == "stop-work") return stop_working();
    if (what == "discard") return discard_first_half();
    if (what == "closed") return connection_closed();
    ::_exit(0);
  }

  void say(const std::string& text) const {
    const std::string line = text + "\n";
    if (::send(channel_, line.data(), line.size(), MSG_NOSIGNAL) < 0) ::_exit(71);
  }
  std::string hear() const { return read_answer(channel_); }

  const PeerOptions options_;
  const int channel_;
  UniqueFd file_;
  UniqueFd userfaultfd_;
  UniqueFd connection_;
  std::vector<AddressRange> regions_;
  std::vector<bool> zero_from_;
  std::thread worker_;
  std::atomic<bool> stop_{false};
  std::atomic<bool> wrong_{false};
};

}  // namespace

std::string handoff_message(const std::vector<AddressRange>& regions) {
  std::string text = "[";
  std::uint64_t offset = 0;
  for (const AddressRange& region : regions) {
    if (text.size() > 1) text += ",";
    text += R"({"base_host_virt_addr":)" + std::to_string(region.start) + R"(,"size":)" +
            std::to_string(region.size()) + R"(,"offset":)" + std::to_string(offset) +
            R"(,"page_size":4096,"page_size_kib":4096})";
    offset += region.size();
  }
  return text + "]";
}

UniqueFd connect_to(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  UniqueFd socket{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) return {};
  return socket;
}

std::string read_answer(int socket) {
  std::string line;
  for (;;) {
    char next = 0;
    const ssize_t got = ::recv(socket, &next, 1, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0 || next == '\n') return line;
    line += next;
  }
}

HandoffPeer::HandoffPeer(const PeerOptions& options) {
  std::array<int, 2> ends{};
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
  channel_ = UniqueFd{ends[0]};
  UniqueFd childs{ends[1]};
  pid_ = ::fork();
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    channel_.reset();
    Child(options, childs.get()).run();
  }
  childs.reset();  // or its end would never be seen
  answer_ = read_answer(channel_.get());
}

HandoffPeer::~HandoffPeer() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

std::string HandoffPeer::vm() const {
  constexpr std::string_view kBefore = "{\"vm\":\"";
  return served() ? answer_.substr(kBefore.size(), answer_.size() - kBefore.size() - 2) : "";
}

std::string HandoffPeer::ask(const std::string& line) {
  const std::string text = line + "\n";
  if (::send(channel_.get(), text.data(), text.size(), MSG_NOSIGNAL) < 0) return {};
  pollfd waiting{.fd = channel_.get(), .events = POLLIN, .revents = 0};
  const auto limit = std::chrono::duration_cast<std::chrono::milliseconds>(kPatience);
  if (::poll(&waiting, 1, static_cast<int>(limit.count())) != 1) return "it does not answer";
  return read_answer(channel_.get());
}

bool HandoffPeer::fill(std::uint64_t version) {
  return ask("fill " + std::to_string(version)) == "yes";
}
bool HandoffPeer::holds(std::uint64_t version) {
  return ask("holds " + std::to_string(version)) == "yes";
}
bool HandoffPeer::holds_file(const std::string& path) {
  return ask("holds-file " + path) == "yes";
}
bool HandoffPeer::kernel_reads() {
  return ask("kernel-reads") == "yes";
}
bool HandoffPeer::start_working() {
  return ask("work") == "yes";
}
bool HandoffPeer::stop_working() {
  return ask("stop-work") == "yes";
}
bool HandoffPeer::discard_first_half() {
  return ask("discard") == "yes";
}
bool HandoffPeer::connection_closed() {
  return ask("closed") == "yes";
}
bool HandoffPeer::vanish() {
  ask("vanish");
  const bool gone = ::waitpid(pid_, nullptr, 0) == pid_;
  pid_ = -1;
  return gone;
}

}  // namespace tidepool::tests
