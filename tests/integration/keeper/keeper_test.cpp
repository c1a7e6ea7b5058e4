#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include <array>
#include <cstring>
#include <random>

#include "kmod-interfaces/own_process.h"
#include "tests/integration/keeper/keeper_process.h"

namespace tidepool::pool {
namespace {

using namespace testing;

// Runs `body` in a process of its own, which then dies by SIGKILL, as an agent might.
void in_dying_process(const std::function<void()>& body) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    body();
    ::kill(::getpid(), SIGKILL);
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << "the process did not get that far";
}

// Needs CAP_SYS_RESOURCE, which root in a container may lack. Tried in a process of its own: the setting would stay.
bool may_be_spared_by_the_oom_killer() {
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(kernel::set_oom_score_adjust({}, -1000) ? 0 : 1);
  int status = 0;
  ::waitpid(pid, &status, 0);
  if (WEXITSTATUS(status) != 0) std::cout << "not looked at here: oom_score_adj, which this process may not lower\n";
  return WEXITSTATUS(status) == 0;
}

UniqueFd raw_connection(const Folder& folder) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, folder.socket().c_str(), sizeof(address.sun_path) - 1);
  UniqueFd socket{::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)};
  EXPECT_EQ(::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  return socket;
}

UniqueFd open_userfaultfd() {
  return UniqueFd{static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK))};
}

TEST(Keeper, KeepsADescriptorAfterItsClientWasKilled) {
  const Folder folder;
  const KeeperProcess keeper(folder.socket());
  connect_to(folder);
  in_dying_process([&] {
    auto holder = connect_to(folder);
    if (!holder->store("vm/7/pagemap", memfd_with("far pages").get())) ::_exit(1);
  });
  auto held = connect_to(folder)->fetch_all();
  ASSERT_TRUE(held.has_value()) << held.error().message();
  ASSERT_EQ(held->size(), 1u);
  EXPECT_EQ(held->front().name, "vm/7/pagemap");
  EXPECT_EQ(text_of(held->front().fd.get()), "far pages");
}

TEST(Keeper, IsStartedByTheAgentAndOutlivesIt) {
  const Folder folder;
  in_dying_process([&] {
    auto holder = KeeperHolder::start_or_connect(folder.options());
    if (!holder || !(*holder)->store("store/data", memfd_with("still here").get())) ::_exit(1);
  });
  auto holder = KeeperHolder::connect(folder.options());
  ASSERT_TRUE(holder.has_value()) << holder.error().message();
  auto held = (*holder)->fetch("store/data");
  ASSERT_TRUE(held.has_value());
  EXPECT_EQ(text_of(held->fd.get()), "still here");

  const pid_t pid = folder.keeper_pid();
  ASSERT_GT(pid, 1);
  EXPECT_NE(::getsid(pid), ::getsid(0));
  EXPECT_NE(::getsid(pid), pid) << "a session's leader could acquire a terminal";
  if (may_be_spared_by_the_oom_killer()) {
    int adjust = 0;
    std::ifstream("/proc/" + std::to_string(pid) + "/oom_score_adj") >> adjust;
    EXPECT_EQ(adjust, -1000);
  }
  EXPECT_TRUE((*holder)->tell_to_exit(true));
  EXPECT_TRUE(eventually([&] { return ::kill(pid, 0) != 0; }));
}

TEST(Keeper, StartReportsWhyItCannot) {
  const Folder folder;
  KeeperOptions options = folder.options();
  options.program = "/nonexistent/keeper";
  EXPECT_FALSE(KeeperHolder::start_or_connect(options));
  options = folder.options();
  std::ofstream(folder.path() + "/file") << "x";
  options.socket = folder.path() + "/file/keeper.sock";
  auto holder = KeeperHolder::start_or_connect(options);
  ASSERT_FALSE(holder);
  EXPECT_NE(holder.error().message().find("keeper.sock"), std::string::npos) << holder.error().message();
}

