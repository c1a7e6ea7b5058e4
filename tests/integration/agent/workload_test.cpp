// Workloads whose memory the kernel moves on the agent's word, against a zram device of the test's own. Every byte of
// the targets' memory is checked by themselves.
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <fstream>

#include "kmod-interfaces/process.h"
#include "tests/integration/agent/whole_rig.h"
#include "tests/support/http_get.h"
#include "tests/support/limited_group.h"
#include "tests/support/zram_swap.h"

namespace tidepool::tests {
namespace {

using namespace literals;
namespace json = boost::json;

constexpr Bytes kMemory = 64_MiB;
constexpr Bytes kMiB = 1_MiB;

// Private memory, of which a few threads use pages at a moderate rate: most of it is cold for a while.
Words private_load(const Words& more = {}) {
  Words words = load({"--memory", "private", "--huge", "off", "--threads", "2", "--rate", "400"}, kMemory);
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

Words by_kernel(const Words& more = {}) {
  Words words{"--mechanism", "kernel"};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

kernel::ProcessStatus status_of(pid_t pid) {
  const auto process = kernel::Process::open({}, pid);
  const auto status = process ? process->status() : Result<kernel::ProcessStatus>(Failure{process.error()});
  EXPECT_TRUE(status);
  return status.value_or(kernel::ProcessStatus{});
}

class Workloads : public testing::Test {
 protected:
  void SetUp() override {
    REQUIRE_AGENT();
    if (!zram_.missing().empty()) GTEST_SKIP() << "no zram swap: " << zram_.missing();
  }

  ZramSwap zram_{512_MiB};
};

class WorkloadsWithoutSwap : public testing::Test {
 protected:
  void SetUp() override {
    REQUIRE_AGENT();
    std::ifstream swaps("/proc/swaps");
    std::string line;
    std::getline(swaps, line);
    if (std::getline(swaps, line)) GTEST_SKIP() << "this host has swap: " << line;
  }
};

TEST_F(WorkloadsWithoutSwap, AreRefusedWithTheReasonAndTheRemedy) {
  Target target(private_load());
  ASSERT_TRUE(target.ready());
  Whole agent;
  ASSERT_TRUE(agent.start());
  const Words words{"vm", "adopt", "--pid", std::to_string(target.pid()), "--mechanism", "kernel"};
  Words check = words;
  check.emplace_back("--check");
  const std::string told = agent.expect(check, 3);
  EXPECT_NE(told.find("no-swap"), std::string::npos) << told;
  EXPECT_NE(told.find("zram"), std::string::npos) << told;
  EXPECT_EQ(agent.tidectl(words).code, 3);
  EXPECT_EQ(agent.kernel_tier().at("kind"), "none");
  target.finish();
}

TEST_F(Workloads, GoToTheTierAndComeHomeByteForByteWithNothingPlacedInThem) {
  Target target(private_load());
  ASSERT_TRUE(target.ready());
  const int port = free_port();
  Whole agent(merciless({{"api.metrics", "\"127.0.0.1:" + std::to_string(port) + "\""}}));
  ASSERT_TRUE(agent.start());
  const ProcessState before = settled_state(target.pid());
  const auto held = agent.held();  // the pool's own
  ASSERT_TRUE(agent.adopt(target.pid(), "load", {}, by_kernel()));
  EXPECT_EQ(json::value_to<std::string>(agent.show("load").at("mechanism")), "kernel");
  EXPECT_EQ(agent.held(), held) << "nothing of it needs anybody who outlives the agent";
  agent.limit("load", 24_MiB);
  ASSERT_TRUE(agent.await_far("load", 30_MiB));
  // What the agent says is what the kernel says.
  EXPECT_TRUE(await([&] {
    const Bytes swapped = status_of(target.pid()).swapped;
    const Bytes far{agent.figure("load", "far_bytes")};
    return swapped + kMiB >= far && far + kMiB >= swapped;
  })) << status_of(target.pid()).swapped.value
      << " " << agent.figure("load", "far_bytes");
  expect_as_found(target.pid(), before);
  // Pages come back because they are used, and go again.
  ASSERT_TRUE(agent.await_moved("load", 8_MiB, 4_MiB));
  EXPECT_GT(agent.figure("load", "faults_total"), 0u);
  EXPECT_TRUE(await([&] { return agent.kernel_tier().at("fault_cost_ns").to_number<std::uint64_t>() > 0; }));
  const json::object tier = agent.kernel_tier();
  EXPECT_EQ(tier.at("kind"), "zram");
  EXPECT_EQ(tier.at("refused"), "");
  EXPECT_GT(tier.at("dram_bytes").to_number<std::uint64_t>(), 0u);
  // Its DRAM is counted as ours.
  const json::object host = json::parse(agent.expect({"host", "show", "-o", "json"}, 0)).as_object();
  EXPECT_GT(host.at("overhead").as_object().at("kernel_bytes").to_number<std::uint64_t>(), 0u);
  const std::string metrics = http_get(port, "/metrics");
  EXPECT_GT(metric_value(metrics, "tidepool_kernel_tier_fault_seconds"), 0.0);
  EXPECT_GT(metric_value(metrics, R"(tidepool_host_overhead_bytes{component="kernel"})"), 0.0);
  EXPECT_GT(metric_value(metrics, R"(tidepool_store_used_bytes{store="zram"})"), 0.0);
  EXPECT_NE(agent.expect({"explain", "load"}, 0).find("estimate"), std::string::npos);

  ASSERT_TRUE(agent.release("load"));
  EXPECT_FALSE(agent.has("load"));
  EXPECT_LT(status_of(target.pid()).swapped, kMiB);
  expect_as_found(target.pid(), before);
  target.finish();
}

TEST_F(Workloads, StayWhereTheyAreInObserveModeHeldAndFrozen) {
  Target target(private_load());
  ASSERT_TRUE(target.ready());
  Whole agent;
  ASSERT_TRUE(agent.start());
  agent.expect({"vm", "adopt", "--pid", std::to_string(target.pid()), "--name", "load", "--mechanism", "kernel",
                "--mode", "observe"},
               0);
  ASSERT_TRUE(await([&] { return !agent.expect({"decisions", "--vm", "load"}, 0).empty(); }));
  EXPECT_EQ(status_of(target.pid()).swapped, Bytes{});
  agent.expect({"vm", "hold", "load"}, 0);
  agent.expect({"vm", "set", "load", "--mode", "active", "--limit", "16MiB"}, 0);
  ASSERT_TRUE(await([&] { return agent.expect({"decisions", "--vm", "load"}, 0).find("held") != std::string::npos; }));
  EXPECT_EQ(status_of(target.pid()).swapped, Bytes{});
  agent.expect({"host", "freeze"}, 0);
  agent.expect({"vm", "unhold", "load"}, 0);
  ASSERT_TRUE(await([&] {
    return agent.expect({"decisions", "--vm", "load"}, 0).find("frozen") != std::string::npos;
  }));
  EXPECT_EQ(status_of(target.pid()).swapped, Bytes{});
  agent.expect({"host", "thaw"}, 0);
  ASSERT_TRUE(agent.await_far("load", 16_MiB));
  agent.expect({"host", "evacuate", "--yes"}, 0);
  EXPECT_LT(status_of(target.pid()).swapped, kMiB);
  EXPECT_TRUE(agent.release("load"));
  target.finish();
}

// The kernel serves every page, whoever is there.
TEST_F(Workloads, NeedNobodyWhenTheAgentIsKilled) {
  Target target(private_load());
  ASSERT_TRUE(target.ready());
  Whole agent;
  ASSERT_TRUE(agent.start());
  ASSERT_TRUE(agent.adopt(target.pid(), "load", {}, by_kernel()));
  agent.limit("load", 24_MiB);
  ASSERT_TRUE(agent.await_far("load", 30_MiB));
  agent.kill_agent();
  const Bytes far = status_of(target.pid()).swapped;
  EXPECT_GT(far, 16_MiB);
  // Its threads go on, and bring back what they use.
  EXPECT_TRUE(await([&] { return status_of(target.pid()).swapped + 2_MiB < far; }));
  // A successor can adopt it again.
  ASSERT_TRUE(agent.start());
  ASSERT_TRUE(agent.adopt(target.pid(), "load", {}, by_kernel()));
  EXPECT_TRUE(agent.release("load"));
  target.finish();
}

TEST_F(Workloads, OfAControlGroupAreAllItsProcessesThoseThatComeLaterToo) {
  LimitedGroup group;
  if (!group.missing().empty()) GTEST_SKIP() << group.missing();
  const auto inside = [&](Words words) {
    words.front() = std::string(TIDEPOOL_BINARY_DIR) + "/bin/" + words.front();
    return group.inside(words);
  };
  Target first(inside(private_load()));
  ASSERT_TRUE(first.ready());
  const auto process = kernel::Process::open({}, first.pid());
  ASSERT_TRUE(process);
  std::string path;
  const auto memberships = process->cgroups();
  ASSERT_TRUE(memberships);
  for (const auto& each : *memberships) {
    if (each.path.size() > path.size()) path = each.path;
  }
  Whole agent;
  ASSERT_TRUE(agent.start());
  const Words adopt{"vm",     "adopt",  "--cgroup", path,          "--name", "group",
                    "--mode", "active", "--yes",    "--mechanism", "kernel"};
  agent.expect(adopt, 0);
  EXPECT_EQ(agent.tidectl(adopt).code, 1) << "it is adopted already";
  const std::uint64_t promised = agent.figure("group", "promised_bytes");
  {
    Target second(inside(private_load()));
    ASSERT_TRUE(second.ready());
    EXPECT_TRUE(
        await([&] { return agent.figure("group", "promised_bytes") >= promised + kMemory.value / slowness(); }));
    agent.limit("group", 48_MiB);
    EXPECT_TRUE(await([&] {
      return status_of(first.pid()).swapped > 4_MiB && status_of(second.pid()).swapped > 4_MiB;
    })) << json::serialize(agent.show("group"));
    second.finish();
  }
  EXPECT_TRUE(await([&] { return agent.figure("group", "promised_bytes") < promised + kMemory.value / 2; }));
  first.finish();
  // With its last process the group is empty, and stays adopted until it is gone.
  EXPECT_TRUE(await([&] { return agent.figure("group", "promised_bytes") == 0; }));
  agent.tidectl({"vm", "release", "group"});
  EXPECT_FALSE(agent.has("group"));
}

TEST_F(Workloads, ThatEndAreForgotten) {
  Target target(private_load());
  ASSERT_TRUE(target.ready());
  Whole agent;
  ASSERT_TRUE(agent.start());
  ASSERT_TRUE(agent.adopt(target.pid(), "load", {}, by_kernel()));
  agent.limit("load", 24_MiB);
  ASSERT_TRUE(agent.await_far("load", 8_MiB));
  target.signal(SIGKILL);
  target.wait();
  EXPECT_TRUE(await([&] { return !agent.has("load"); }));
  EXPECT_NE(agent.expect({"vm", "events", "load"}, 0).find("the process ended"), std::string::npos);
}

TEST_F(Workloads, ThatMakeNoSenseAreRefused) {
  // Not beside a thread's stack, which the pager would leave alone together with it.
  Target target(load({"--memory", "private", "--threads", "2", "--rate", "400"}, kMemory));
  ASSERT_TRUE(target.ready());
  Whole agent;
  ASSERT_TRUE(agent.start());
  const auto adopt = [&](pid_t pid) {
    return agent.tidectl({"vm", "adopt", "--pid", std::to_string(pid), "--mechanism", "kernel"});
  };
  EXPECT_EQ(adopt(4194303).code, 1);
  const Outcome thread = adopt(2);  // kthreadd
  EXPECT_EQ(thread.code, 3) << thread.all();
  EXPECT_NE(thread.all().find("kernel thread"), std::string::npos) << thread.all();
  EXPECT_EQ(adopt(agent.pid()).code, 3);
  EXPECT_EQ(adopt(agent.keeper()).code, 3);
  EXPECT_EQ(agent.tidectl({"vm", "adopt", "--cgroup", "/no/such/group", "--mechanism", "kernel"}).code, 2);
  EXPECT_EQ(agent.tidectl({"vm", "adopt", "--pid", "7", "--mechanism", "magic"}).code, 2);
  const std::string pid = std::to_string(target.pid());
  EXPECT_EQ(agent.tidectl({"vm", "adopt", "--pid", pid, "--mechanism", "kernel", "--mapping", "all"}).code, 2);
  // Twice, by either mechanism, in either order.
  ASSERT_TRUE(agent.adopt(target.pid(), "load", {}, by_kernel()));
  const Outcome again = adopt(target.pid());
  EXPECT_EQ(again.code, 1);
  EXPECT_NE(again.all().find("adopted already, as load"), std::string::npos) << again.all();
  EXPECT_EQ(agent.tidectl({"vm", "adopt", "--pid", pid}).code, 1);
  ASSERT_TRUE(agent.release("load"));
  ASSERT_TRUE(agent.adopt(target.pid(), "load", target.memory()));
  EXPECT_EQ(adopt(target.pid()).code, 1);
  ASSERT_TRUE(agent.release("load"));
  target.finish();
}

TEST_F(Workloads, ForWhichTheTierHasNoRoomKeepTheirMemory) {
  zram_.limit(2_MiB);
  Target target(private_load());
  ASSERT_TRUE(target.ready());
  Whole agent;
  ASSERT_TRUE(agent.start());
  ASSERT_TRUE(agent.adopt(target.pid(), "load", {}, by_kernel()));
  agent.limit("load", 8_MiB);
  ASSERT_TRUE(await([&] {
    return agent.expect({"decisions", "--vm", "load"}, 0).find("pool-full") != std::string::npos;
  })) << agent.expect({"decisions", "--vm", "load"}, 0);
  EXPECT_GT(agent.figure("load", "resident_bytes"), (32_MiB).value / slowness());
  ASSERT_TRUE(agent.release("load"));
  target.finish();
}

}  // namespace
}  // namespace tidepool::tests
