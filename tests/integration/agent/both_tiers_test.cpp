// VMs whose private memory goes to the pool and to the kernel's compressed swap, against a zram device of the test's
// own. Every byte of the targets' memory is checked by themselves.
#include <gtest/gtest.h>
#include <signal.h>

#include <boost/json.hpp>
#include <random>
#include <thread>

#include "kmod-interfaces/process.h"
#include "tests/integration/agent/whole_rig.h"
#include "tests/integration/memd/memd_process.h"
#include "tests/support/zram_swap.h"

namespace tidepool::tests {
namespace {

using namespace literals;
using namespace std::chrono_literals;
namespace json = boost::json;
using pool::server::testing::MemdProcess;

constexpr Bytes kMemory = 64_MiB;
constexpr Bytes kMiB = 1_MiB;

Bytes swapped_of(pid_t pid) {
  const auto process = kernel::Process::open({}, pid);
  const auto status = process ? process->status() : Result<kernel::ProcessStatus>(Failure{process.error()});
  EXPECT_TRUE(status);
  return status ? status->swapped : Bytes{};
}

struct Kind {
  const char* name;
  Words load;
  bool stops = false;  // SIGSTOP and SIGCONT at random
  Settings settings{};
};

void PrintTo(const Kind& kind, std::ostream* out) {
  *out << kind.name;
}

Bytes in_pool(const Whole& agent) {
  return saturating_sub(Bytes{agent.figure("load", "far_bytes")}, Bytes{agent.figure("load", "far_swapped_bytes")});
}

// With less room in swap than has to go, both fill up, and what comes home from one may go to the other.
class BothTiers : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    REQUIRE_AGENT();
    if (!zram_.missing().empty()) GTEST_SKIP() << "no zram swap: " << zram_.missing();
  }

  ZramSwap zram_{24_MiB};
};

TEST_P(BothTiers, LoseNothingWhileEverythingMovesOutAndBack) {
  const Kind& kind = GetParam();
  Whole agent(merciless(kind.settings));
  ASSERT_TRUE(agent.start());
  Target target(load(kind.load, kMemory));
  ASSERT_TRUE(target.ready());
  const ProcessState before = settled_state(target.pid());
  ASSERT_TRUE(agent.adopt(target.pid(), "load", target.memory()));
  agent.limit("load", Bytes{target.memory().size() / 8});
  Bytes most_swapped;
  Bytes most_in_pool;
  const auto look = [&] {
    most_swapped = std::max(most_swapped, swapped_of(target.pid()));
    most_in_pool = std::max(most_in_pool, in_pool(agent));
    return most_swapped > 4_MiB && most_in_pool > 4_MiB;
  };
  churn(target, kind.stops, look);
  EXPECT_TRUE(await(look)) << "in swap " << most_swapped.value << ", in the pool " << most_in_pool.value;
  agent.await_moved("load", kMiB, kMiB);
  std::printf("in swap %.1f MiB, in the pool %.1f MiB, out %.1f MiB, home %.1f MiB\n",
              static_cast<double>(most_swapped.value) / (1 << 20), static_cast<double>(most_in_pool.value) / (1 << 20),
              static_cast<double>(agent.figure("load", "demoted_bytes_total")) / (1 << 20),
              static_cast<double>(agent.figure("load", "promoted_bytes_total")) / (1 << 20));
  if (agent.release("load")) expect_as_found(target.pid(), before);
  target.finish();
  std::printf("%s", target.output().c_str());
  EXPECT_EQ(agent.stop(), 0);
  EXPECT_TRUE(agent.held().empty()) << testing::PrintToString(agent.held());
}

INSTANTIATE_TEST_SUITE_P(
    Memory, BothTiers,
    testing::Values(
        Kind{"Private", {"--memory", "private", "--huge", "off"}},
        Kind{"PrivateHuge", {"--memory", "private", "--huge", "on"}},
        Kind{"PrivateDiscarding", {"--memory", "private", "--huge", "off", "--discard"}},
        Kind{"PrivateStopped", {"--memory", "private", "--discard"}, true},
        Kind{"PrivateMapped", {"--memory", "private", "--discard"}, false, {{"pool.embedded.store", "\"mapped\""}}}),
    [](const auto& kind) { return kind.param.name; });

// With a pool that takes no DRAM of this host, which makes it worth going there.
class TwoPlaces : public testing::Test {
 protected:
  void SetUp() override {
    REQUIRE_AGENT();
    if (!zram_.missing().empty()) GTEST_SKIP() << "no zram swap: " << zram_.missing();
    ASSERT_TRUE(first_.start() && second_.start());
  }
  static std::string section(const MemdProcess& server, const std::string& name) {
    return "{name = \"" + name + "\", address = \"" + server.unix_address() + "\", failure_domain = \"" + name +
           "\", key_file = \"" + server.key_file() + "\"}";
  }
  Settings over_servers(const Settings& more = {}) const {
    Settings settings =
        merciless({{"pool.servers.capacity", "\"256MiB\""},
                   {"pool.servers.slice", "\"4MiB\""},
                   {"memory_server", "[" + section(first_, "first") + ", " + section(second_, "second") + "]"}});
    for (const auto& [key, value] : more) settings[key] = value;
    return settings;
  }
  // Every page is used now and then: often enough for the kernel's tier, were there room for all.
  Words seldom_used() const {
    return load({"--memory", "private", "--huge", "off", "--threads", "2", "--rate", "2000"}, kMemory);
  }