TEST(Keeper, ReplacesRemovesAndListsByName) {
  const Folder folder;
  const KeeperProcess keeper(folder.socket());
  auto holder = connect_to(folder);
  const std::size_t before = keeper.open_descriptors();
  EXPECT_TRUE(holder->store("b", memfd_with("1").get()));
  EXPECT_TRUE(holder->store("a", memfd_with("2").get()));
  EXPECT_TRUE(holder->store("b", memfd_with("3").get()));
  auto names = holder->list();
  ASSERT_TRUE(names);
  EXPECT_EQ(*names, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(text_of(holder->fetch("b")->fd.get()), "3");
  EXPECT_EQ(keeper.open_descriptors(), before + 2);
  EXPECT_TRUE(holder->remove("b"));
  EXPECT_FALSE(holder->remove("b"));
  EXPECT_FALSE(holder->fetch("b"));
  EXPECT_EQ(keeper.open_descriptors(), before + 1);
}

TEST(Keeper, RefusesBadNamesAndStaysUsable) {
  const Folder folder;
  const KeeperProcess keeper(folder.socket());
  auto holder = connect_to(folder);
  const UniqueFd fd = memfd_with("x");
  EXPECT_FALSE(holder->store("", fd.get()));
  EXPECT_FALSE(holder->store(std::string(256, 'a'), fd.get()));
  EXPECT_FALSE(holder->store("new\nline", fd.get()));
  EXPECT_FALSE(holder->store("no descriptor", -1));
  EXPECT_FALSE(holder->store("closed", 900));
  EXPECT_TRUE(holder->store(std::string(255, 'a'), fd.get()));
  EXPECT_EQ(holder->list()->size(), 1u);
}

TEST(Keeper, SurvivesMalformedPacketsWithoutLeaking) {
  const Folder folder;
  const KeeperProcess keeper(folder.socket());
  auto holder = connect_to(folder);
  ASSERT_TRUE(holder->store("keep", memfd_with("me").get()));
  const std::size_t before = keeper.open_descriptors();
  const unsigned seed = std::random_device{}();
  std::cout << "seed " << seed << "\n";
  std::mt19937 random(seed);
  const UniqueFd extra = memfd_with("extra");
  for (int i = 0; i < 300; ++i) {
    const UniqueFd socket = raw_connection(folder);
    std::vector<std::byte> packet = encode(KeeperRequest{.command = KeeperCommand::kStore, .id = 1, .name = "evil"});
    // From wholly random to nearly right; some far too long, some with descriptors.
    if (i % 3 == 0) packet.resize(random() % 700);
    const std::size_t flips = i % 3 == 1 ? 1 : packet.size();
    for (std::size_t k = 0; k < flips && !packet.empty() && i % 3 != 2; ++k)
      packet[random() % packet.size()] = static_cast<std::byte>(random());
    if (i % 3 == 2) packet.resize(packet.size() - 1 - random() % 18);
    static_cast<void>(send_keeper_packet(socket.get(), packet, i % 2 == 0 ? extra.get() : -1, 0));
  }
  // A packet that was right by chance has stored something under some name. Apart from those nothing stays open.
  EXPECT_TRUE(eventually([&] {
    const auto names = holder->list();
    for (const std::string& name : *names) {
      if (name != "keep") {
        EXPECT_TRUE(holder->remove(name));
      }
    }
    return keeper.open_descriptors() == before;
  }));
  EXPECT_EQ(text_of(holder->fetch("keep")->fd.get()), "me");
}

TEST(Keeper, RefusesSeveralDescriptorsAtOnceAndClosesThem) {
  const Folder folder;
  const KeeperProcess keeper(folder.socket());
  auto holder = connect_to(folder);
  const std::size_t before = keeper.open_descriptors();
  const UniqueFd socket = raw_connection(folder);
  std::array<int, 40> fds{};
  const UniqueFd one = memfd_with("x");
  fds.fill(one.get());
  for (const std::size_t count : {2u, 3u, 40u}) {
    auto packet = encode(KeeperRequest{.command = KeeperCommand::kStore, .id = 5, .name = "many"});
    iovec part{packet.data(), packet.size()};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(fds))> control{};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
    cmsghdr* rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int) * count);
    std::memcpy(CMSG_DATA(rights), fds.data(), sizeof(int) * count);
    ASSERT_GT(::sendmsg(socket.get(), &message, 0), 0);
    auto reply = receive_keeper_packet(socket.get(), 0);
    ASSERT_TRUE(reply);
    EXPECT_NE(parse_keeper_reply(reply->bytes)->error, 0);
  }
  EXPECT_EQ(holder->list()->size(), 0u);
  EXPECT_EQ(keeper.open_descriptors(), before + 1) << "only the raw connection is new";
}

