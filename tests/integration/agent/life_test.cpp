// Whatever a process does to its address space while its pages are far: fork, exec, munmap, mremap, growth, threads
// that come and go, and its own death.
#include <gtest/gtest.h>
#include <signal.h>

#include <array>
#include <boost/json.hpp>
#include <cstdio>
#include <random>
#include <thread>

#include "tests/integration/agent/whole_rig.h"

namespace tidepool::tests {
namespace {

using namespace std::chrono_literals;

std::string changing_target() {
  return std::string(TIDEPOOL_BINARY_DIR) + "/tests/changing_target";
}

Words changing(const std::string& kind, const Words& operations) {
  static const unsigned seed = std::random_device{}();
  std::printf("seed %u\n", seed);
  Words words{changing_target(), kind, std::to_string(seed)};
  words.insert(words.end(), operations.begin(), operations.end());
  return words;
}

std::string range_text(AddressRange range) {
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "0x%lx-0x%lx", range.start, range.end);
  return text.data();
}

struct Life {
  const char* name;
  const char* memory;
  Words operations;
  bool restless = false;
};

void PrintTo(const Life& life, std::ostream* out) {
  *out << life.name;
}

class ChangingLives : public testing::TestWithParam<Life> {};

TEST_P(ChangingLives, AreServedWithoutALoss) {
  REQUIRE_AGENT();
  Whole whole(merciless({{"policy.tick", "\"100ms\""}}));
  ASSERT_TRUE(whole.start());
  Target target(changing(GetParam().memory, GetParam().operations));
  ASSERT_TRUE(target.ready());
  ASSERT_TRUE(whole.adopt(target.pid(), "life", {}, {"--mapping", GetParam().memory}));
  target.signal(SIGUSR2);
  whole.limit("life", Bytes{4ull << 20});
  if (GetParam().restless) {
    // What unmaps or moves private memory keeps it, and that is said.
    EXPECT_TRUE(
        await([&] { return boost::json::serialize(whole.show("life")).find("moves-memory") != std::string::npos; }));
  } else {
    whole.await_moved("life", Bytes{8ull << 20}, Bytes{4ull << 20});
  }
  std::this_thread::sleep_for(churn_time(3s));
  whole.release("life");
  target.finish();
  std::printf("%s", target.output().c_str());
  EXPECT_EQ(whole.stop(), 0);
  EXPECT_TRUE(whole.held().empty()) << testing::PrintToString(whole.held());
}

INSTANTIATE_TEST_SUITE_P(
    Processes, ChangingLives,
    testing::Values(  // Not what maps something into a hole of a block and moves the block as a whole
                      // (docs/eligibility.md).
        Life{"PrivateEverything",
             "private",
             {"quiet", "fork", "spawn", "move", "leave", "resize", "discard", "free", "protect", "grow", "thread"},
             true},
        Life{"PrivateForks", "private", {"quiet", "fork", "discard", "spawn"}},
        Life{"PrivateMoves", "private", {"quiet", "move", "leave", "resize"}, true},
        Life{"PrivateUnmaps", "private", {"quiet", "unmap", "grow", "free", "protect"}, true},
        // Not what maps the file once more: nobody watches that (docs/eligibility.md).
        Life{"SharedEverything", "shared", {"quiet", "fork", "spawn", "move", "discard", "protect", "thread"}},
        Life{"SharedForks", "shared", {"quiet", "fork", "discard", "spawn"}}),
    [](const auto& life) { return life.param.name; });

// What it maps later joins, where it is of the kind that was asked for.
TEST(Lives, ThatMapMoreHaveItManagedToo) {
  REQUIRE_AGENT();
  Whole whole(merciless({{"policy.tick", "\"100ms\""}}));
  ASSERT_TRUE(whole.start());
  Target target(changing("private", {"quiet", "more"}));
  ASSERT_TRUE(target.ready());
  ASSERT_TRUE(whole.adopt(target.pid(), "life", {}, {"--mapping", "private"}));
  const std::uint64_t at_first = whole.figure("life", "promised_bytes");
  ASSERT_GT(at_first, 0u);
  target.signal(SIGUSR2);
  EXPECT_TRUE(await([&] { return whole.figure("life", "promised_bytes") >= at_first + (2u << 20); }));
  whole.limit("life", Bytes{4ull << 20});
  // More than there was at first.
  EXPECT_TRUE(await([&] { return whole.figure("life", "far_bytes") > at_first; }))
      << boost::json::serialize(whole.show("life"));
  whole.release("life");
  target.finish();
  EXPECT_EQ(whole.stop(), 0);
}

TEST(Lives, OfWhichOnePartWasNamedHaveNoOtherManaged) {
  REQUIRE_AGENT();
  Whole whole(merciless({{"policy.tick", "\"100ms\""}}));
  ASSERT_TRUE(whole.start());
  Target named(changing("private", {"quiet", "more"}));
  Target all(changing("private", {"quiet", "more"}));
  ASSERT_TRUE(named.ready() && all.ready());
  ASSERT_TRUE(whole.adopt(named.pid(), "named", {}, {"--mapping", range_text(named.memory())}));
  ASSERT_TRUE(whole.adopt(all.pid(), "all", {}, {"--mapping", "private"}));
  EXPECT_EQ(whole.figure("named", "promised_bytes"), named.memory().size());
  const std::uint64_t at_first = whole.figure("all", "promised_bytes");
  for (const Target* each : {&named, &all}) each->signal(SIGUSR2);
  // Both are looked at together, the named one first.
  EXPECT_TRUE(await([&] { return whole.figure("all", "promised_bytes") > at_first; }));
  EXPECT_EQ(whole.figure("named", "promised_bytes"), named.memory().size());
  for (const char* each : {"named", "all"}) whole.release(each);
  for (Target* each : {&named, &all}) each->finish();
  EXPECT_EQ(whole.stop(), 0);
}

// A process that moves its memory while it is being adopted: refused or adopted, it never notices.
TEST(Lives, ThatMoveAreAdoptedWithoutHarmOrNotAtAll) {
  REQUIRE_AGENT();
  Whole whole(merciless({{"policy.tick", "\"100ms\""}}));
  ASSERT_TRUE(whole.start());
  Target target(changing("private", {"move", "move-fixed", "leave", "resize"}));
  ASSERT_TRUE(target.ready());
  int adopted = 0;
  for (int round = 0; round < 20; ++round) {
    const Outcome outcome = whole.tidectl({"vm", "adopt", "--pid", std::to_string(target.pid()), "--name", "life",
                                           "--mode", "active", "--yes", "--mapping", "private"});
    if (outcome.code != 0) {
      EXPECT_NE(outcome.all().find("try again"), std::string::npos) << outcome.all();
      continue;
    }
    ++adopted;
    whole.limit("life", Bytes{4ull << 20});
    std::this_thread::sleep_for(100ms);
    whole.release("life");
  }
  std::printf("%d of 20 were adopted\n", adopted);
  target.finish();
  std::printf("%s", target.output().c_str());
  EXPECT_EQ(whole.stop(), 0);
  EXPECT_TRUE(whole.held().empty()) << testing::PrintToString(whole.held());
}

// Its pages are far, and it is gone: nothing of it stays, neither with us nor with the keeper.
class Ends : public testing::TestWithParam<std::tuple<const char*, int>> {};

TEST_P(Ends, LeaveNothingBehind) {
  REQUIRE_AGENT();
  const auto [memory, signal] = GetParam();
  Whole whole;
  ASSERT_TRUE(whole.start());
  const std::size_t descriptors = open_descriptors(whole.pid());
  for (int round = 0; round < 2; ++round) {
    Target target(changing(memory, {"quiet", "fork", "discard"}));
    ASSERT_TRUE(target.ready());
    ASSERT_TRUE(whole.adopt(target.pid(), "life", {}, {"--mapping", memory}));
    target.signal(SIGUSR2);
    whole.limit("life", Bytes{1ull << 20});
    ASSERT_TRUE(whole.await_far("life", Bytes{4ull << 20}));
    // SIGUSR1: exec. The process goes on as another program, which is none of ours.
    target.signal(signal);
    EXPECT_TRUE(await([&] { return !whole.has("life"); }));
    EXPECT_EQ(target.running(), signal == SIGUSR1);
    EXPECT_TRUE(await([&] { return whole.held().size() == 2; })) << testing::PrintToString(whole.held());
    EXPECT_TRUE(await([&] {
      const Outcome pool = whole.tidectl({"pool", "status", "-o", "json"});
      return pool.out.find("\"pages\":0") != std::string::npos || pool.out.find("\"pages\": 0") != std::string::npos;
    })) << whole.tidectl({"pool", "status", "-o", "json"}).all();
    EXPECT_TRUE(await([&] { return open_descriptors(whole.pid()) <= descriptors; }))
        << open_descriptors(whole.pid()) << " descriptors open, " << descriptors << " before";
  }
  EXPECT_EQ(whole.stop(), 0);
}

INSTANTIATE_TEST_SUITE_P(Processes, Ends,
                         testing::Combine(testing::Values("private", "shared"), testing::Values(SIGKILL, SIGUSR1)),
                         [](const auto& end) {
                           return std::string(std::get<0>(end.param)) +
                                  (std::get<1>(end.param) == SIGKILL ? "Killed" : "Replaced");
                         });

}  // namespace
}  // namespace tidepool::tests
