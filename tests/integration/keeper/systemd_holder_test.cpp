#include "pool/keeper/systemd_holder.h"

#include <sys/socket.h>

#include <cstring>
#include <map>
#include <mutex>
#include <thread>

#include "pool/keeper/make_fd_holder.h"
#include "tests/integration/keeper/keeper_process.h"
#include "tests/support/notify_socket.h"

namespace tidepool::pool {
namespace {

using namespace testing;

// The receiving end of sd_notify(3), as far as the descriptor store goes.
class FakeSystemd {
 public:
  FakeSystemd() {
    ::setenv("NOTIFY_SOCKET", socket_.path().c_str(), 1);
    thread_ = std::jthread([this](const std::stop_token& stop) { serve(stop); });
  }
  ~FakeSystemd() {
    thread_.request_stop();
    ::shutdown(socket_.fd(), SHUT_RDWR);
    thread_.join();
    ::unsetenv("NOTIFY_SOCKET");
    ::unsetenv("FDSTORE");
  }
  FakeSystemd(const FakeSystemd&) = delete;
  FakeSystemd& operator=(const FakeSystemd&) = delete;

  std::multimap<std::string, std::string> stored() {
    const std::lock_guard lock(mutex_);
    std::multimap<std::string, std::string> contents;
    for (const auto& [name, fd] : stored_) contents.emplace(name, text_of(fd.get()));
    return contents;
  }
  std::string last_message() {
    const std::lock_guard lock(mutex_);
    return last_message_;
  }

 private:
  static std::string value_of(const std::string& message, const std::string& key) {
    const std::size_t at = ("\n" + message).find("\n" + key + "=");
    if (at == std::string::npos) return {};
    const std::size_t start = at + key.size() + 1;
    return message.substr(start, message.find('\n', start) - start);
  }
  void serve(const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      auto packet = receive_keeper_packet(socket_.fd(), 0);
      if (!packet || packet->bytes.empty()) continue;
      const std::string message(reinterpret_cast<const char*>(packet->bytes.data()), packet->bytes.size());
      if (message.find("BARRIER=1") != std::string::npos) continue;  // its descriptor closes here: processed
      const std::lock_guard lock(mutex_);
      last_message_ = message;
      const std::string name = value_of(message, "FDNAME");
      if (!value_of(message, "FDSTOREREMOVE").empty()) stored_.erase(name);
      if (!value_of(message, "FDSTORE").empty() && packet->descriptors.size() == 1)
        stored_.emplace(name, std::move(packet->descriptors.front()));
    }
  }

