// Whatever connects to the hand-off socket gets a clear answer, and leaves nothing behind in the agent.
#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <span>

#include "kmod-interfaces/fd_passing.h"
#include "kmod-interfaces/userfaultfd.h"
#include "tests/integration/handoff/handoff_peer.h"
#include "tests/support/agent_process.h"
#include "tests/support/process_state.h"

namespace tidepool::tests {
namespace {

class Hostile : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = why_no_agent(); !why.empty()) GTEST_SKIP() << why;
    agent_.write_settings({{"adopt.handoff_socket", "\"" + socket() + "\""}, {"adopt.handoff_group", "\"nogroup\""}});
    ASSERT_EQ(::chmod(agent_.folder().path().c_str(), 0711), 0);  // for peers of other users
    ASSERT_TRUE(agent_.start());
    before_ = open_descriptors(agent_.pid());
  }
  void TearDown() override {
    if (IsSkipped()) return;
    EXPECT_TRUE(await([&] { return open_descriptors(agent_.pid()) == before_; }))
        << "the agent has " << open_descriptors(agent_.pid()) << " descriptors, it had " << before_;
    // It still works.
    PeerOptions options;
    options.socket = socket();
    HandoffPeer peer(options);
    EXPECT_TRUE(peer.served()) << peer.answer();
    EXPECT_TRUE(peer.fill(1));
    EXPECT_TRUE(peer.holds(1));
    EXPECT_TRUE(agent_.running());
  }
  std::string socket() const { return agent_.folder() / "handoff.sock"; }

  std::string answer_to(const std::string& message, const std::vector<int>& descriptors) {
    const UniqueFd connection = connect_to(socket());
    EXPECT_TRUE(connection.valid());
    // What is refused before its end cannot be sent to its end.
    (void)kernel::send_message(connection.get(), std::as_bytes(std::span(message)), descriptors);
    return read_answer(connection.get());
  }
  void expect_refusal(const std::string& message, const std::vector<int>& descriptors, const std::string& says) {
    const std::string answer = answer_to(message, descriptors);
    EXPECT_TRUE(answer.starts_with("{\"error\":")) << answer;
    EXPECT_NE(answer.find(says), std::string::npos) << answer;
  }

  AgentProcess agent_;
  std::size_t before_ = 0;
};