TEST(Keeper, DropsAClientThatFloodsAndServesTheOthers) {
  const Folder folder;
  const KeeperProcess keeper(folder.socket());
  auto holder = connect_to(folder);
  const UniqueFd flood = raw_connection(folder);
  const auto packet = encode(KeeperRequest{.command = KeeperCommand::kHello, .id = 1});
  bool dropped = false;
  for (int i = 0; i < 1000000 && !dropped; ++i) dropped = !send_keeper_packet(flood.get(), packet, -1, 0);
  EXPECT_TRUE(dropped) << "it never read a reply";
  EXPECT_TRUE(holder->store("x", memfd_with("x").get()));
}

TEST(Keeper, MakesRoomForANewClientInACrowd) {
  const Folder folder;
  const KeeperProcess keeper(folder.socket());
  connect_to(folder);
  std::vector<UniqueFd> crowd;
  for (int i = 0; i < 200; ++i) crowd.push_back(raw_connection(folder));
  EXPECT_TRUE(KeeperHolder::connect(folder.options()));
}

TEST(Keeper, AnswersWhenItCanHoldNoMore) {
  const Folder folder;
  const KeeperProcess keeper(folder.socket(), 256);
  auto holder = connect_to(folder);
  const UniqueFd fd = memfd_with("x");
  Result<> stored;
  int count = 0;
  while ((stored = holder->store("n" + std::to_string(count), fd.get())) && count < 1000) ++count;
  EXPECT_GT(count, 100);
  EXPECT_LT(count, 256);
  EXPECT_EQ(stored.error().code, std::errc::too_many_files_open);
  EXPECT_TRUE(holder->store("n0", fd.get())) << "replacing needs no room";
  EXPECT_TRUE(KeeperHolder::connect(folder.options()));
  EXPECT_EQ(holder->fetch_all()->size(), static_cast<std::size_t>(count));
}

TEST(Keeper, LetsNoSecondKeeperOntoItsSocket) {
  const Folder folder;
  const KeeperProcess keeper(folder.socket());
  connect_to(folder);
  KeeperProcess second(folder.socket());
  const std::string said = second.read_errors();
  EXPECT_EQ(second.wait(), 1);
  EXPECT_NE(said.find("another keeper"), std::string::npos) << said;
  EXPECT_NE(said.find(std::to_string(keeper.pid())), std::string::npos) << said;
  EXPECT_TRUE(KeeperHolder::connect(folder.options()));
}

TEST(Keeper, ReplacesTheSocketOfAKilledOne) {
  const Folder folder;
  {
    KeeperProcess first(folder.socket());
    connect_to(folder);
  }
  ASSERT_TRUE(std::filesystem::exists(folder.socket()));
  EXPECT_FALSE(KeeperHolder::connect(folder.options()));
  const KeeperProcess second(folder.socket());
  EXPECT_NE(connect_to(folder), nullptr);
}

TEST(Keeper, ReplacesNothingThatIsNoSocket) {
  const Folder folder;
  std::ofstream(folder.socket()) << "precious";
  KeeperProcess keeper(folder.socket());
  EXPECT_NE(keeper.read_errors().find("no socket"), std::string::npos);
  EXPECT_EQ(keeper.wait(), 1);
  EXPECT_EQ(std::filesystem::file_size(folder.socket()), 8u);
}

