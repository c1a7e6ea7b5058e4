// A process that pins or locks its memory after its adoption: a device or a ring may write to it from then on, so
// nothing more of it goes; until it is let go of.
#include <gtest/gtest.h>
#include <liburing.h>
#include <sys/mman.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cstring>
#include <thread>

#include "tests/integration/agent/whole_rig.h"
#include "tests/support/child_process.h"
#include "tests/support/planned_memory.h"

namespace tidepool::tests {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kSize = 32u << 20;
constexpr std::size_t kPart = 4u << 20;

// What the child does when it is told to, by a letter.
struct Way {
  const char* name;
  std::function<int(io_uring& ring, void* memory)> pin;
  std::function<int(io_uring& ring, void* memory)> unpin;
};

void PrintTo(const Way& way, std::ostream* out) {
  *out << way.name;
}

class PinnedLater : public testing::TestWithParam<Way> {};

TEST_P(PinnedLater, MemoryStaysAsLongAsItIsPinned) {
  REQUIRE_AGENT();
  const PlannedMemory memory(kSize);
  int commands[2];
  int answers[2];
  ASSERT_EQ(::pipe2(commands, O_CLOEXEC), 0);
  ASSERT_EQ(::pipe2(answers, O_CLOEXEC), 0);
  const ChildProcess child([&]() -> std::string {
    static io_uring ring{};
    if (const int error = ::io_uring_queue_init(8, &ring, 0); error != 0)
      return std::string("skip: no io_uring: ") + std::strerror(-error);
    auto* const at = static_cast<char*>(memory.make());
    for (std::uint64_t i = 0; i < kSize; i += 512) at[i] = static_cast<char>(i / 4096);
    std::thread([&, at] {
      char command = 0;
      while (::read(commands[0], &command, 1) == 1) {
        const int error = (command == 'p' ? GetParam().pin : GetParam().unpin)(ring, at);
        [[maybe_unused]] const ssize_t told = ::write(answers[1], &error, sizeof error);
      }
    }).detach();
    return "";
  });
  ASSERT_READY(child);
  const auto tell = [&](char command) {
    int error = -1;
    EXPECT_EQ(::write(commands[1], &command, 1), 1);
    EXPECT_EQ(::read(answers[0], &error, sizeof error), static_cast<ssize_t>(sizeof error));
    EXPECT_EQ(error, 0) << std::strerror(error < 0 ? -error : error);
  };
  const auto blocked = [](const Whole& whole) {
    return boost::json::serialize(whole.show("child")).find("\"pinned\"") != std::string::npos;
  };

  Whole whole(merciless({{"policy.tick", "\"100ms\""}}));
  ASSERT_TRUE(whole.start());
  ASSERT_TRUE(whole.adopt(child.pid(), "child", memory.range()));
  whole.limit("child", Bytes{kSize - (8u << 20)});
  ASSERT_TRUE(whole.await_far("child", Bytes{4u << 20}));
  EXPECT_FALSE(blocked(whole));
  tell('p');
  EXPECT_TRUE(await([&] { return blocked(whole); })) << boost::json::serialize(whole.show("child"));
  const std::string why = whole.expect({"explain", "child"}, 0);
  EXPECT_NE(why.find("pinned or locked since it was adopted"), std::string::npos) << why;
  // What was on its way has ended one way or the other by the time nothing is.
  EXPECT_TRUE(await([&] { return whole.figure("child", "moving_out_bytes") == 0; }));
  const std::uint64_t demoted = whole.figure("child", "demoted_bytes_total");
  whole.limit("child", Bytes{4u << 20});
  std::this_thread::sleep_for(2s);
  EXPECT_EQ(whole.figure("child", "demoted_bytes_total"), demoted);
  tell('u');
  EXPECT_TRUE(await([&] { return !blocked(whole); }));
  EXPECT_TRUE(whole.await_far("child", Bytes{16u << 20}));
  EXPECT_TRUE(whole.release("child"));
  EXPECT_EQ(whole.stop(), 0);
  for (const int end : {commands[0], commands[1], answers[0], answers[1]}) ::close(end);
}

INSTANTIATE_TEST_SUITE_P(
    Ways, PinnedLater,
    testing::Values(
        Way{"FixedBuffers",
            [](io_uring& ring, void* memory) {
              const iovec buffer{memory, kPart};
              return ::io_uring_register_buffers(&ring, &buffer, 1);
            },
            [](io_uring& ring, void*) { return ::io_uring_unregister_buffers(&ring); }},
        // Not through mlock(3), which sanitizers turn into nothing.
        Way{"Locked", [](io_uring&, void* memory) { return static_cast<int>(::syscall(SYS_mlock, memory, kPart)); },
            [](io_uring&, void* memory) { return static_cast<int>(::syscall(SYS_munlock, memory, kPart)); }}),
    [](const auto& way) { return way.param.name; });

}  // namespace
}  // namespace tidepool::tests