  ZramSwap zram_{512_MiB};
  MemdProcess first_{{{"name", "\"first\""}, {"memory.capacity", "\"256MiB\""}}};
  MemdProcess second_{{{"name", "\"second\""}, {"memory.capacity", "\"256MiB\""}}};
};

TEST_F(TwoPlaces, AreBothUsedAndWhatIsUsedTooSeldomGoesOn) {
  Whole agent(over_servers());
  ASSERT_TRUE(agent.start());
  Target target(seldom_used());
  ASSERT_TRUE(target.ready());
  const ProcessState before = settled_state(target.pid());
  ASSERT_TRUE(agent.adopt(target.pid(), "load", target.memory()));
  agent.limit("load", 12_MiB);
  ASSERT_TRUE(await([&] { return swapped_of(target.pid()) > 8_MiB; })) << json::serialize(agent.show("load"));
  // The account is the kernel's own.
  EXPECT_TRUE(await([&] {
    const Bytes told{agent.figure("load", "far_swapped_bytes")};
    const Bytes seen = swapped_of(target.pid());
    return told + kMiB >= seen && seen + kMiB >= told;
  }));
  EXPECT_TRUE(await([&] {
    return agent.expect({"decisions", "--vm", "load"}, 0).find("deeper") != std::string::npos;
  })) << agent.expect({"decisions", "--vm", "load"}, 0);
  EXPECT_TRUE(await([&] { return in_pool(agent) > 8_MiB; })) << json::serialize(agent.show("load"));
  EXPECT_NE(agent.expect({"explain", "load"}, 0).find("kernel's tier"), std::string::npos);
  // What both hold comes home.
  ASSERT_TRUE(agent.release("load"));
  EXPECT_LT(swapped_of(target.pid()), kMiB);
  expect_as_found(target.pid(), before);
  target.finish();
}

TEST_F(TwoPlaces, ComeHomeFromBothWhenTheHostIsEvacuated) {
  Whole agent(over_servers());
  ASSERT_TRUE(agent.start());
  Target target(seldom_used());
  ASSERT_TRUE(target.ready());
  ASSERT_TRUE(agent.adopt(target.pid(), "load", target.memory()));
  agent.limit("load", 12_MiB);
  ASSERT_TRUE(await([&] { return swapped_of(target.pid()) > 8_MiB; }));
  agent.expect({"host", "evacuate", "--yes"}, 0);
  EXPECT_LT(swapped_of(target.pid()), kMiB);
  EXPECT_EQ(agent.figure("load", "far_bytes"), 0u);
  ASSERT_TRUE(agent.release("load"));
  target.finish();
}

TEST_F(TwoPlaces, AreOneWhereTheOperatorSaysSo) {
  Whole agent(over_servers({{"pool.kernel.beside_pool", "false"}}));
  ASSERT_TRUE(agent.start());
  Target target(seldom_used());
  ASSERT_TRUE(target.ready());
  ASSERT_TRUE(agent.adopt(target.pid(), "load", target.memory()));
  agent.limit("load", 12_MiB);
  ASSERT_TRUE(agent.await_far("load", 24_MiB));
  EXPECT_EQ(swapped_of(target.pid()), Bytes{});
  EXPECT_EQ(agent.figure("load", "far_swapped_bytes"), 0u);
  ASSERT_TRUE(agent.release("load"));
  target.finish();
}

// Forks, moves and unmaps what is in swap, and what is far, alike.
class ChangingBetweenTwoPlaces : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    REQUIRE_AGENT();
    if (!zram_.missing().empty()) GTEST_SKIP() << "no zram swap: " << zram_.missing();
  }

  ZramSwap zram_{24_MiB};
};

TEST_P(ChangingBetweenTwoPlaces, LosesNothing) {
  Whole agent(merciless());
  ASSERT_TRUE(agent.start());
  const unsigned seed = std::random_device{}();
  std::printf("seed %u\n", seed);
  Words words{std::string(TIDEPOOL_BINARY_DIR) + "/tests/changing_target",
              "private",
              std::to_string(seed),
              "quiet",
              "discard",
              "spawn"};
  words.emplace_back(GetParam());
  Target target(words);
  ASSERT_TRUE(target.ready());
  ASSERT_TRUE(agent.adopt(target.pid(), "load", {}, {"--mapping", "private"}));
  target.signal(SIGUSR2);
  agent.limit("load", 4_MiB);
  EXPECT_TRUE(await([&] { return agent.figure("load", "far_swapped_bytes") > 0; }));
  std::this_thread::sleep_for(churn_time(3s));
  agent.release("load");
  target.finish();
  std::printf("%s", target.output().c_str());
  EXPECT_EQ(agent.stop(), 0);
}

INSTANTIATE_TEST_SUITE_P(Processes, ChangingBetweenTwoPlaces, testing::Values("fork", "move", "unmap"),
                         [](const auto& what) { return std::string(what.param); });

}  // namespace
}  // namespace tidepool::tests