// A userfaultfd and memory of this very process; nothing is registered, so nobody waits for the agent.
struct OwnMemory {
  OwnMemory() {
    auto made = kernel::Userfaultfd::create_for_self();
    EXPECT_TRUE(made);
    userfaultfd = std::move(*made);
    EXPECT_TRUE(userfaultfd.handshake(UFFD_FEATURE_EVENT_REMOVE));
    start = ::mmap(nullptr, 1u << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  }
  ~OwnMemory() { ::munmap(start, 1u << 20); }
  AddressRange range() const {
    const auto at = reinterpret_cast<std::uintptr_t>(start);
    return {at, at + (1u << 20)};
  }
  kernel::Userfaultfd userfaultfd;
  void* start = nullptr;
};

TEST_F(Hostile, WrongMessagesAreNamed) {
  const OwnMemory own;
  const std::vector<int> uffd{own.userfaultfd.fd()};
  expect_refusal("hello", uffd, "not an array");
  expect_refusal("[{]", uffd, "not JSON");
  expect_refusal("[]", uffd, "no region");
  expect_refusal(R"([{"base_host_virt_addr":18446744073709547520,"size":4096,"offset":0}])", uffd, "no process has");
  expect_refusal(
      R"([{"base_host_virt_addr":4096,"size":4096,"offset":0},{"base_host_virt_addr":4096,"size":8192,"offset":0}])",
      uffd, "overlap");
  expect_refusal(R"([{"base_host_virt_addr":2097152,"size":2097152,"offset":0,"page_size":2097152}])", uffd, "4 KiB");
  expect_refusal("[" + std::string(300u << 10, ' '), uffd, "longer than");
}

TEST_F(Hostile, WrongDescriptorsAreNamed) {
  const OwnMemory own;
  const std::string message = handoff_message({own.range()});
  const UniqueFd memfd{::memfd_create("memory", MFD_CLOEXEC)};
  const UniqueFd null{::open("/dev/null", O_RDWR | O_CLOEXEC)};
  expect_refusal(message, {own.userfaultfd.fd(), own.userfaultfd.fd()}, "more than one userfaultfd");
  expect_refusal(message, {own.userfaultfd.fd(), null.get()}, "neither a userfaultfd");
  expect_refusal(message, {own.userfaultfd.fd(), memfd.get()}, "behind none of its memory");
}

TEST_F(Hostile, MemoryThatIsNotThereIsNamed) {
  const OwnMemory own;
  expect_refusal(handoff_message({{1u << 20, 2u << 20}}), {own.userfaultfd.fd()}, "nothing is mapped");
  // Code is no memory to hand off.
  const auto code = reinterpret_cast<std::uintptr_t>(&std::strlen) & ~(kPageSize - 1);
  expect_refusal(handoff_message({{code, code + kPageSize}}), {own.userfaultfd.fd()}, "cannot be managed");
}

TEST_F(Hostile, APeerThatEndsInTheMiddleIsForgotten) {
  const OwnMemory own;
  const std::string message = handoff_message({own.range()});
  const std::vector<int> uffd{own.userfaultfd.fd()};
  for (const std::size_t length : {std::size_t{0}, std::size_t{1}, message.size() / 2, message.size()}) {
    const UniqueFd connection = connect_to(socket());
    const std::string part = message.substr(0, length);
    // With everything there but the userfaultfd, or with it and half of the message.
    if (length != 0) {
      EXPECT_TRUE(kernel::send_message(connection.get(), std::as_bytes(std::span(part)),
                                       length == message.size() ? std::span<const int>() : std::span(uffd)));
    }
  }
}

TEST_F(Hostile, AProcessThatDiesWhileItIsTakenOverIsForgotten) {
  for (int round = 0; round < 8; ++round) {
    const pid_t child = ::fork();
    if (child == 0) {
      const OwnMemory own;
      const std::string message = handoff_message({own.range()});
      const UniqueFd connection = connect_to(socket());
      const std::vector<int> uffd{own.userfaultfd.fd()};
      (void)kernel::send_message(connection.get(), std::as_bytes(std::span(message)), uffd);
      ::usleep(static_cast<useconds_t>(round * 700));
      ::_exit(0);
    }
    ::waitpid(child, nullptr, 0);
  }
  EXPECT_TRUE(await([&] { return agent_.expect({"vm", "list", "-q"}, 0).empty(); }));
}

TEST_F(Hostile, AServedProcessThatDiesIsForgotten) {
  PeerOptions options;
  options.socket = socket();
  HandoffPeer peer(options);
  ASSERT_TRUE(peer.served()) << peer.answer();
  ASSERT_TRUE(peer.fill(1));
  ASSERT_TRUE(peer.vanish());
  EXPECT_TRUE(await([&] { return agent_.expect({"vm", "list", "-q"}, 0).empty(); }));
}

TEST_F(Hostile, HandingOffTwiceIsRefused) {
  PeerOptions options;
  options.socket = socket();
  const HandoffPeer peer(options);
  ASSERT_TRUE(peer.served());
  // The same process again, by a child of its making that inherits the connection's credentials: its own.
  const OwnMemory own;
  const std::string message = handoff_message({own.range()});
  const std::string first = answer_to(message, {own.userfaultfd.fd()});
  EXPECT_TRUE(first.starts_with("{\"vm\":")) << first;
  expect_refusal(message, {own.userfaultfd.fd()}, "it is served already");
  agent_.expect({"vm", "release", peer.vm()}, 0);
  const std::string mine = first.substr(7, first.size() - 9);
  agent_.expect({"vm", "release", mine}, 0);
}

// A user who opens connections and says nothing can keep himself out, but nobody else.
TEST_F(Hostile, AFloodOfSilentConnectionsKeepsNobodyElseOut) {
  const pid_t flooder = ::fork();
  if (flooder == 0) {
    if (::setgroups(0, nullptr) != 0 || ::setresgid(65534, 65534, 65534) != 0 || ::setresuid(65534, 65534, 65534) != 0)
      ::_exit(3);
    std::vector<UniqueFd> connections;
    for (int i = 0; i < 200; ++i) {
      connections.push_back(connect_to(socket()));
      if (!connections.back().valid()) ::_exit(4);
    }
    // Those beyond the bound are told so and closed.
    const std::string answer = read_answer(connections.back().get());
    ::_exit(answer.find("too many are under way") != std::string::npos ? 0 : 5);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(flooder, &status, WUNTRACED), flooder);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST_F(Hostile, AFloodThatGoesOnKeepsNobodyElseOut) {
  const pid_t flooder = ::fork();
  if (flooder == 0) {
    if (::setgroups(0, nullptr) != 0 || ::setresgid(65534, 65534, 65534) != 0 || ::setresuid(65534, 65534, 65534) != 0)
      ::_exit(3);
    std::vector<UniqueFd> connections;
    for (int i = 0; i < 100; ++i) connections.push_back(connect_to(socket()));
    ::raise(SIGSTOP);
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(flooder, &status, WUNTRACED), flooder);
  ASSERT_TRUE(WIFSTOPPED(status));
  {
    PeerOptions options;
    options.socket = socket();
    const HandoffPeer peer(options);
    EXPECT_TRUE(peer.served()) << peer.answer();
  }
  ::kill(flooder, SIGKILL);
  ::waitpid(flooder, nullptr, 0);
}

TEST_F(Hostile, SilenceHasAnEnd) {
  const UniqueFd silent = connect_to(socket());
  ASSERT_TRUE(silent.valid());
  const std::string answer = read_answer(silent.get());
  EXPECT_NE(answer.find("did not arrive in time"), std::string::npos) << answer;
}

TEST_F(Hostile, TheSocketIsForItsGroupOnly) {
  struct stat info {};
  ASSERT_EQ(::stat(socket().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0660u);
  EXPECT_EQ(info.st_uid, 0u);
  const group* nogroup = ::getgrnam("nogroup");
  if (nogroup != nullptr) {
    EXPECT_EQ(info.st_gid, nogroup->gr_gid);
  }
}

}  // namespace
}  // namespace tidepool::tests
