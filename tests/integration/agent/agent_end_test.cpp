// The agent ends, in order or not, while pages are far; and what an operator does when something must stop.
#include <gtest/gtest.h>
#include <signal.h>

#include <boost/json.hpp>
#include <cstring>
#include <filesystem>
#include <thread>

#include "bench/load/page_content.h"
#include "tests/integration/agent/far_reader.h"
#include "tests/integration/agent/whole_rig.h"

namespace tidepool::tests {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kSeed = 77;

// Fills its memory and then rests: what each page holds is known.
Words resting(const std::string& memory) {
  return load({"--memory", memory, "--hold-after-fill", "1000", "--seed", std::to_string(kSeed)}, Bytes{32ull << 20});
}

std::size_t waiting_in_userfault(pid_t pid) {
  std::size_t count = 0;
  std::error_code error;
  for (const auto& task : std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task", error))
    count += read_file(task.path().string() + "/wchan") == "handle_userfault" ? 1 : 0;
  return count;
}

struct Store {
  const char* name;
  const char* memory;
  Settings settings;
};

void PrintTo(const Store& store, std::ostream* out) {
  *out << store.name;
}

class KilledAgent : public testing::TestWithParam<Store> {};

TEST_P(KilledAgent, LeavesAllThatATakeOverNeeds) {
  REQUIRE_AGENT();
  Whole whole(merciless(GetParam().settings));
  ASSERT_TRUE(whole.start());
  Target rests(resting(GetParam().memory));
  Target works(load({"--memory", GetParam().memory, "--threads", "2"}, Bytes{32ull << 20}));
  ASSERT_TRUE(rests.ready() && works.ready());
  ASSERT_TRUE(whole.adopt(rests.pid(), "rests", rests.memory()));
  ASSERT_TRUE(whole.adopt(works.pid(), "works", works.memory()));
  whole.limit("rests", Bytes{0});
  whole.limit("works", Bytes{1ull << 20});
  ASSERT_TRUE(whole.await_far("rests", Bytes{rests.memory().size() / 3}));
  ASSERT_TRUE(whole.await_far("works", Bytes{works.memory().size() / 8}));
  whole.kill_agent();

  // Its threads wait; they never see anything wrong.
  EXPECT_TRUE(await([&] { return waiting_in_userfault(works.pid()) > 0; }));
  EXPECT_TRUE(works.running());

  FarReader reader(whole.keeper_socket());
  ASSERT_EQ(reader.problem(), "");
  for (const std::string vm : {"rests", "works"}) {
    EXPECT_TRUE(reader.holds("vm/" + vm + "/userfaultfd/0"));
    EXPECT_TRUE(reader.holds("vm/" + vm + "/process/0"));
    EXPECT_TRUE(reader.holds("vm/" + vm + "/pages/0"));
    EXPECT_EQ(reader.holds("vm/" + vm + "/memory/0"), std::string(GetParam().memory) != "private");
  }
  const auto far = reader.far_pages("rests");
  EXPECT_EQ(reader.problem(), "");
  EXPECT_GE(far.size() * kPageSize, rests.memory().size() / 3);
  const load::PageContent content(kSeed);
  alignas(kPageSize) FarReader::Page page;
  for (const FarReader::FarPage& found : far) {
    ASSERT_TRUE(rests.memory().contains(found.address));
    const load::Expectation expected{.address = found.address - rests.memory().start, .version = 1};
    page = found.content;
    ASSERT_TRUE(content.matches(page.data(), expected, load::Thoroughness::kFull))
        << content.describe_mismatch(page.data(), expected).value_or("?");
  }
  EXPECT_GT(reader.far_pages("works").size(), 0u);
  EXPECT_EQ(reader.problem(), "");

  // Another agent must not begin as if nothing were.
  whole.launch();
  EXPECT_EQ(whole.await_end(), 1);
  EXPECT_NE(whole.log().find("of an earlier agent"), std::string::npos) << whole.log();
  EXPECT_GT(waiting_in_userfault(works.pid()), 0u);
}

INSTANTIATE_TEST_SUITE_P(Stores, KilledAgent,
                         testing::Values(Store{"Mapped", "private", {{"pool.embedded.store", "\"mapped\""}}},
                                         Store{"Lz4", "shared", {}},
                                         Store{"Zstd", "private", {{"pool.embedded.codec", "\"zstd\""}}}),
                         [](const auto& store) { return store.param.name; });

TEST(EndingAgent, BringsEverythingHomeFirst) {
  REQUIRE_AGENT();
  Whole whole;
  ASSERT_TRUE(whole.start());
  Target target(load({"--memory", "private", "--discard"}));
  Target rests(resting("shared"));
  ASSERT_TRUE(target.ready() && rests.ready());
  const ProcessState before = settled_state(target.pid());
  const ProcessState rests_before = settled_state(rests.pid());
  ASSERT_TRUE(whole.adopt(target.pid(), "load", target.memory()));
  ASSERT_TRUE(whole.adopt(rests.pid(), "rests", rests.memory()));
  whole.limit("load", Bytes{target.memory().size() / 10});
  whole.limit("rests", Bytes{0});
  ASSERT_TRUE(whole.await_far("rests", Bytes{rests.memory().size() / 3}));
  whole.await_moved("load", Bytes{1u << 20}, Bytes{1u << 20});
  EXPECT_EQ(whole.stop(), 0) << whole.log();
  expect_as_found(target.pid(), before);
  expect_as_found(rests.pid(), rests_before);
  EXPECT_TRUE(whole.held().empty()) << testing::PrintToString(whole.held());
  target.finish();
  rests.finish();
}

TEST(EndingAgent, StaysWhenWhatIsFarWouldNotFit) {
  REQUIRE_AGENT();
  Whole whole;
  ASSERT_TRUE(whole.start());
  Target rests(resting("private"));
  ASSERT_TRUE(rests.ready());
  ASSERT_TRUE(whole.adopt(rests.pid(), "rests", rests.memory()));
  whole.limit("rests", Bytes{0});
  ASSERT_TRUE(whole.await_far("rests", Bytes{rests.memory().size() / 3}));
  // As if something else had taken the host's memory.
  whole.write_settings({{"safety.host_reserve", "\"99%\""}});
  whole.reload();
  const std::string plan = whole.expect({"host", "evacuate", "--plan", "-o", "json"}, 3);
  EXPECT_NE(plan.find("shortfall_bytes"), std::string::npos) << plan;
  ::kill(whole.pid(), SIGTERM);
  EXPECT_TRUE(await([&] { return whole.log().find("refusing to stop") != std::string::npos; })) << whole.log();
  EXPECT_NE(whole.log().find("is missing, and with it this would take about"), std::string::npos) << whole.log();
  EXPECT_TRUE(whole.running());
  EXPECT_TRUE(whole.has("rests"));
  whole.write_settings({{"safety.host_reserve", "\"64MiB\""}});
  whole.reload();
  EXPECT_EQ(whole.stop(), 0);
  rests.finish();
}

TEST(EndingAgent, GivesNothingUpForAProcessThatIsStopped) {
  REQUIRE_AGENT();
  Whole whole;
  ASSERT_TRUE(whole.start());
  Target stopped(load({"--memory", "private"}));
  Target works(load({"--memory", "private", "--threads", "2"}, Bytes{32ull << 20}));
  ASSERT_TRUE(stopped.ready() && works.ready());
  ASSERT_TRUE(whole.adopt(stopped.pid(), "stopped", stopped.memory()));
  ASSERT_TRUE(whole.adopt(works.pid(), "works", works.memory()));
  whole.limit("stopped", Bytes{stopped.memory().size() / 10});
  whole.limit("works", Bytes{works.memory().size() / 10});
  whole.await_moved("stopped", Bytes{1u << 20}, Bytes{});
  // In the middle of its drops: they cannot go on, and those of the other must.
  stopped.signal(SIGSTOP);
  for (int round = 0; round < 3; ++round) whole.await_moved("works", Bytes{1u << 20}, Bytes{1u << 20});
  EXPECT_TRUE(whole.release("works"));
  works.finish();
  Target other(load({"--memory", "shared", "--threads", "2"}, Bytes{32ull << 20}));
  ASSERT_TRUE(whole.adopt(other.pid(), "other", other.memory()));
  whole.limit("other", Bytes{other.memory().size() / 10});
  whole.await_moved("other", Bytes{1u << 20}, Bytes{1u << 20});
  stopped.signal(SIGCONT);
  whole.await_moved("stopped", Bytes{1u << 20}, Bytes{1u << 20});
  EXPECT_EQ(whole.stop(), 0);
  stopped.finish();
  other.finish();
}

TEST(FrozenHost, MovesNothingUntilItThaws) {
  REQUIRE_AGENT();
  Whole whole;
  ASSERT_TRUE(whole.start());
  Target target(load({"--memory", "private"}));
  ASSERT_TRUE(target.ready());
  ASSERT_TRUE(whole.adopt(target.pid(), "load", target.memory()));
  whole.limit("load", Bytes{target.memory().size() / 10});
  whole.await_moved("load", Bytes{1u << 20}, Bytes{1u << 20});
  whole.expect({"host", "freeze"}, 0);
  // What was committed is finished; after that only what is touched comes home, until all of it has.
  EXPECT_TRUE(await([&] { return whole.figure("load", "moving_out_bytes") == 0; }));
  const std::uint64_t out = whole.figure("load", "demoted_bytes_total");
  EXPECT_TRUE(await([&] { return whole.figure("load", "far_bytes") == 0; }));
  EXPECT_EQ(whole.figure("load", "demoted_bytes_total"), out);
  whole.expect({"host", "thaw"}, 0);
  whole.await_moved("load", Bytes{1u << 20}, Bytes{1u << 20});
  whole.expect({"host", "evacuate", "--yes"}, 0);
  EXPECT_EQ(whole.figure("load", "far_bytes"), 0u);
  EXPECT_EQ(whole.stop(), 0);
  target.finish();
}

}  // namespace
}  // namespace tidepool::tests