  Folder folder_;
  const tests::NotifySocket socket_{folder_.path() + "/notify"};
  std::mutex mutex_;
  std::multimap<std::string, UniqueFd> stored_;
  std::string last_message_;
  std::jthread thread_;
};

TEST(SystemdHolder, StoresUnderANameAndKeepsItFromBeingPolled) {
  FakeSystemd systemd;
  auto holder = SystemdHolder::open();
  ASSERT_TRUE(holder) << holder.error().message();
  ASSERT_TRUE((*holder)->store("vm/7/uffd/0", memfd_with("far").get()));
  const auto stored = systemd.stored();
  ASSERT_EQ(stored.size(), 1u);
  EXPECT_EQ(stored.begin()->first, "vm/7/uffd/0");
  EXPECT_EQ(stored.begin()->second, "far");
  EXPECT_NE(systemd.last_message().find("FDPOLL=0"), std::string::npos);
}

TEST(SystemdHolder, ReplacesAndRemovesByName) {
  FakeSystemd systemd;
  auto holder = SystemdHolder::open();
  ASSERT_TRUE(holder);
  ASSERT_TRUE((*holder)->store("a", memfd_with("1").get()));
  ASSERT_TRUE((*holder)->store("a", memfd_with("2").get()));
  EXPECT_EQ(systemd.stored(), (std::multimap<std::string, std::string>{{"a", "2"}}));
  EXPECT_TRUE((*holder)->remove("a"));
  EXPECT_TRUE(systemd.stored().empty());
  EXPECT_FALSE((*holder)->remove("a"));
}

TEST(SystemdHolder, WritesNamesTheWaySystemdTakesThem) {
  EXPECT_EQ(*SystemdHolder::encode_name("pci:0000:01"), "pci%3A0000%3A01");
  EXPECT_EQ(SystemdHolder::decode_name("pci%3A0000%3A01"), "pci:0000:01");
  EXPECT_EQ(SystemdHolder::decode_name(*SystemdHolder::encode_name("100%3A\n\xc3\xa4")), "100%3A\n\xc3\xa4");
  EXPECT_EQ(SystemdHolder::decode_name("%"), "%");
  EXPECT_EQ(SystemdHolder::decode_name("%4"), "%4");
  EXPECT_TRUE(SystemdHolder::encode_name(std::string(255, 'x')));
  EXPECT_FALSE(SystemdHolder::encode_name(std::string(256, 'x')));
  EXPECT_FALSE(SystemdHolder::encode_name(std::string(100, ':')));
  EXPECT_FALSE(SystemdHolder::encode_name(""));
}

TEST(SystemdHolder, RefusesMoreThanTheUnitAllows) {
  FakeSystemd systemd;
  ::setenv("FDSTORE", "2", 1);
  auto holder = SystemdHolder::open();
  ASSERT_TRUE(holder);
  const UniqueFd fd = memfd_with("x");
  EXPECT_TRUE((*holder)->store("a", fd.get()));
  EXPECT_TRUE((*holder)->store("b", fd.get()));
  const auto third = (*holder)->store("c", fd.get());
  ASSERT_FALSE(third);
  EXPECT_NE(third.error().message().find("FileDescriptorStoreMax"), std::string::npos);
  EXPECT_TRUE((*holder)->store("a", fd.get()));
}

TEST(SystemdHolder, IsAnErrorWithoutSystemd) {
  ::unsetenv("NOTIFY_SOCKET");
  EXPECT_FALSE(SystemdHolder::open());
}

// sd_listen_fds_with_names(3): descriptors from 3 on, named by the environment. In a process of its own, because of
// that 3.
TEST(SystemdHolder, FetchesWhatItsPredecessorStored) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    const UniqueFd one = memfd_with("one");
    const UniqueFd two = memfd_with("two");
    const int high_one = ::fcntl(one.get(), F_DUPFD, 50);
    const int high_two = ::fcntl(two.get(), F_DUPFD, 50);
    ::dup2(high_one, 3);
    ::dup2(high_two, 4);
    ::setenv("NOTIFY_SOCKET", "/nonexistent", 1);
    ::setenv("LISTEN_PID", std::to_string(::getpid()).c_str(), 1);
    ::setenv("LISTEN_FDS", "2", 1);
    ::setenv("LISTEN_FDNAMES", "vm%3A1:store/data", 1);
    auto holder = SystemdHolder::open();
    if (!holder) ::_exit(1);
    for (int round = 0; round < 2; ++round) {
      auto held = (*holder)->fetch_all();
      if (!held || held->size() != 2) ::_exit(2);
      if ((*held)[0].name != "vm:1" || text_of((*held)[0].fd.get()) != "one") ::_exit(3);
      if ((*held)[1].name != "store/data" || text_of((*held)[1].fd.get()) != "two") ::_exit(4);
    }
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(MakeFdHolder, TakesSystemdWhereItOffersItsStoreAndTheKeeperElsewhere) {
  const Folder folder;
  const KeeperProcess keeper(folder.socket());
  connect_to(folder);
  const FdHolderOptions options{.keeper = folder.options()};
  EXPECT_EQ((*make_fd_holder(options))->kind(), "keeper");
  FakeSystemd systemd;
  EXPECT_EQ((*make_fd_holder(options))->kind(), "keeper") << "systemd does not say that it has a store";
  EXPECT_EQ((*make_fd_holder({.choice = HolderChoice::kSystemd}))->kind(), "systemd");
  ::setenv("FDSTORE", "100", 1);
  EXPECT_EQ((*make_fd_holder(options))->kind(), "systemd");
  EXPECT_EQ((*make_fd_holder({.choice = HolderChoice::kKeeper, .keeper = folder.options()}))->kind(), "keeper");
}

TEST(MakeFdHolder, StartsNoKeeperWithoutAProgram) {
  const Folder folder;
  FdHolderOptions options{.choice = HolderChoice::kKeeper, .keeper = folder.options()};
  options.keeper.program.clear();
  EXPECT_FALSE(make_fd_holder(options));
}

}  // namespace
}  // namespace tidepool::pool