TEST(Keeper, IsPrivateToItsUser) {
  const Folder folder;
  const std::string socket = folder.path() + "/made/keeper.sock";
  const KeeperProcess keeper(socket);
  ASSERT_TRUE(eventually([&] { return std::filesystem::exists(socket); }));
  struct stat status {};
  ASSERT_EQ(::stat(socket.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  ASSERT_EQ(::stat((folder.path() + "/made").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0700u);
}

TEST(Keeper, ServesNoOtherUserEvenWhereTheSocketIsOpenToAll) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can become another user";
  const Folder folder;
  const KeeperProcess keeper(folder.socket());
  ASSERT_TRUE(connect_to(folder)->store("secret", memfd_with("x").get()));
  ASSERT_EQ(::chmod(folder.path().c_str(), 0755), 0);
  ASSERT_EQ(::chmod(folder.socket().c_str(), 0666), 0);
  const pid_t pid = ::fork();
  if (pid == 0) {
    if (::setresuid(65534, 65534, 65534) != 0) ::_exit(2);
    ::_exit(KeeperHolder::connect(folder.options()) ? 1 : 0);
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(Keeper, EndsOnASignalWhenNothingWouldBeLost) {
  const Folder folder;
  KeeperProcess keeper(folder.socket());
  ASSERT_TRUE(connect_to(folder)->store("memfd", memfd_with("x").get()));
  keeper.signal(SIGTERM);
  EXPECT_EQ(keeper.wait(), 0);
  EXPECT_FALSE(std::filesystem::exists(folder.socket()));
}

TEST(Keeper, RefusesTheFirstSignalWhileItHoldsAUserfaultfd) {
  const UniqueFd faults = open_userfaultfd();
  if (!faults.valid()) GTEST_SKIP() << "userfaultfd(2): " << std::strerror(errno);
  const Folder folder;
  KeeperProcess keeper(folder.socket());
  auto holder = connect_to(folder);
  ASSERT_TRUE(holder->store("vm/1/uffd/0", faults.get()));
  keeper.signal(SIGTERM);
  std::string said;
  while (said.find("1 userfaultfds") == std::string::npos) {
    const std::string more = keeper.read_errors();
    ASSERT_FALSE(more.empty()) << "it ended, having said: " << said;
    said += more;
  }
  EXPECT_TRUE(keeper.running());
  EXPECT_TRUE(holder->fetch("vm/1/uffd/0"));
  keeper.signal(SIGTERM);
  EXPECT_EQ(keeper.wait(), 0);
}

TEST(Keeper, ExitsWhenToldAndEmptyOrForced) {
  const Folder folder;
  KeeperProcess keeper(folder.socket());
  auto holder = connect_to(folder);
  ASSERT_TRUE(holder->store("x", memfd_with("x").get()));
  EXPECT_EQ(holder->tell_to_exit(false).error().code, std::errc::device_or_resource_busy);
  ASSERT_TRUE(holder->remove("x"));
  EXPECT_TRUE(holder->tell_to_exit(false));
  EXPECT_EQ(keeper.wait(), 0);
  EXPECT_FALSE(holder->store("y", memfd_with("y").get()));
  EXPECT_EQ(holder->store("y", memfd_with("y").get()).error().code, std::errc::connection_reset);
}

TEST(Keeper, SaysThatTheKernelSendsNoRings) {
  io_uring_params parameters{};
  const UniqueFd ring{static_cast<int>(::syscall(SYS_io_uring_setup, 1, &parameters))};
  if (!ring.valid()) GTEST_SKIP() << "io_uring_setup(2): " << std::strerror(errno);
  const Folder folder;
  const KeeperProcess keeper(folder.socket());
  auto holder = connect_to(folder);
  const auto stored = holder->store("ring", ring.get());
  if (stored) GTEST_SKIP() << "this kernel sends them";
  EXPECT_NE(stored.error().message().find("io_uring"), std::string::npos) << stored.error().message();
  EXPECT_TRUE(holder->store("x", memfd_with("x").get())) << "the connection goes on";
}

}  // namespace
}  // namespace tidepool::pool
