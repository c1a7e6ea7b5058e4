// The message and the descriptors beside it, in every order that a stream socket allows.
#include "daemon/vm/handoff_receiver.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

#include "kmod-interfaces/fd_passing.h"
#include "kmod-interfaces/userfaultfd.h"

namespace tidepool::daemon {
namespace {

constexpr std::string_view kMessage = R"([{"base_host_virt_addr":4096,"size":8192,"offset":0,"page_size":4096}])";

std::size_t open_descriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

class Receiver : public testing::Test {
 protected:
  void SetUp() override {
    before_ = open_descriptors();
    auto made = kernel::Userfaultfd::create_for_self();
    if (!made) GTEST_SKIP() << made.error().message();
    userfaultfd_ = std::move(*made);
    memfd_ = UniqueFd{::memfd_create("memory", MFD_CLOEXEC)};
    std::array<int, 2> ends{};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends.data()), 0);
    peer_ = UniqueFd{ends[0]};
    auto receiver = HandoffReceiver::begin(UniqueFd{ends[1]});
    ASSERT_TRUE(receiver) << receiver.error().message();
    receiver_.emplace(std::move(*receiver));
  }
  void TearDown() override {
    receiver_.reset();
    peer_.reset();
    memfd_.reset();
    userfaultfd_ = {};
    EXPECT_EQ(open_descriptors(), before_) << "a descriptor was left open";
  }

  void send(std::string_view text, const std::vector<int>& descriptors = {}) {
    ASSERT_TRUE(kernel::send_message(peer_.get(), std::as_bytes(std::span(text)), descriptors));
  }
  void expect_more() {
    const auto complete = receiver_->receive();
    ASSERT_TRUE(complete) << complete.error().message();
    EXPECT_FALSE(*complete);
  }
  void expect_complete(std::size_t files) {
    const auto complete = receiver_->receive();
    ASSERT_TRUE(complete) << complete.error().message();
    ASSERT_TRUE(*complete) << receiver_->missing();
    const Handoff handoff = receiver_->take();
    EXPECT_TRUE(handoff.userfaultfd.valid());
    EXPECT_TRUE(handoff.connection.valid());
    EXPECT_EQ(handoff.files.size(), files);
    EXPECT_EQ(handoff.peer.pid, ::getpid());
    EXPECT_TRUE(handoff.peer.pidfd.valid());
    ASSERT_EQ(handoff.regions.size(), 1u);
  }
  void expect_refused(std::errc code, const std::string& says) {
    const auto complete = receiver_->receive();
    ASSERT_FALSE(complete);
    EXPECT_EQ(complete.error().code, code) << complete.error().message();
    EXPECT_NE(complete.error().message().find(says), std::string::npos) << complete.error().message();
  }
  int uffd() const { return userfaultfd_.fd(); }

  std::size_t before_ = 0;
  kernel::Userfaultfd userfaultfd_;
  UniqueFd memfd_;
  UniqueFd peer_;
  std::optional<HandoffReceiver> receiver_;
};

TEST_F(Receiver, TakesOneMessageWithOneDescriptorAsFirecrackerSendsIt) {
  send(kMessage, {uffd()});
  expect_complete(0);
}

TEST_F(Receiver, TakesTheMemoryFileBesideTheUserfaultfdInEitherOrder) {
  send(kMessage, {memfd_.get(), uffd()});
  expect_complete(1);
}

TEST_F(Receiver, WaitsForADescriptorThatComesLate) {
  send(kMessage.substr(0, 10));
  expect_more();
  EXPECT_EQ(receiver_->missing(), "the array of regions");
  send(kMessage.substr(10));
  expect_more();
  EXPECT_EQ(receiver_->missing(), "the userfaultfd");
  send("\n", {uffd(), memfd_.get()});
  expect_complete(1);
}

TEST_F(Receiver, TakesAMessageByteByByteWithADescriptorOnAnyOfThem) {
  for (std::size_t i = 0; i < kMessage.size(); ++i) {
    send(kMessage.substr(i, 1), i == 3    ? std::vector<int>{memfd_.get()}
                                : i == 40 ? std::vector<int>{uffd()}
                                          : std::vector<int>{});
    if (i + 1 < kMessage.size()) expect_more();
  }
  expect_complete(1);
}

TEST_F(Receiver, TakesAPeerThatClosesItsEndRightAway) {
  send(kMessage, {uffd()});
  peer_.reset();
  expect_complete(0);
}

TEST_F(Receiver, SaysWhatWasMissingWhenThePeerEnds) {
  send(kMessage);
  peer_.reset();
  expect_refused(std::errc::connection_reset, "before the userfaultfd arrived");
}

TEST_F(Receiver, SaysWhatWasMissingWhenThePeerEndsInTheMiddle) {
  send(kMessage.substr(0, 20), {uffd()});
  peer_.reset();
  expect_refused(std::errc::connection_reset, "before the array of regions arrived");
}

TEST_F(Receiver, RefusesTwoUserfaultfds) {
  send(kMessage, {uffd(), uffd()});
  expect_refused(std::errc::bad_message, "more than one userfaultfd");
}

TEST_F(Receiver, RefusesDescriptorsThatAreNoMemory) {
  const UniqueFd null{::open("/dev/null", O_RDWR | O_CLOEXEC)};
  send(kMessage, {uffd(), null.get()});
  expect_refused(std::errc::bad_message, "neither a userfaultfd nor a file");
}

TEST_F(Receiver, RefusesMoreDescriptorsThanThereAreUsesFor) {
  send(kMessage, std::vector<int>(kernel::kMaxPassedDescriptors, memfd_.get()));
  expect_more();
  send(" ", {memfd_.get()});
  expect_refused(std::errc::bad_message, "too many descriptors");
}

TEST_F(Receiver, RefusesWhatIsNoMessageAtOnce) {
  send("GET / HTTP/1.1\r\n\r\n", {uffd()});
  expect_refused(std::errc::bad_message, "not an array");
}

TEST_F(Receiver, RefusesRegionsThatMakeNoSense) {
  send(R"([{"base_host_virt_addr":0,"size":8192,"offset":0}])", {uffd()});
  expect_refused(std::errc::bad_message, "no process has memory");
}

}  // namespace
}  // namespace tidepool::daemon
